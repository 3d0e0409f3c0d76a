package e2e

import (
	"fmt"
	"slices"
	"testing"
)

// readers are followers of every protocol that read at full speed.
func readers(t *testing.T, s *Server) []*Follower {
	t.Helper()
	var followers []*Follower
	for _, protocol := range Protocols {
		followers = append(followers, crowd(t, s, protocol, 5, Identity{User: "reader"})...)
	}
	AwaitOpen(t, followers)
	return followers
}

// TestPromise5NobodyWaitsForTheSlow opens clients that read nothing beside readers. The readers
// get everything, and the size of the history bounds the memory of the server. Clients that read
// again too late get a gap.
func TestPromise5NobodyWaitsForTheSlow(t *testing.T) {
	const historySize = 4 << 20
	s := Start(t, Config{Hub: "history 1000\n history_size 4MiB", Stream: "connection_timeout 10m"})
	p := s.Publisher()
	others := readers(t, s)
	stalled, users := stall(t, s, p)

	// The readers get everything while the stalled clients get nothing.
	const n = 200
	for range n {
		if err := p.Publish(t.Context(), Event{To: Everybody, Size: 100}); err != nil {
			t.Fatal(err)
		}
	}
	AwaitAll(t, p.Ledger, others)
	for _, user := range users {
		if lag, open := s.Lag(user); !open || lag < n {
			t.Errorf("lag of %s: got %d events (open: %t), want at least %d", user, lag, open, n)
		}
	}

	// Events for the stalled clients, several times the size of the history.
	before, resident := s.Heap(), s.Resident()
	for range 4 {
		batch := slices.Repeat([]Event{{To: To("user", users...), Size: 1 << 19}}, 8)
		if err := p.Publish(t.Context(), batch...); err != nil {
			t.Fatal(err)
		}
	}
	after := s.Heap()
	t.Logf("heap %d, then %d bytes; resident %d, then %d bytes", before, after, resident, s.Resident())
	if after-before > historySize+4<<20 {
		t.Errorf("growth of the heap: got %d bytes, want at most %d", after-before, historySize+4<<20)
	}
	if n := s.Status().Bytes; n > historySize {
		t.Errorf("bytes of the history: got %d, want at most %d", n, historySize)
	}

	for _, f := range stalled {
		f.Release()
	}
	AwaitAll(t, p.Ledger, stalled)
	for _, f := range stalled {
		if gaps := f.Gaps(); !slices.Equal(gaps, []string{"evicted"}) {
			t.Errorf("gaps of %s: got %q, want one evicted", f.client.Protocol, gaps)
		}
		if opened, lost := f.Streams(); opened != 1 {
			t.Errorf("streams of %s: got %d, want 1; they ended with %q", f.client.Protocol, opened, lost)
		}
	}
}

// TestPromise5TheSlow: a slow client that reads again in time catches up on the same stream. The
// server drops a client that does not.
func TestPromise5TheSlow(t *testing.T) {
	s := Start(t, Config{Stream: "connection_timeout 10m", Routes: `sse /impatient {
		user {http.request.header.X-User}
		connection_timeout 1s
	}`})
	p := s.Publisher()
	others := readers(t, s)
	late, _ := stall(t, s, p)
	dropped, users := slow(t, s, "/impatient")
	for _, f := range dropped {
		f.Hold()
	}
	// More than the buffers of the connection, and less than the history.
	batch := slices.Repeat([]Event{{To: To("user", users...), Size: 1 << 19}}, 10)
	if err := p.Publish(t.Context(), batch...); err != nil {
		t.Fatal(err)
	}
	Wait(t, Patience, "the clients that read nothing to be dropped", func() error {
		timeouts := s.Metric(`caddy_sse_connections_closed_total{hub="default",reason="timeout"}`)
		gone := s.Metric(`caddy_sse_connections_closed_total{hub="default",reason="gone"}`)
		if int(timeouts) != len(dropped) {
			return fmt.Errorf("closed as timeout and as gone: got %v and %v, want %d and 0", timeouts, gone, len(dropped))
		}
		return nil
	})
	for _, user := range users {
		if _, open := s.Lag(user); open {
			t.Errorf("connection of %s: got one, want none", user)
		}
	}
	for _, f := range late {
		f.Release()
	}
	AwaitAll(t, p.Ledger, late)
	for _, f := range late {
		if opened, lost := f.Streams(); opened != 1 || len(f.Gaps()) > 0 {
			t.Errorf("%s: got %d streams that ended with %q and gaps %q, want 1 stream and no gap", f.client.Protocol, opened, lost, f.Gaps())
		}
	}
	// The dropped clients reconnect with their positions and lose nothing either.
	for _, f := range dropped {
		f.Release()
	}
	AwaitAll(t, p.Ledger, slices.Concat(dropped, others))
	for _, f := range dropped {
		if opened, _ := f.Streams(); opened < 2 || len(f.Gaps()) > 0 {
			t.Errorf("%s: got %d streams and gaps %q, want at least 2 streams and no gap", f.client.Protocol, opened, f.Gaps())
		}
	}
}
