package recipes

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ea766355/caddy-sse/e2e"
)

// languages are those of the page: the name of the file of the recipe, and how it is run.
var languages = map[string]struct {
	file string
	run  []string
}{
	"python": {"publish.py", []string{"/usr/bin/python3", "$file"}},
	"php":    {"publish.php", []string{"php", "$file"}},
	"ruby":   {"publish.rb", []string{"ruby", "$file"}},
	"node":   {"publish.mjs", []string{"node", "$file"}},
	"curl":   {"publish.sh", []string{"sh", "-e", "$file"}},
	"go":     {"publish.go", []string{"go", "run", "$file"}},
	"java":   {"Publish.java", []string{"java", "$file"}},
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

// publisher returns a command that runs the code of the page in a language, with an address and a
// type of events. Its folder has receipts, as if curl had run before. It is killed after longestRun.
func publisher(t *testing.T, name, code, addr, event string) *exec.Cmd {
	t.Helper()
	language := languages[name]
	text := code
	if name == "php" {
		text = "<?php\n" + code
	}
	if n := strings.Count(text, "localhost:2019"); n != 1 {
		t.Fatalf("recipe: got %d admin endpoints, want one:\n%s", n, code)
	}
	text = strings.NewReplacer("localhost:2019", addr, "order_update", event).Replace(text)
	dir := t.TempDir()
	write(t, dir, "receipts.ndjson", strings.Repeat(`{"id":"3kq9x2mf-1042-x7d2","connections":1,"earlier":true}`+"\n", 2))
	file := write(t, dir, language.file, text)
	args := make([]string, len(language.run))
	for i, arg := range language.run {
		args[i] = strings.ReplaceAll(arg, "$file", file)
	}
	ctx, cancel := context.WithTimeout(t.Context(), longestRun)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.WaitDelay = e2e.Patience
	cmd.Dir = dir
	return cmd
}

// longestRun is more than the 90 seconds that the page promises, because the machine may be busy.
const longestRun = 10 * time.Minute

// runPublisher runs the command of publisher.
func runPublisher(t *testing.T, name, code, addr, event string) (output string, err error) {
	t.Helper()
	out, err := publisher(t, name, code, addr, event).CombinedOutput()
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
	take(t, page, "outbox") // TestOutbox runs it
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
			if err == nil || requests.Load() == 0 {
				t.Errorf("an address that no route serves was asked %d times, and counts as published\n%s", requests.Load(), out)
			}
		})
	}
}

// TestOutbox: the loop of the page marks an event that is refused, and publishes the events around it
// in order. It marks none while its login is refused.
func TestOutbox(t *testing.T) {
	page := recipes(t, "publishing.md")
	s := e2e.Start(t, e2e.Config{})
	b := backendOf(t, s)
	alice := visitorOf(t, s).open("/events", "alice", "X-User", "alice")
	defer alice.close()

	var requests atomic.Int32
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(&url.URL{Scheme: "http", Host: b.admin}) }}
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if requests.Add(1) <= 4 { // the batch, and each row if they were sent alone
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	defer front.Close()

	file := filepath.Join(t.TempDir(), "app.db")
	table := func(statement string) string {
		t.Helper()
		const program = "import sqlite3, sys\nwith sqlite3.connect(sys.argv[1], timeout=20) as db: print(db.execute(sys.argv[2]).fetchall())"
		out, err := exec.Command("/usr/bin/python3", "-c", program, file, statement).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v: %s", statement, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	const definitions, tries = "def send(rows):", "\npublish("
	publish, _, ok := strings.Cut(take(t, page, "python"), tries)
	if !ok {
		t.Fatal("python: got no call of publish, want some")
	}
	rows := `for n, user in enumerate(["alice", 7, "alice"]):
    db.execute("insert into outbox (key, event) values (?, ?)", (f"key-{n}", json.dumps({"user": user, "text": str(n)})))
`
	stop := runProgram(t, replace(t, publish+"\n"+take(t, page, "outbox"), "localhost:2019", front.Listener.Addr().String(), `"app.db"`, fmt.Sprintf("%q", file), definitions, rows+definitions))
	defer stop()
	alice.expect("", "0")
	alice.expect("", "2")
	e2e.Wait(t, e2e.Patience, "the outbox to hold only the refused row", func() error {
		if got := table("select id, refused from outbox"); !strings.HasPrefix(got, "[(2, ") || !strings.Contains(got, "invalid user 7") {
			return fmt.Errorf("got %s", got)
		}
		return nil
	})
	table(`insert into outbox (key, event) values ('later', '{"user":"alice","text":"later"}')`)
	alice.expect("", "later")
	table(`update outbox set event = '{"user":"alice","text":"corrected"}', refused = null`)
	alice.expect("", "corrected")
}

// TestPublishingTargets: a target is a name or a list of names, * is no wildcard, and an event that is
// sent to /sse/broadcast reaches everyone.
func TestPublishingTargets(t *testing.T) {
	function, _, ok := strings.Cut(take(t, recipes(t, "publishing.md"), "python"), "\npublish(")
	if !ok {
		t.Fatal("python: got no call of publish, want some")
	}
	s := e2e.Start(t, e2e.Config{})
	v := visitorOf(t, s)
	alice, bob := v.open("/events", "alice", "X-User", "alice"), v.open("/events", "bob", "X-User", "bob")
	publish := func(path, call string) {
		t.Helper()
		code := replace(t, function, "/sse/send", path) + "\n" + call
		if out, err := runPublisher(t, "python", code, fmt.Sprintf("localhost:%d", s.Admin), ""); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	publish("/sse/send", `publish({"user": "*", "text": "for the user *"})`)
	publish("/sse/send", `publish({"user": ["alice", "bob"], "text": "for two", "ttl": "10m", "slot": "price"})`)
	publish("/sse/broadcast", `publish({"text": "for all"})`)
	for _, s := range []*stream{alice, bob} {
		s.expect("", "for two")
		s.expect("", "for all")
	}
}

// answer is one answer of a fake server to a batch.
type answer func(w http.ResponseWriter, receipts string)

func status(code int, body string) answer {
	return func(w http.ResponseWriter, _ string) {
		w.WriteHeader(code)
		_, _ = io.WriteString(w, body)
	}
}

// cut breaks the connection after half of the receipts.
func cut(w http.ResponseWriter, receipts string) {
	w.Header().Set("Content-Length", fmt.Sprint(len(receipts)))
	_, _ = io.WriteString(w, receipts[:len(receipts)/2+5])
	w.(http.Flusher).Flush()
	panic(http.ErrAbortHandler)
}

// fake answers the first request with first, and the others with receipts. It counts the
// requests.
func fake(t *testing.T, first answer) (addr string, count *atomic.Int32) {
	count = new(atomic.Int32)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		var receipts strings.Builder
		for range strings.SplitSeq(strings.TrimSpace(string(body)), "\n") {
			receipts.WriteString(`{"id":"3kq9x2mf-1042-x7d2","connections":1}` + "\n")
		}
		if count.Add(1) == 1 {
			first(w, receipts.String())
			return
		}
		_, _ = io.WriteString(w, receipts.String())
	}))
	t.Cleanup(server.Close)
	return server.Listener.Addr().String(), count
}

