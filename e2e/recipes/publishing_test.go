package recipes

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ea766355/caddy-sse/e2e"
)

// languages are the languages of the page: the file of testdata that the recipe becomes a part of,
// if there is one, the name of the program, and the command to run it.
var languages = map[string]struct {
	frame, file string
	run         []string
}{
	"python": {"", "publish.py", []string{"/usr/bin/python3", "$file"}},
	"php":    {"", "publish.php", []string{"php", "$file"}},
	"ruby":   {"", "publish.rb", []string{"ruby", "$file"}},
	"node":   {"", "publish.mjs", []string{"node", "$file"}},
	"curl":   {"", "publish.sh", []string{"sh", "-e", "$file"}},
	"go":     {"publish.go.txt", "publish.go", []string{"go", "run", "$file"}},
	"java":   {"Publish.java", "Publish.java", []string{"java", "$file"}},
}

// unreliableProxy is a proxy in front of the API. It refuses the first request like a server whose
// store is unreachable, loses the response of the second, and passes the others. A reliable one
// passes all.
type unreliableProxy struct {
	*httptest.Server
	mu       sync.Mutex
	requests int
}

func newProxy(t *testing.T, admin string, reliable bool) *unreliableProxy {
	w := new(unreliableProxy)
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(&url.URL{Scheme: "http", Host: admin})
		if r.In.Header.Get("Origin") == "http://"+w.addr() {
			r.Out.Header.Set("Origin", "http://"+admin)
		}
	}}
	w.Server = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		w.requests++
		n := w.requests
		w.mu.Unlock()
		switch {
		case n == 1 && !reliable:
			rw.Header().Set("Retry-After", "1")
			http.Error(rw, `{"error":"not stored: the store is out of reach","stored":"no"}`, http.StatusServiceUnavailable)
		case n == 2 && !reliable:
			proxy.ServeHTTP(httptest.NewRecorder(), r)
			panic(http.ErrAbortHandler)
		default:
			proxy.ServeHTTP(rw, r)
		}
	}))
	t.Cleanup(w.Close)
	return w
}

func (w *unreliableProxy) addr() string { return w.Listener.Addr().String() }

func (w *unreliableProxy) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.requests
}

// runPublisher runs the code of the page in a language, with an address and a type of events.
func runPublisher(t *testing.T, name, code, addr, event string) (output string, err error) {
	t.Helper()
	language := languages[name]
	text := code
	switch {
	case name == "php":
		text = "<?php\n" + code
	case language.frame != "":
		text = frame(t, language.frame, "RECIPE\n", code)
	}
	host, port, _ := strings.Cut(addr, ":")
	text = strings.NewReplacer("localhost:2019", addr, `"localhost", 2019`, fmt.Sprintf("%q, %s", host, port), "order_update", event).Replace(text)
	if !strings.Contains(text, port) {
		t.Fatalf("recipe: got no admin endpoint, want one:\n%s", code)
	}
	dir := t.TempDir()
	file := write(t, dir, language.file, text)
	args := make([]string, len(language.run))
	for i, arg := range language.run {
		args[i] = strings.ReplaceAll(arg, "$file", file)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestPublishing: the code of the page publishes in each language, and once, although the first
// request is refused and the second has no response. The code does not repeat a request that is
// refused for good, and takes no 200 without a receipt for success.
func TestPublishing(t *testing.T) {
	page := recipes(t, "publishing.md")
	code := make(map[string]string)
	for name := range languages {
		code[name] = take(t, page, name)
	}
	wantAllTaken(t, page)
	for name := range languages {
		t.Run(name, func(t *testing.T) {
			s := e2e.Start(t, e2e.Config{})
			admin := fmt.Sprintf("localhost:%d", s.Admin)
			v := visitorOf(t, s)
			alice, bob := v.open("/events", "alice", "X-User", "alice"), v.open("/events", "bob", "X-User", "bob")

			bad := newProxy(t, admin, false)
			began := time.Now()
			if out, err := runPublisher(t, name, code[name], bad.addr(), "order_update"); err != nil || bad.count() != 3 {
				t.Fatalf("requests and error: got %d and %v, want 3 and none\n%s", bad.count(), err, out)
			}
			t.Logf("it took %s", time.Since(began))
			backend{t, admin}.broadcast("the end")
			alice.expect("order_update", `{"orderId":"123","status":"shipped"}`)
			alice.expect("", "the end")
			bob.expect("", `{"text":"Hello"}`)
			bob.expect("", "the end")

			refused, want := newProxy(t, admin, true), 1
			wrong := code[name]
			if name == "curl" { // curl repeats such a request as well
				wrong, want = strings.Replace(wrong, "--retry 5", "--retry 1", 1), 2
			}
			out, err := runPublisher(t, name, wrong, refused.addr(), "sse.gap")
			if err == nil || refused.count() != want {
				t.Errorf("requests and error of a refused event: got %d and %v, want %d and an error\n%s", refused.count(), err, want, out)
			}

			var requests atomic.Int32
			empty := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { requests.Add(1) }))
			defer empty.Close()
			out, err = runPublisher(t, name, code[name], strings.Replace(empty.Listener.Addr().String(), "127.0.0.1", "localhost", 1), "order_update")
			if name == "curl" { // prints no receipt
				if out != "" {
					t.Errorf("an address that no route serves answered %s", out)
				}
			} else if err == nil || requests.Load() != 1 {
				t.Errorf("an address that no route serves was asked %d times: %v\n%s", requests.Load(), err, out)
			}
		})
	}
}
