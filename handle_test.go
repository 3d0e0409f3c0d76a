package caddysse_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	caddysse "github.com/ea766355/caddy-sse"
	"github.com/ea766355/caddy-sse/hub"
)

// TestHandle: other modules use a hub, also over reloads.
func TestHandle(t *testing.T) {
	h := caddysse.HubNamed("")
	everybody := hub.Event{Data: []byte("x"), Targets: []hub.Target{{}}}
	if _, err := h.Publish(t.Context(), everybody); !errors.Is(err, hub.ErrNotStored) {
		t.Errorf("before there is a config: %v", err)
	}

	const site = "test_auth\nsse /events {\n session {http.request.header.X-Session}\n}\nsse /chat {\n hub chat\n}"
	s := start(t, "sse\nsse chat", site)
	alice := s.open("/events", "X-User", "alice", "X-Session", "s3cret")
	bob := s.open("/events", "X-User", "bob")
	publish := func(event hub.Event) hub.Receipt {
		t.Helper()
		receipts, err := h.Publish(t.Context(), event)
		if err != nil {
			t.Fatal(err)
		}
		return receipts[0]
	}
	if r := publish(everybody); r.Connections != 2 || r.Position.String() != s.status("default").Head {
		t.Errorf("the receipt is %+v, the head %s", r, s.status("default").Head)
	}
	alice.expect("x")
	bob.expect("x")
	publish(hub.Event{Data: []byte("for the session"), Targets: []hub.Target{{Kind: hub.Session, Name: caddysse.SessionHash("s3cret")}}})
	alice.expect("for the session")

	s.mustLoad(s.site(site))
	publish(hub.Event{Data: []byte("after a reload"), Targets: []hub.Target{{Kind: hub.User, Name: "bob"}}})
	bob.expect("after a reload")
	if err := s.load(s.site(site + "\nsse /nope {\n hub nope\n}")); err == nil {
		t.Error("a hub that is not there was accepted")
	}
	publish(hub.Event{Data: []byte("after one that failed"), Targets: []hub.Target{{Kind: hub.User, Name: "bob"}}})
	bob.expect("after one that failed")

	page, err := h.Connections(t.Context(), hub.Filter{}, "", 1)
	if err != nil || page.Count != 2 || len(page.Connections) != 1 || page.Connections[0].User != "alice" {
		t.Errorf("listed %+v: %v", page, err)
	}
	page, err = h.Connections(t.Context(), hub.Filter{}, page.Next, 1)
	if err != nil || len(page.Connections) != 1 || page.Connections[0].User != "bob" || page.Next != "" {
		t.Errorf("listed %+v next: %v", page, err)
	}
	if n, missing, err := h.Disconnect(t.Context(), hub.Filter{Users: []string{"alice"}}); n != 1 || len(missing) > 0 || err != nil {
		t.Errorf("disconnected %d, missing %v: %v", n, missing, err)
	}
	if b := alice.event(); b.event != "sse.closing" || !strings.Contains(b.data, "disconnected") {
		t.Errorf("alice is sent %+v", b)
	}
}

// TestHandleSharedEvents: goroutines may publish the same events at the same time.
func TestHandleSharedEvents(t *testing.T) {
	start(t, "sse", "sse /events")
	events := []hub.Event{{Data: []byte("x"), Targets: []hub.Target{{}}}}
	var publishers sync.WaitGroup
	for range 4 {
		publishers.Go(func() {
			if _, err := caddysse.HubNamed("").Publish(t.Context(), events...); err != nil {
				t.Error(err)
			}
		})
	}
	publishers.Wait()
}

