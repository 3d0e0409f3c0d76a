package e2e

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
)

// streams is the number of open streams while the server is reloaded or ended, a multiple of 10.
const streams = 500

// everyProtocol starts n followers. A tenth of them uses HTTP/1.1 with TLS, and a tenth HTTP/3.
func everyProtocol(t *testing.T, s *Server, n int) []*Follower {
	t.Helper()
	followers := slices.Concat(
		crowd(t, s, H1, 4*n/10, Identity{}),
		crowd(t, s, H1TLS, n/10, Identity{}),
		crowd(t, s, H2, 4*n/10, Identity{}),
		crowd(t, s, H3, n/10, Identity{}),
	)
	AwaitOpen(t, followers)
	return followers
}

// TestPromise7ReloadKeepsStreams reloads under load: with the same config, with other options,
// and with configs that fail early and late.
func TestPromise7ReloadKeepsStreams(t *testing.T) {
	config := Config{}
	s := Start(t, config)
	p := s.Publisher()
	followers := everyProtocol(t, s, streams)
	stop := publishing(t, p, followers, broadcasts)

	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()

	// The effect of these configs would be visible at once: a history that is too short for the
	// followers' positions, or no route.
	failing := map[string]Config{
		"in provision": {
			Hub: "history 1", NoSSE: true,
			Routes: "sse /other {\n hub nowhere\n }",
		},
		"in validation": {
			Hub:    "history 1",
			Stream: "retry 5s 1s",
		},
		"in the server": {
			Hub:   "history 1",
			Sites: fmt.Sprintf("http://127.0.0.1:%d {\n respond no\n }", taken.Addr().(*net.TCPAddr).Port),
		},
		"in the server, without a route": {
			Hub: "history 1", NoSSE: true,
			Sites: fmt.Sprintf("http://127.0.0.1:%d {\n respond no\n }", taken.Addr().(*net.TCPAddr).Port),
		},
	}
	// Events are published before, during and after each reload.
	flow := func() {
		t.Helper()
		published := p.Ledger.Len()
		Wait(t, Patience, "events to flow", func() error {
			if n := p.Ledger.Len(); n < published+10 {
				return fmt.Errorf("%d were published after %d", n-published, published)
			}
			return nil
		})
	}
	reload := func(c Config) {
		t.Helper()
		if err := s.Reload(c); err != nil {
			t.Fatal(err)
		}
		flow()
	}
	wantFailure := func(name, says string) {
		t.Helper()
		before := s.Status()
		err := s.Reload(failing[name])
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("error of a reload that fails %s: got %v, want one with %q", name, err, says)
		}
		if after := s.Status(); after.Events < before.Events || after.Oldest != before.Oldest {
			t.Errorf("history after a reload that failed %s: got %d events from %s on, want the %d from %s on",
				name, after.Events, after.Oldest, before.Events, before.Oldest)
		}
		flow()
	}

	flow()
	reload(config)
	wantFailure("in provision", "nowhere")
	wantFailure("in validation", "retry")
	// Caddy starts its apps in random order.
	for range 2 {
		wantFailure("in the server", "address already in use")
		wantFailure("in the server, without a route", "address already in use")
	}
	reload(config)
	const bound = 2 * ahead // the followers are never more than this behind
	for p.Ledger.Len() <= bound {
		flow()
	}
	reload(Config{Hub: fmt.Sprintf("history %d", bound)})
	if n := s.Status().Events; n != bound {
		t.Errorf("retained events: got %d, want the new bound, %d", n, bound)
	}
	reload(config)
	stop()
	AwaitAll(t, p.Ledger, followers)

	for i, f := range followers {
		if opened, lost := f.Streams(); opened != 1 || !f.Open() {
			t.Fatalf("streams of follower %d, %s: got %d, want 1 that is open; they ended with %q", i, f.client.Protocol, opened, lost)
		}
	}
	for protocol, want := range map[Protocol]int{H1: streams / 2, H2: streams * 4 / 10, H3: streams / 10} {
		if n := s.Connections(protocol); n != want {
			t.Errorf("gauge of %s: got %d, want %d", protocol, n, want)
		}
	}
	s.AwaitMetric(`caddy_sse_connections_opened_total{hub="default"}`, streams)
	s.AwaitMetric(`caddy_sse_events_published_total{hub="default"}`, p.Ledger.Len())
	s.AwaitMetric(`caddy_sse_deliveries_total{hub="default"}`, streams*p.Ledger.Len())
	t.Logf("%d events to each of %d streams, %d requests sent again", p.Ledger.Len(), streams, p.Retried.Load())

	for _, f := range followers {
		f.cancel()
	}
	Wait(t, Patience, "all connections to be closed", func() error {
		if n := s.Status().Connections; n != 0 {
			return fmt.Errorf("%d are open", n)
		}
		return nil
	})
	s.AwaitMetric(`caddy_sse_connections_closed_total{hub="default",reason="gone"}`, streams)
}

// TestPromise7HubWithoutRoute: when no route serves a hub any more, its streams end with the
// reason hub_closed.
func TestPromise7HubWithoutRoute(t *testing.T) {
	s := Start(t, Config{})
	followers := slices.Concat(crowd(t, s, H1, 2, Identity{}), crowd(t, s, H2, 2, Identity{}), crowd(t, s, H3, 2, Identity{}))
	AwaitOpen(t, followers)
	if err := s.Reload(Config{NoSSE: true}); err != nil {
		t.Fatal(err)
	}
	for _, f := range followers {
		Wait(t, Patience, "sse.closing", func() error {
			if g := f.Closings(); len(g) != 1 || g[0].Reason != "hub_closed" {
				return fmt.Errorf("%s: %+v", f.client.Protocol, g)
			}
			return nil
		})
	}
}

// TestValidateBesideRunning runs `caddy validate` with the config of a running server.
func TestValidateBesideRunning(t *testing.T) {
	s := Start(t, Config{Hub: "history 100 1h"})
	f := Follow(t, s.Client(H1), Identity{})
	AwaitOpen(t, []*Follower{f})
	if err := s.Validate(); err != nil {
		t.Error(err)
	}
	p := s.Publisher()
	if err := p.Publish(t.Context(), Event{To: Everybody}); err != nil {
		t.Fatal(err)
	}
	AwaitAll(t, p.Ledger, []*Follower{f})
	if opened, lost := f.Streams(); opened != 1 {
		t.Errorf("streams: got %d, want 1; they ended with %q", opened, lost)
	}
}
