package caddysse_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	caddysse "github.com/ea766355/caddy-sse"
)

// TestPageListsNoFiles: no spelling of the path lists the files of the page.
func TestPageListsNoFiles(t *testing.T) {
	s := start(t, "", "route {\n sse_test /sse-test\n}")
	for _, path := range []string{"assets/", "assets//", "/assets/", "assets/./", "assets/.", "./assets/", "x/../assets/", "assets/x/..", "assets/%2e", "assets%2f", "assets%2F.", "assets"} {
		resp, err := new(http.Transport).RoundTrip(newRequest(t, "http://"+s.http+"/sse-test/"+path))
		if err != nil {
			t.Fatal(err)
		}
		if body := readAll(t, resp); resp.StatusCode == http.StatusOK || strings.Contains(body, "<pre>") {
			t.Errorf("%s: %d %s", path, resp.StatusCode, body)
		}
	}
}

// TestPageIsNotCached: no spelling of the path makes a cache keep the page, whose files have other
// names after an upgrade.
func TestPageIsNotCached(t *testing.T) {
	s := start(t, "", "route {\n sse_test /sse-test\n}")
	for _, path := range []string{"", "assets/..", "assets/../", "assets/x/../../", "assets/%2e%2e/", "assets%2f..%2f"} {
		resp, err := new(http.Transport).RoundTrip(newRequest(t, "http://"+s.http+"/sse-test/"+path))
		if err != nil {
			t.Fatal(err)
		}
		body, cache := readAll(t, resp), resp.Header.Get("Cache-Control")
		if resp.StatusCode == http.StatusOK && (!strings.Contains(body, "<html") || cache != "no-cache") {
			t.Errorf("%s: got Cache-Control %q, want no-cache, with %s", path, cache, body)
		}
	}
}

// TestPagePath: a path that no request has, such as a pattern, is refused. Other paths serve the page.
func TestPagePath(t *testing.T) {
	for _, path := range []string{"/sse-test/*", "/*", "/", "sse-test", "/a{http.request.host}", "/a?b", "/a#b", "/%61", ""} {
		for door, err := range map[string]error{
			"Provision": (&caddysse.TestPage{Path: path}).Provision(caddy.Context{}),
			"Caddyfile": new(caddysse.TestPage).UnmarshalCaddyfile(caddyfile.NewTestDispenser(fmt.Sprintf("sse_test %q", path))),
		} {
			if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("invalid path %q", path)) {
				t.Errorf("%s of %q: got %v, want an error that names the path", door, path, err)
			}
		}
	}
	s := start(t, "", "sse_test /a-b_c.d~/é/")
	if a := do(t, "GET", "http://"+s.http+"/a-b_c.d~/%C3%A9/", ""); a.status != http.StatusOK || !strings.Contains(a.body, "<html") {
		t.Errorf("%d %s", a.status, a.body)
	}
}

// TestPageOfAnotherHub: with `uri query hub chat` before it, sse_api publishes to the hub chat, for a page that names no hub.
func TestPageOfAnotherHub(t *testing.T) {
	s := start(t, "sse chat", "sse /chat {\n hub chat\n anonymous\n}\nhandle_path /internal/* {\n uri query hub chat\n sse_api\n}")
	for _, query := range []string{"", "?hub=default"} {
		if a := do(t, "POST", "http://"+s.http+"/internal/sse/broadcast"+query, `{"data":1}`, "Content-Type", "application/json"); a.status != http.StatusOK {
			t.Fatalf("%q: %d %s", query, a.status, a.body)
		}
	}
	if events := s.status("chat").Events; events != 2 {
		t.Errorf("events in the hub chat: got %d, want 2", events)
	}
}

func newRequest(t *testing.T, url string) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	return req
}
