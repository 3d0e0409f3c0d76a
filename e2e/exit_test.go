package e2e

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// TestPromise8ExitIsQuick ends the server while streams of every protocol are open. Some were
// opened under earlier configs, and some read nothing.
func TestPromise8ExitIsQuick(t *testing.T) {
	for name, test := range map[string]struct {
		global  string
		streams int
	}{
		"without grace_period": {"", streams},
		"with grace_period":    {"grace_period 5m", streams / 5},
	} {
		t.Run(name, func(t *testing.T) {
			config := Config{Global: test.global, Stream: "connection_timeout 10m"}
			s := Start(t, config)
			p := s.Publisher()
			stalled, _ := stall(t, s, p)
			before := everyProtocol(t, s, test.streams)
			if err := s.Reload(config); err != nil {
				t.Fatal(err)
			}
			var after []*Follower
			for _, protocol := range Protocols {
				after = append(after, crowd(t, s, protocol, 5, Identity{})...)
			}
			AwaitOpen(t, after)
			followers := append(before, after...)
			if err := p.Publish(t.Context(), Event{To: Everybody}); err != nil {
				t.Fatal(err)
			}
			AwaitAll(t, p.Ledger, followers)

			took := s.Terminate(8 * time.Second)
			t.Logf("the exit took %s", took)
			delays := make(map[int64]int)
			for i, f := range followers {
				// The last blocks may still be in flight.
				Wait(t, Patience, "sse.closing", func() error {
					if g := f.Closings(); len(g) != 1 || g[0].Reason != "shutdown" {
						_, lost := f.Streams()
						return fmt.Errorf("follower %d, %s: got %+v, want shutdown; its streams ended with %.3q", i, f.client.Protocol, g, lost)
					}
					return nil
				})
				retry := f.Closings()[0].RetryMs
				if retry < 1000 || retry > 5000 {
					t.Errorf("retry: got %d ms, want 1,000 to 5,000", retry)
				}
				delays[retry]++
			}
			// 520 draws from 4,001 values are 487 different ones on average.
			if len(delays) < len(followers)*4/5 {
				t.Errorf("different delays of %d streams: got %d, want at least %d", len(followers), len(delays), len(followers)*4/5)
			}
			for _, f := range stalled {
				f.Release()
			}
		})
	}
}

// TestPromise8ExitWithAStuckCollector ends the server while the collector of its spans does not
// answer. The clients are told, and the process ends when OTEL_BSP_EXPORT_TIMEOUT is over.
func TestPromise8ExitWithAStuckCollector(t *testing.T) {
	stuck := make(chan struct{})
	collector := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-stuck }))
	t.Cleanup(collector.Close)
	t.Cleanup(func() { close(stuck) })
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.URL)
	t.Setenv("OTEL_BSP_EXPORT_TIMEOUT", "1000") // milliseconds
	s := Start(t, Config{Routes: "tracing"})
	followers := everyProtocol(t, s, 10)
	p := s.Publisher()
	if err := p.Publish(t.Context(), Event{To: Everybody}); err != nil {
		t.Fatal(err)
	}
	AwaitAll(t, p.Ledger, followers)
	t.Logf("it took %s", s.Terminate(8*time.Second))
	for i, f := range followers {
		Wait(t, Patience, "sse.closing", func() error {
			if g := f.Closings(); len(g) != 1 || g[0].Reason != "shutdown" {
				return fmt.Errorf("follower %d, %s, was told %+v", i, f.client.Protocol, g)
			}
			return nil
		})
	}
}

// stall opens streams of every protocol that read nothing, each with its own user, and fills
// them until the server has unwritten events for each.
func stall(t *testing.T, s *Server, p *Publisher) (followers []*Follower, users []string) {
	t.Helper()
	followers, users = slow(t, s, "/events")
	for _, f := range followers {
		f.Hold()
	}
	fill(t, s, p, users)
	return followers, users
}

// slow opens a stream of each protocol with small buffers, each with its own user.
func slow(t *testing.T, s *Server, path string) (followers []*Follower, users []string) {
	t.Helper()
	for _, protocol := range Protocols {
		c := s.SmallClient(protocol)
		c.Path = path
		t.Cleanup(c.Close)
		user := fmt.Sprintf("slow %s %s", protocol, path)
		users = append(users, user)
		followers = append(followers, Follow(t, c, Identity{User: user}))
	}
	AwaitOpen(t, followers)
	return followers, users
}

// fill publishes to users whose connections read nothing, until the server cannot write to any
// of them.
func fill(t *testing.T, s *Server, p *Publisher, users []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	const (
		size   = 512 << 10
		enough = 4 // unwritten events in a row
	)
	lags, stuck := make([]int, len(users)), make([]int, len(users))
	for full := 0; full < len(users); {
		if err := p.Publish(ctx, Event{To: To("user", users...), Size: size}); err != nil {
			t.Fatal(err)
		}
		full = 0
		for i, user := range users {
			if stuck[i] == enough {
				full++
				continue
			}
			lag, open := s.Lag(user)
			if !open {
				t.Fatalf("the stream of %s has ended", user)
			}
			if stuck[i]++; lag <= lags[i] {
				stuck[i] = 0
			}
			lags[i] = lag
		}
	}
}
