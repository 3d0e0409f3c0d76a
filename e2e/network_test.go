package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"
)

// TestPromise1OnceInOrder publishes to clients on a bad network, which cuts, stalls and throttles
// their connections at any byte. The server is reloaded meanwhile.
func TestPromise1OnceInOrder(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	config := Config{Stream: "retry 5ms 20ms"}
	s := Start(t, config)
	p := s.Publisher()
	faults := Faults{CutAfter: 50_000, Stall: 200 * time.Millisecond, Piece: 100}
	proxies := map[Protocol]*Proxy{}
	for i, protocol := range []Protocol{H1, H1TLS, H2} {
		port := s.HTTPS
		if protocol == H1 {
			port = s.HTTP
		}
		proxies[protocol] = NewProxy(t, fmt.Sprintf("127.0.0.1:%d", port), seed+uint64(i), faults)
	}
	var followers []*Follower
	for i := range 30 {
		for protocol, proxy := range proxies {
			if protocol != H1 && i%6 > 0 {
				continue // handshakes are slow under the race detector
			}
			id := Identity{User: fmt.Sprintf("user %d", i%5), Session: fmt.Sprintf("session %d", i%7)}
			if i%2 == 0 {
				id.Topics = []string{"news/a", "sport/b"}
			}
			c := s.ClientVia(proxy.Addr, protocol)
			t.Cleanup(c.Close)
			followers = append(followers, Follow(t, c, id))
		}
	}
	Wait(t, Patience, "all to have been connected once", func() error {
		for _, f := range followers {
			if f.Last().Epoch == "" {
				_, lost := f.Streams()
				return fmt.Errorf("%s: %q", f.client.Protocol, lost)
			}
		}
		return nil
	})

	targets := []Target{
		Everybody, To("user", "user 1"), To("user", "user 2", "user 3", "nobody"),
		To("session", "session 4"), To("topic", "news/a"), To("topic", "sport/c", "sport/b"), To("topic", "news/x/y"),
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*Patience)
	defer cancel()
	var publishers sync.WaitGroup
	for i := range 3 {
		random := rand.New(rand.NewPCG(seed, uint64(100+i)))
		publishers.Go(func() {
			tick := time.NewTicker(5 * time.Millisecond)
			defer tick.Stop()
			for range 200 {
				events := slices.Repeat([]Event{{}}, 1+random.IntN(10)/9*3)
				broadcast := random.IntN(2) == 0
				for i := range events {
					if events[i].Size = random.IntN(1000); !broadcast {
						events[i].To = targets[1+random.IntN(len(targets)-1)]
					}
				}
				if err := p.Publish(ctx, events...); err != nil {
					t.Errorf("publishing: %v", err)
					return
				}
				<-tick.C
			}
		})
	}
	if err := s.Reload(config); err != nil {
		t.Error(err)
	}
	publishers.Wait()
	cuts := int64(0)
	for _, proxy := range proxies {
		proxy.Calm()
		cuts += proxy.Cuts.Load()
	}
	AwaitAll(t, p.Ledger, followers)

	total, opened := 0, 0
	for _, f := range followers {
		if gaps := f.Gaps(); len(gaps) > 0 {
			t.Errorf("gaps of %s: got %q, want none because the history has everything", f.client.Protocol, gaps)
		}
		n, _ := f.Streams()
		opened += n
		total += len(f.Received())
	}
	t.Logf("%d events, %d deliveries to %d clients on %d streams, %d cuts", p.Ledger.Len(), total, len(followers), opened, cuts)
	if cuts < 100 {
		t.Errorf("cut connections: got %d, want at least 100", cuts)
	}
}

// TestRestartCausesGap restarts a server with its history in memory. Every client gets a gap,
// because its position is of another epoch, and gets new events.
func TestRestartCausesGap(t *testing.T) {
	s := Start(t, Config{Stream: "retry 5ms 20ms"})
	p := s.Publisher()
	var followers []*Follower
	for _, protocol := range Protocols {
		followers = append(followers, crowd(t, s, protocol, 3, Identity{})...)
	}
	AwaitOpen(t, followers)
	publish := func() {
		t.Helper()
		for range 3 {
			if err := p.Publish(t.Context(), Event{To: Everybody}); err != nil {
				t.Fatal(err)
			}
		}
	}
	publish()
	AwaitAll(t, p.Ledger, followers)

	for round, end := range []func(){func() { s.Terminate(Patience) }, s.Kill} {
		end()
		s.Run()
		publish() // some are replayed, some are delivered live
		for _, f := range followers {
			Wait(t, Patience, "the gap", func() error {
				if err := f.Err(); err != nil {
					t.Fatal(err)
				}
				want := slices.Repeat([]string{"epoch"}, round+1)
				if gaps := f.Gaps(); !slices.Equal(gaps, want) {
					_, lost := f.Streams()
					return fmt.Errorf("gaps of %s: got %q, want %q; its streams ended with %q", f.client.Protocol, gaps, want, lost)
				}
				return nil
			})
		}
		publish()
		AwaitAll(t, p.Ledger, followers)
		for _, f := range followers {
			if got := len(f.Received()); got != 3+7*(round+1) {
				t.Errorf("events and gaps of %s: got %d, want %d", f.client.Protocol, got, 3+7*(round+1))
			}
		}
	}
}
