package recipes

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ea766355/caddy-sse/e2e"
)

// newLogin is an app that knows one user by the cookie, who may see one room.
func newLogin(t *testing.T) *stub {
	s := newStub(t)
	s.answer = func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path != "/events":
			fmt.Fprintf(w, "%s from the app", r.URL.Path)
		case r.Header.Get("Cookie") != "session=of-alice":
			w.WriteHeader(http.StatusUnauthorized)
		default:
			w.Header().Set("X-SSE-User", "alice")
			w.Header().Set("X-SSE-Topics", "room/1")
			w.WriteHeader(http.StatusNoContent)
		}
	}
	return s
}

// TestBesideAnApp: each Caddyfile of the page serves its stream, to whom it is for, and
// the rest of its site.
func TestBesideAnApp(t *testing.T) {
	page := recipes(t, "beside-an-app.md")
	app := newLogin(t)
	files := t.TempDir()
	if err := os.WriteFile(filepath.Join(files, "index.html"), []byte("the page"), 0o600); err != nil {
		t.Fatal(err)
	}

	tests := map[string]struct {
		host, path string            // of the stream
		rest       map[string]string // what other paths answer
	}{
		"proxy":       {"example.com", "/events", map[string]string{"/": "/ from the app", "/events/x": "/events/x from the app"}},
		"spa":         {"example.com", "/events", map[string]string{"/": "the page", "/deep/link": "the page", "/api/x": "/api/x from the app"}},
		"prefix":      {"example.com", "/api/events", map[string]string{"/": "the page", "/api/x": "/x from the app"}},
		"route":       {"example.com", "/events", map[string]string{"/": "/ from the app"}},
		"php_fastcgi": {"example.com", "/events", nil},
		"hosts":       {"events.example.com", "/events", nil},
	}
	var text strings.Builder
	ports := make(map[string]int)
	var all []int
	for name := range tests {
		ports[name] = e2e.FreePort(t)
		all = append(all, ports[name])
		text.WriteString(place(take(t, page, name), app.addr(), ports[name], files))
	}

	// Behind other proxies.
	behind := take(t, page, "behind")
	globals := global.FindStringSubmatch(behind)
	if globals == nil {
		t.Fatal("the Caddyfile behind a proxy has no global options")
	}
	back := e2e.FreePort(t)
	text.WriteString(strings.ReplaceAll(place(strings.TrimPrefix(behind, globals[0]), app.addr(), 0, ""), ":8080", fmt.Sprintf(":%d", back)))
	front := func(name, listens string) string {
		ports[name] = e2e.FreePort(t)
		text := strings.ReplaceAll(take(t, page, name), "localhost:8080", fmt.Sprintf("127.0.0.1:%d", back))
		if !strings.Contains(text, listens) {
			t.Fatalf("%s does not have %q", name, listens)
		}
		return text
	}
	text.WriteString(strings.Replace(front("caddy", "http://"), "http://", fmt.Sprintf("http://:%d", ports["caddy"]), 1))
	nginx := strings.Replace(front("nginx", "listen 80;"), "80;", fmt.Sprintf("127.0.0.1:%d;", ports["nginx"]), 1)
	haproxy := strings.Replace(front("haproxy", "bind :80\n"), ":80\n", fmt.Sprintf("127.0.0.1:%d\n", ports["haproxy"]), 1)
	for name := range page {
		t.Errorf("the recipe %s is not tested", name)
	}

	server := serve(t, globals[1], text.String(), all...)
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			v := visitor{t: t, base: fmt.Sprintf("https://%s:%d", test.host, ports[name])}
			b := server
			b.t = t
			user, topic := "alice", `"topic":"room/1"`
			if name == "php_fastcgi" {
				user, topic = "", ""
			} else {
				v.refused(test.path, http.StatusUnauthorized)
				v.refused(test.path, http.StatusUnauthorized, "X-SSE-User", "alice")
				v.cookie = "session=of-alice"
				v.refused(test.path+"?topic=room/2", http.StatusForbidden)
			}
			s := v.open(test.path, user, "Origin", "https://app.example.com", "Accept-Encoding", "gzip")
			if topic == "" {
				b.broadcast("hello")
			} else {
				b.send(`"topic":"room/2"`, "not hers")
				b.send(topic, "hello")
			}
			s.expect("", "hello")
			for path, want := range test.rest {
				if resp, body := v.answer(path); resp.StatusCode != http.StatusOK || body != want {
					t.Errorf("%s: %s %q, want %q", path, resp.Status, body, want)
				}
			}
			if name == "hosts" {
				checkHosts(t, s, ports[name])
			}
			s.close()
			b.wait(0)
		})
	}

	dir := t.TempDir()
	launch(t, ports["nginx"], "nginx", "-p", dir, "-e", "stderr", "-c", write(t, dir, "nginx.conf", `daemon off;
master_process off;
pid nginx.pid;
events {}
http {
	access_log off;
	client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
`+nginx+"}\n"))
	launch(t, ports["haproxy"], "haproxy", "-db", "-f", write(t, dir, "haproxy.cfg", haproxy))
	for _, name := range []string{"nginx", "haproxy", "caddy"} {
		t.Run("behind "+name, func(t *testing.T) {
			b := server
			b.t = t
			v := visitor{t: t, base: fmt.Sprintf("http://example.com:%d", ports[name]), cookie: "session=of-alice", from: "127.0.0.2"}
			stranger := v
			stranger.cookie = ""
			stranger.refused("/events", http.StatusUnauthorized)
			if _, body := v.answer("/"); body != "/ from the app" {
				t.Errorf("the rest of the site: %s", body)
			}
			// The limit is for a visitor's address, not for the proxy's.
			other := v
			other.from = "127.0.0.3"
			streams := []*stream{v.open("/events", "alice"), v.open("/events", "alice"), other.open("/events", "alice")}
			if _, body := v.answer("/events"); !strings.Contains(body, "event: sse.rejected") {
				t.Errorf("a third stream of one address: %s", body)
			}
			b.send(`"topic":"room/1"`, "hello")
			for _, s := range streams {
				s.expect("", "hello")
				s.close()
			}
			b.wait(0)
		})
	}
}

// checkHosts checks what the browser needs of the site that has the streams, and that
// it alone is without HTTP/2.
func checkHosts(t *testing.T, s *stream, port int) {
	t.Helper()
	if got := s.resp.Header.Get("Access-Control-Allow-Origin"); got != "https://app.example.com" || s.resp.Header.Get("Access-Control-Allow-Credentials") != "true" {
		t.Errorf("the stream is not for pages of the app: %v", s.resp.Header)
	}
	resp, body := visitor{t: t, base: fmt.Sprintf("https://app.example.com:%d", port)}.answer("/")
	if body != "/ from the app" {
		t.Errorf("the app answers %s", body)
	}
	if s.resp.ProtoMajor != 1 || resp.ProtoMajor != 2 {
		t.Errorf("the stream came over %s, the page over %s", s.resp.Proto, resp.Proto)
	}
}

func write(t *testing.T, dir, name, text string) (file string) {
	t.Helper()
	file = filepath.Join(dir, name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}
