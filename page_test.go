package caddysse_test

import (
	"net/http"
	"strings"
	"testing"
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

func newRequest(t *testing.T, url string) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	return req
}
