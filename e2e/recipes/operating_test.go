package recipes

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ea766355/caddy-sse/e2e"
)

// TestRunbooks runs the commands of the runbooks.
func TestRunbooks(t *testing.T) {
	left := recipes(t, "operating/runbooks.md")
	s := e2e.Start(t, e2e.Config{})
	site := fmt.Sprintf("http://127.0.0.1:%d", s.HTTP)
	alice := visitor{t: t, base: site}.open("/events", "alice", "X-User", "alice")
	backendOf(t, s).send(`"user":"alice"`, "hello")
	id := alice.id()
	backendOf(t, s).waitWritten()

	shell := terminal(t, s, left, "3kq9x2mf-1042-x7d2", id, "https://example.com", site)
	run := func(name, want string) string {
		t.Helper()
		out, err := shell(name).Output()
		if !strings.Contains(string(out), want) {
			t.Errorf("output of %s: got %v and\n%s\nwant %q in it", name, err, out, want)
		}
		return string(out)
	}
	first, _, _ := strings.Cut(run("why", id), "\n")
	if got, want := common(first+"\n"), common(take(t, left, "why_output")); got != want {
		t.Errorf("output of why: got\n%s\nwant that of the page\n%s", got, want)
	}
	run("tail", id)
	run("refused", "event: sse.connected")
	run("rejected", `caddy_sse_rejected_total{hub="default",reason="starting"} 0`)
	for _, metric := range []string{"process_resident_memory_bytes", `caddy_sse_connections{hub="default",protocol="h1"} 1`, "caddy_sse_history_max_bytes", "go_goroutines"} {
		text := left["memory"]
		run("memory", metric)
		left["memory"] = text
	}
	take(t, left, "memory")
	gaps := left["gaps"]
	run("gaps", `caddy_sse_gaps_total{hub="default",reason="evicted"} 0`)
	left["gaps"] = gaps
	run("gaps", "caddy_sse_history_oldest_age_seconds")
	run("status", `"writable":true`)
	profiles := shell("profile")
	if err := profiles.Run(); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"heap.pprof", "goroutines.txt"} {
		if info, err := os.Stat(filepath.Join(profiles.Dir, name)); err != nil || info.Size() < 1000 {
			t.Errorf("%s: got %v, %v, want at least 1,000 bytes", name, info, err)
		}
	}
	wantAllTaken(t, left)
}

// TestSecurity: the hardened site accepts the right clients and publishers only.
func TestSecurity(t *testing.T) {
	page := recipes(t, "operating/security.md")
	app := newLoginApp(t)
	port := e2e.FreePort(t)
	globals, sites := splitGlobals(t, replace(t, take(t, page, "hardened"), "10.0.0.0/8", "127.0.0.2"))
	b := serve(t, globals, localize(sites, app.addr(), port, ""))
	wantAllTaken(t, page)

	v := visitor{t: t, base: fmt.Sprintf("https://example.com:%d", port)}
	v.refused("/events", http.StatusUnauthorized)
	v.refused("/events", http.StatusUnauthorized, "X-SSE-User", "alice")
	v.cookie = "session=of-alice"
	s := v.open("/events", "alice")
	broadcast := func(from, password, origin string, want int) {
		t.Helper()
		req, err := http.NewRequest(http.MethodPost, v.base+"/internal/sse/broadcast", strings.NewReader(`{"text":"hello"}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		if origin != "" {
			req.Header.Set("Origin", origin)
		}
		if password != "" {
			req.SetBasicAuth("backend", password)
		}
		resp, err := visitor{t: t, from: from}.client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("publishing from %s with password %q and origin %q: got %s, want %d", from, password, origin, resp.Status, want)
		}
	}
	broadcast("127.0.0.3", "wonderland", "", http.StatusForbidden)
	broadcast("127.0.0.3", "", "", http.StatusForbidden)
	broadcast("127.0.0.2", "", "", http.StatusUnauthorized)
	broadcast("127.0.0.2", "wonderland", "https://evil.example", http.StatusForbidden)
	broadcast("127.0.0.2", "wonderland", "", http.StatusOK)
	s.expect("", "hello")
	s.close()
	b.wait(0)
}

// TestRestoredCopy: clients get a gap after an older copy of the history is restored.
func TestRestoredCopy(t *testing.T) {
	recipes(t, "operating/upgrade-backup.md")
	file := filepath.Join(t.TempDir(), "default.db")
	s := e2e.Start(t, e2e.Config{Hub: "store disk " + file})
	b := backendOf(t, s)
	v := visitorOf(t, s)
	publish := func(texts ...string) (ids []string) {
		t.Helper()
		stream := v.open("/events", "")
		for _, text := range texts {
			b.broadcast(text)
			ids = append(ids, stream.id())
		}
		stream.close()
		return ids
	}
	old := publish("one", "two")
	s.Terminate(time.Minute)
	copied, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	s.Run()
	late := publish("three", "four")
	s.Terminate(time.Minute)
	if err := os.WriteFile(file, copied, 0o600); err != nil {
		t.Fatal(err)
	}
	s.Run()
	gap := func(id, want string) {
		t.Helper()
		stream := v.open("/events?last_event_id="+id, "")
		defer stream.close()
		event, data := stream.next()
		var got struct{ Reason string }
		if want != "" && (event != "sse.gap" || json.Unmarshal([]byte(data), &got) != nil || got.Reason != want) {
			t.Errorf("event after position %s: got %s %s, want a gap %q", id, event, data, want)
		}
		if want == "" && data != "two" {
			t.Errorf("event after position %s: got %s %s, want two", id, event, data)
		}
	}
	gap(old[0], "")
	gap(late[1], "invalid")
	publish("other", "others")
	gap(old[0], "")
	gap(late[1], "epoch")
}

// TestBesideOtherHandlers: takeover off, and handlers that buffer, work as the page says.
func TestBesideOtherHandlers(t *testing.T) {
	page := recipes(t, "beside-other-handlers.md")
	ports := make(map[string]int)
	var text strings.Builder
	for _, name := range []string{"off", "buffers", "apart"} {
		ports[name] = e2e.FreePort(t)
		text.WriteString(localize(take(t, page, name), "", ports[name], t.TempDir()))
	}
	wantAllTaken(t, page)
	serve(t, "", text.String())
	for name, taken := range map[string]bool{"off": false, "apart": true} {
		v := visitor{t: t, base: fmt.Sprintf("https://example.com:%d", ports[name])}
		client := v.client()
		client.Transport.(*http.Transport).ForceAttemptHTTP2 = false
		resp, err := client.Get(v.base + "/events")
		if err != nil {
			t.Fatal(err)
		}
		// A stream that is taken over is the last response of its connection.
		if resp.StatusCode != http.StatusOK || resp.Close != taken {
			t.Errorf("%s: got %s, and the connection closes: %v, want 200 and %v", name, resp.Status, resp.Close, taken)
		}
		resp.Body.Close()
	}
	visitor{t: t, base: fmt.Sprintf("https://example.com:%d", ports["buffers"])}.refused("/events", http.StatusInternalServerError)
}
