package caddysse_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestGuard: if a directive of Caddy denies a request, the directives of this module do not serve
// it, in any order in the Caddyfile.
func TestGuard(t *testing.T) {
	auth := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Cookie") != "login=yes" {
			w.WriteHeader(http.StatusForbidden)
		}
	}))
	defer auth.Close()
	const ours = "\nsse /events {\n anonymous\n}\nsse_api /sse/*\nsse_test /sse-test\n"
	tests := []struct {
		name, denies string // the site, with clients from 192.0.2.0/24 or, else, a login let in
		status       int    // of those outside; 0: they get no answer
		login        []string
	}{
		{"respond", ours + "@outside not client_ip 192.0.2.0/24\nrespond @outside no 403", 403, nil},
		{"respond before them", "@outside not client_ip 192.0.2.0/24\nrespond @outside no 403\n" + ours, 403, nil},
		{"abort", ours + "@outside not client_ip 192.0.2.0/24\nabort @outside", 0, nil},
		{"error", ours + "@outside not client_ip 192.0.2.0/24\nerror @outside 403", 403, nil},
		{"basic_auth", ours + "basic_auth {\n alice " + secretHash + "\n}", 401, []string{"Authorization", "Basic YWxpY2U6c2VjcmV0"}},
		{"forward_auth", ours + "forward_auth " + auth.Listener.Addr().String() + " {\n uri /\n}", 403, []string{"Cookie", "login=yes"}},
		{"handle of those inside", "@inside client_ip 192.0.2.0/24\nhandle @inside {" + ours + "}\nrespond no 403", 403, nil},
		{"handle of those outside", ours + "@outside not client_ip 192.0.2.0/24\nhandle @outside {\n respond no 403\n}", 403, nil},
	}
	requests := []struct{ method, path, body string }{
		{"HEAD", "/events", ""},
		{"GET", "/events", ""},
		{"GET", "/sse/status", ""},
		{"POST", "/sse/broadcast", `{"text":"x"}`},
		{"DELETE", "/sse/connections?all=true", ""},
		{"GET", "/sse-test/", ""},
		{"GET", "/sse-test/config.json", ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := start(t, "servers {\n trusted_proxies static 127.0.0.0/8\n}", test.denies)
			for _, r := range requests {
				outside, inside := attempt(t, s, r.method, r.path, r.body, "X-Forwarded-For", "198.51.100.1"), 0
				if test.login != nil {
					inside = attempt(t, s, r.method, r.path, r.body, test.login...)
				} else {
					inside = attempt(t, s, r.method, r.path, r.body, "X-Forwarded-For", "192.0.2.7")
				}
				if outside != test.status || inside != http.StatusOK {
					t.Errorf("%s %s: %d from outside, want %d; %d from inside", r.method, r.path, outside, test.status, inside)
				}
			}
			if n := s.status("default").Events; n != 1 {
				t.Errorf("%d events, want the one from inside", n)
			}
		})
	}
}

// TestBesideAnApp: a catch-all handle hides the stream, like a reverse_proxy. A stream in its own
// handle is served, and no try_files rewrites its path.
func TestBesideAnApp(t *testing.T) {
	const stream = "sse /events {\n anonymous\n}\n"
	const app = "handle {\n try_files {path} /index.html\n respond app\n}\n"
	s := start(t, "", stream+app)
	if a := do(t, "GET", "http://"+s.http+"/events", ""); a.body != "app" {
		t.Errorf("beside a catch-all: %s", a.body)
	}
	s.mustLoad(s.site("handle /events {\n" + stream + "}\n" + app))
	s.open("/events")
	if a := do(t, "GET", "http://"+s.http+"/", ""); a.body != "app" {
		t.Errorf("the app answers %s", a.body)
	}
}

// attempt makes one request, and returns the status, or 0 without an answer.
func attempt(t *testing.T, s *server, method, path, body string, headers ...string) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), waitLimit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+s.http+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	setHeaders(req, headers)
	resp, err := plain.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			t.Fatal(err)
		}
		return 0
	}
	resp.Body.Close()
	return resp.StatusCode
}