// TestHandleRefusals: each refusal has the remedy, and counts like the same one over HTTP.
func TestHandleRefusals(t *testing.T) {
	s := start(t, "sse {\n max_event_size 10\n}", "sse /events")
	s.status("default")
	h := caddysse.HubNamed("default")
	event := func(data string, kind hub.Kind, name string) hub.Event {
		return hub.Event{Data: []byte(data), Targets: []hub.Target{{Kind: kind, Name: name}}}
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for name, test := range map[string]struct {
		hub    caddysse.Hub
		events []hub.Event
		is     error
		text   string
		reason string // as it is counted
	}{
		"no event":               {h, nil, hub.ErrInvalid, "the batch is empty", "invalid"},
		"too many":               {h, make([]hub.Event, 1001), hub.ErrTooLarge, "at most 1000", "too_large"},
		"too large":              {h, []hub.Event{event("x", hub.All, ""), event("12345678901", hub.All, "")}, hub.ErrTooLarge, "event 2: ", "too_large"},
		"no target":              {h, []hub.Event{{Data: []byte("x")}}, hub.ErrInvalid, "no target", "invalid"},
		"the value of a session": {h, []hub.Event{event("x", hub.Session, "s3cret")}, hub.ErrInvalid, "SessionHash", "invalid"},
		"an unknown hub":         {caddysse.HubNamed("dfault"), []hub.Event{event("x", hub.All, "")}, nil, `unknown hub "dfault" (available: default)`, "unknown_hub"},
	} {
		series := `caddy_sse_publishes_refused_total{hub="default",reason="` + test.reason + `"}`
		if test.reason == "unknown_hub" {
			series = `caddy_sse_publishes_refused_total{hub="",reason="unknown_hub"}`
		}
		before := s.metric(series)
		_, err := test.hub.Publish(t.Context(), test.events...)
		if err == nil || !strings.Contains(err.Error(), test.text) || test.is != nil && !errors.Is(err, test.is) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v", name, err)
		}
		if n := s.metric(series); n != before+1 {
			t.Errorf("%s: %s went from %v to %v", name, series, before, n)
		}
	}
	if _, ok := errors.AsType[*caddysse.UnknownHub](func() error { _, err := caddysse.HubNamed("no").Connections(gone, hub.Filter{}, "", 1); return err }()); !ok {
		t.Error("listing an unknown hub gives another error")
	}
	if _, err := h.Connections(t.Context(), hub.Filter{}, "", 1001); err == nil || !strings.Contains(err.Error(), "invalid limit 1001") {
		t.Errorf("a limit of 1001: %v", err)
	}
	if n, _, err := h.Disconnect(t.Context(), hub.Filter{}); n != 0 || err == nil || !strings.Contains(err.Error(), "filter is empty") {
		t.Errorf("an empty filter ends %d: %v", n, err)
	}
}

// TestAnotherModule: a program in another Go module embeds Caddy and publishes. A Caddy module in
// it finds its hub in each config.
func TestAnotherModule(t *testing.T) {
	dir := t.TempDir()
	root, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	copyTo := func(name, from string, change func(string) string) {
		t.Helper()
		text, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(change(string(text))), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	same := func(s string) string { return s }
	copyTo("main.go", "testdata/embed/main.go", same)
	copyTo("go.sum", "go.sum", same)
	// The module has the same requirements as this one.
	copyTo("go.mod", "go.mod", func(s string) string {
		_, needs, _ := strings.Cut(s, "\nrequire (")
		return "module example.com/embed\n\ngo 1.26.0\n\nrequire github.com/ea766355/caddy-sse v0.0.0\n\n" +
			"replace github.com/ea766355/caddy-sse => " + root + "\n\nrequire (" + needs
	})
	build := exec.Command("go", "build", "-o", "embed", ".")
	build.Dir, build.Env = dir, append(os.Environ(), "GOFLAGS=-mod=mod", "GOPROXY=off")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	run := exec.Command(filepath.Join(dir, "embed"))
	run.Env = append(os.Environ(), "HOME="+dir)
	out, err := run.CombinedOutput()
	if err != nil || !strings.HasSuffix(string(out), "all is well\n") {
		t.Fatalf("%v: %s", err, out)
	}
}