// TestPublishingFaults: half an answer and an answer without receipts do not count as
// published. What is refused is shown, and not sent again.
func TestPublishingFaults(t *testing.T) {
	page := recipes(t, "publishing.md")
	for name := range languages {
		code := take(t, page, name)
		for _, test := range []struct {
			fault    string
			first    answer
			requests int
			says     string // empty: it publishes
		}{
			{"half an answer", cut, 2, ""},
			{"an empty 200", status(http.StatusOK, ""), 2, ""},
			{"an empty 401", status(http.StatusUnauthorized, ""), 1, "401"},
			{"a refusal", status(http.StatusBadRequest, `{"error":"unknown field uesr"}`), 1, "unknown field uesr"},
		} {
			t.Run(name+", "+test.fault, func(t *testing.T) {
				t.Parallel()
				requests, says, code := test.requests, test.says, code
				if name == "curl" { // it sends again what is refused, and not what has no receipts
					code = strings.Replace(code, "--retry 5", "--retry 0", 1)
					requests = 1
					if test.fault == "half an answer" {
						code = strings.Replace(code, "--retry 0", "--retry 5", 1)
						requests = 2
					}
				}
				addr, count := fake(t, test.first)
				out, err := runPublisher(t, name, code, addr, "order_update")
				if name == "curl" && test.fault == "an empty 200" {
					says = "not published"
				}
				wantError := says != ""
				if n := int(count.Load()); n != requests || (err != nil) != wantError || !strings.Contains(out, says) {
					t.Errorf("after %d requests, want %d: %v\n%s", n, requests, err, out)
				}
			})
		}
	}
}

// TestPublishingWithALogin: with another address in one place and the change of the table, the code of
// each language publishes through an sse_api that has a login.
func TestPublishingWithALogin(t *testing.T) {
	page := recipes(t, "publishing.md")
	text, err := os.ReadFile("../../docs/publishing.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := regexp.MustCompile("(?m)^\\| (\\w+) \\| `(.*)` \\| `([^`]*)`(?:, after `(.*)`)? \\|$").FindAllStringSubmatch(string(text), -1)
	if len(rows) != len(languages) {
		t.Fatalf("the table has %d languages, want %d", len(rows), len(languages))
	}
	s := e2e.Start(t, e2e.Config{Routes: `handle_path /internal/* {
		route {
			@stranger not header Authorization "Basic bmFtZTpwYXNzd29yZA=="
			respond @stranger 401
			sse_api
		}
	}`})
	for _, row := range rows {
		name := strings.ToLower(row[1])
		code := take(t, page, name)
		if !strings.Contains(code, row[2]) {
			t.Fatalf("the code of %s has no %s", name, row[2])
		}
		code = strings.Replace(code, row[2], row[3], 1)
		if row[4] != "" {
			code = row[4] + "\n" + code
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if out, err := runPublisher(t, name, code, fmt.Sprintf("127.0.0.1:%d/internal", s.HTTP), "order_update"); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}
