package recipes

import (
	"fmt"
	"net"
	"net/http"
	"net/http/fcgi"
	"strings"
	"testing"

	"github.com/ea766355/caddy-sse/e2e"
)

// newLoginApp returns an app with one user, who has a cookie and may get the events of one room.
func newLoginApp(t *testing.T) *stub {
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

// loginSite returns the Caddyfile of docs/auth.md to which other pages refer.
func loginSite(t *testing.T) string {
	t.Helper()
	return take(t, recipes(t, "auth.md"), "forward_auth")
}

// serveFastCGI serves the app over FastCGI too, as php-fpm does, and returns its address.
func serveFastCGI(t *testing.T, app *stub) (addr string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = fcgi.Serve(listener, app.Config.Handler) // until the listener is closed
	}()
	t.Cleanup(func() {
		listener.Close()
		<-served
	})
	return listener.Addr().String()
}

// TestBesideAnApp: each Caddyfile of the page serves its stream to the right users, and the other
// paths of its site.
func TestBesideAnApp(t *testing.T) {
	page := recipes(t, "beside-an-app.md")
	app := newLoginApp(t)
	files := t.TempDir()
	write(t, files, "index.html", "the page")

	tests := map[string]struct {
		host, path string            // of the stream
		rest       map[string]string // responses of other paths
	}{
		"proxy":       {"example.com", "/events", map[string]string{"/": "/ from the app", "/events/x": "/events/x from the app"}},
		"spa":         {"example.com", "/events", map[string]string{"/": "the page", "/deep/link": "the page", "/api/x": "/api/x from the app"}},
		"prefix":      {"example.com", "/api/events", map[string]string{"/": "the page", "/api/x": "/x from the app"}},
		"route":       {"example.com", "/events", map[string]string{"/": "/ from the app"}},
		"php_fastcgi": {"example.com", "/events", map[string]string{"/x": "/x from the app"}},
		"hosts":       {"events.example.com", "/events", nil},
	}
	var text strings.Builder
	ports := make(map[string]int)
	page["hosts"] = take(t, recipes(t, "http-versions.md"), "host") // to which the page refers
	for name := range tests {
		ports[name] = e2e.FreePort(t)
		site := take(t, page, name)
		if name == "php_fastcgi" {
			site = replace(t, site, "unix//run/php/php-fpm.sock", serveFastCGI(t, app))
		}
		text.WriteString(localize(site, app.addr(), ports[name], files))
	}

	wantAllTaken(t, page)

	server := serve(t, "", text.String())
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			v := visitor{t: t, base: fmt.Sprintf("https://%s:%d", test.host, ports[name])}
			b := server
			b.t = t
			v.refused(test.path, http.StatusUnauthorized)
			v.refused(test.path, http.StatusUnauthorized, "X-SSE-User", "alice")
			v.cookie = "session=of-alice"
			v.refused(test.path+"?topic=room/2", http.StatusForbidden)
			s := v.open(test.path, "alice", "Origin", "https://app.example.com", "Accept-Encoding", "gzip")
			b.send(`"topic":"room/2"`, "for another room")
			b.send(`"topic":"room/1"`, "hello")
			s.expect("", "hello")
			for path, want := range test.rest {
				if resp, body := v.answer(path); resp.StatusCode != http.StatusOK || body != want {
					t.Errorf("%s: got %s %q, want 200 %q", path, resp.Status, body, want)
				}
			}
			if name == "hosts" {
				checkHosts(t, s, ports[name])
			}
			s.close()
			b.wait(0)
		})
	}
}

// checkHosts checks the headers that a browser needs from the site with the streams, and that only
// this site is without HTTP/2.
func checkHosts(t *testing.T, s *stream, port int) {
	t.Helper()
	if got := s.resp.Header.Get("Access-Control-Allow-Origin"); got != "https://app.example.com" || s.resp.Header.Get("Access-Control-Allow-Credentials") != "true" {
		t.Errorf("CORS headers of the stream: got %v, want those for pages of the app", s.resp.Header)
	}
	resp, body := visitor{t: t, base: fmt.Sprintf("https://app.example.com:%d", port)}.answer("/")
	if body != "/ from the app" {
		t.Errorf("response of the app: got %q, want %q", body, "/ from the app")
	}
	if s.resp.ProtoMajor != 1 || resp.ProtoMajor != 2 {
		t.Errorf("protocols of the stream and the page: got %s and %s, want HTTP/1.1 and HTTP/2", s.resp.Proto, resp.Proto)
	}
}
