package recipes

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/ea766355/caddy-sse/e2e"
)

// TestSymptoms: each mistake in the table of docs/troubleshooting.md has the symptom of the table.
func TestSymptoms(t *testing.T) {
	text, err := os.ReadFile("../../docs/troubleshooting.md")
	if err != nil {
		t.Fatal(err)
	}
	closedApp := newStub(t)
	closedApp.Close()
	app, catchAll := newStub(t), newStub(t)
	app.respond(http.StatusNoContent, "X-SSE-User", "alice", "X-SSE-Session", "secret")
	catchAll.answer = func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") }
	files := t.TempDir()
	write(t, files, "index.html", "the page")
	s := e2e.Start(t, e2e.Config{Routes: `
	sse /user {
		user {http.reverse_proxy.header.X-SSE-User}
	}
	sse /expires {
		anonymous
		expires {http.auth.user.exp}
	}
	sse /full {
		anonymous
		max_connections 1
	}
	sse /topics {
		anonymous
		topics room/*
	}
	route /buffers {
		intercept {
			handle_response {
				header X-Seen yes
			}
		}
		sse {
			anonymous
		}
	}
	forward_auth /down ` + closedApp.addr() + ` {
		uri /events
	}
	sse /down {
		anonymous
	}
	handle_path /internal/* {
		sse_api
	}
	route /through {
		reverse_proxy ` + app.addr() + `
		sse {
			user {http.reverse_proxy.header.X-SSE-User}
		}
	}
	route /catch-all {
		reverse_proxy ` + catchAll.addr() + ` {
			@stream header X-SSE-User *
			handle_response @stream {
				sse {
					user {http.reverse_proxy.header.X-SSE-User}
				}
			}
		}
	}
	handle /files/* {
		root ` + files + `
		try_files {path} /index.html
		file_server
	}
	forward_auth /itself 127.0.0.1:{http.request.local.port} {
		uri /itself
	}
	sse /itself {
		anonymous
	}
	handle /spa/* {
		respond "<html>" 200
		sse /spa/events {
			anonymous
		}
	}
`})
	site, admin := fmt.Sprintf("http://127.0.0.1:%d", s.HTTP), fmt.Sprintf("http://localhost:%d", s.Admin)
	open := visitor{t: t, base: site}.open("/events", "") // reaches the limit
	defer open.close()
	const plain, event = "text/plain", `{"user":"alice","text":"x"}`
	for _, test := range []struct {
		row                       string // of the table, or a part of it
		method, url               string
		contentType, body, header string
		status                    int
		says                      string
	}{
		{"200 and an empty body, for a stream or a publish", "POST", site + "/sse/send", "application/json", event, "", 200, ""},
		{"200, and `text/html`", "GET", site + "/spa/events", "", "", "", 200, "<html>"},
		{"200, and `text/html`", "GET", site + "/catch-all", "", "", "", 200, "<html>"},
		{"204", "GET", site + "/through", "", "", "", 204, ""},
		{"200, and `event: sse.rejected`", "GET", site + "/full", "", "", "", 200, "event: sse.rejected"},
		{"401, and the text begins with `no authenticated user`", "GET", site + "/user", "", "", "X-SSE-User: alice", 401, "no authenticated user"},
		{"401, and the text begins with `expires`", "GET", site + "/expires", "", "", "", 401, "expires"},
		{"403 for a stream", "GET", site + "/topics?topic=secret", "", "", "", 403, "secret"},
		{"403 from `localhost:2019`", "POST", admin + "/sse/send", "application/json", event, "Sec-Fetch-Mode: cors", 403, ""},
		{"403 from `sse_api`", "POST", site + "/internal/sse/send", "application/json", event, "Origin: https://evil.example", 403, ""},
		{"404 from the API", "POST", admin + "/sse/send?hub=nothing", "application/json", event, "", 404, "available: default"},
		{"404 from the API", "POST", admin + "/sse/sends", "application/json", event, "", 404, ""},
		{"405", "POST", site + "/topics", plain, "x", "", 405, "GET"},
		{"405", "GET", admin + "/sse/send", "", "", "", 405, ""},
		{"405 and an empty body, for a publish", "POST", site + "/files/sse/send", "application/json", event, "", 405, ""},
		{"431, after a second or more", "GET", site + "/itself", "", "", "", 431, ""},
		{"415", "POST", admin + "/sse/send", plain, event, "", 415, "application/x-ndjson"},
		{"500, and a handler buffers or cannot flush", "GET", site + "/buffers", "", "", "", 500, ""},
		{"502 for a stream", "GET", site + "/down", "", "", "", 502, ""},
	} {
		if !strings.Contains(string(text), "\n| "+test.row+" |") {
			t.Errorf("table: got no row %s, want one", test.row)
		}
		req, err := http.NewRequest(test.method, test.url, strings.NewReader(test.body))
		if err != nil {
			t.Fatal(err)
		}
		if test.contentType != "" {
			req.Header.Set("Content-Type", test.contentType)
		}
		if name, value, ok := strings.Cut(test.header, ": "); ok {
			req.Header.Set(name, value)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Errorf("%s: %v", test.row, err)
			continue
		}
		answer := make([]byte, 1000)
		n, _ := resp.Body.Read(answer)
		resp.Body.Close()
		if resp.StatusCode != test.status || !strings.Contains(string(answer[:n]), test.says) {
			t.Errorf("%s: response to %s %s: got %s %s, want %d with %q", test.row, test.method, test.url, resp.Status, answer[:n], test.status, test.says)
		}
		if strings.Contains(test.row, "an empty body") && n > 0 {
			t.Errorf("%s: got the body %s, want none", test.row, answer[:n])
		}
		if test.status == http.StatusNoContent && resp.Header.Get("X-SSE-Session") == "" {
			t.Errorf("%s: got no header X-SSE-Session, want that of the app", test.row)
		}
		if test.status == http.StatusMethodNotAllowed && resp.Header.Get("Allow") == "" {
			t.Errorf("%s: got no header Allow, want one", test.url)
		}
	}
	for _, refused := range []string{`{"user":7,"text":"x"}`, `{"user":"alice","text":"x","type":"error"}`} {
		resp, err := http.Post(admin+"/sse/send", "application/json", strings.NewReader(refused))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusBadRequest { // guides/notifications.md and guides/ai-streams.md say so
			t.Errorf("response to %s: got %s, want 400", refused, resp.Status)
		}
	}
}
