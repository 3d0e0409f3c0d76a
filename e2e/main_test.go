package e2e

import (
	"cmp"
	"context"
	"sync"
	"testing"
	"time"
)

func TestMain(m *testing.M) { Main(m) }

// crowd starts n followers of one protocol. Over HTTP/2 and HTTP/3 they share connections.
func crowd(t *testing.T, s *Server, p Protocol, n int, id Identity) []*Follower {
	t.Helper()
	// Below the limits of one connection, which are 250 and 100 streams.
	const shared = 80
	var c *Client
	followers := make([]*Follower, n)
	for i := range followers {
		if i%shared == 0 {
			c = s.Client(p)
			t.Cleanup(c.Close) // runs after the followers have stopped
		}
		followers[i] = Follow(t, c, id)
	}
	return followers
}

// publishing publishes without pause until the returned function is called, which returns when
// the last event is acknowledged. It publishes no faster than the sample receives, so that no
// event is evicted before the sample has it.
func publishing(t *testing.T, p *Publisher, sample []*Follower, next func(n int) []Event) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		// A faster pace would test no more, and would starve the other streams.
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for n := 0; ctx.Err() == nil; n++ {
			// An event that was sent is acknowledged in any case.
			within, done := context.WithTimeout(context.Background(), Patience)
			err := p.Publish(within, next(n)...)
			done()
			if err != nil {
				t.Errorf("publishing: %v", err)
				return
			}
			for {
				<-tick.C
				if ctx.Err() != nil || !behind(p.Ledger, sample) {
					break
				}
			}
		}
	})
	stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
	})
	t.Cleanup(stop)
	return stop
}

// ahead is how many broadcast events the sample may be behind during publishing.
const ahead = 50

// behind reports whether a follower of the sample is more than ahead behind.
func behind(l *Ledger, sample []*Follower) bool {
	for _, f := range sample {
		f.mu.Lock()
		received := len(f.received)
		f.mu.Unlock()
		if l.Len()-received > ahead {
			return true
		}
	}
	return false
}

// broadcasts returns one event for everybody, or now and then a batch.
func broadcasts(n int) []Event {
	events := make([]Event, cmp.Or(n%10/9*4, 1))
	for i := range events {
		events[i] = Event{To: Everybody, Size: 50 + n%100}
	}
	return events
}
