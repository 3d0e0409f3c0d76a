package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/ea766355/caddy-sse/e2e"
)

// tickerBound is how many events the third hub retains at least.
const tickerBound = 20

// retryMax is the longest wait of clients before they reconnect.
const retryMax = 200 * time.Millisecond

// The identities of clients and the targets of events.
const (
	users    = 8
	sessions = 6
)

var topics = []string{"news/a", "news/b/c", "sport/a", "sport/b"}

// someone returns the identity of a new client.
func randomIdentity(random *rand.Rand) (id e2e.Identity) {
	if random.IntN(6) > 0 {
		id.User = fmt.Sprintf("user %d", random.IntN(users))
	}
	if random.IntN(2) > 0 {
		id.Session = fmt.Sprintf("session %d", random.IntN(sessions))
	}
	if random.IntN(2) > 0 {
		id.Topics = slices.Compact([]string{topics[random.IntN(len(topics))], topics[random.IntN(len(topics))]})
	}
	return id
}

// target returns the target of an event that is not for everybody.
func target(random *rand.Rand) e2e.Target {
	names := make([]string, 1+random.IntN(6)/4*2)
	var field string
	var name func() string
	switch random.IntN(4) {
	case 0, 1:
		field, name = "user", func() string { return fmt.Sprintf("user %d", random.IntN(users+2)) }
	case 2:
		field, name = "session", func() string { return fmt.Sprintf("session %d", random.IntN(sessions+1)) }
	case 3:
		field, name = "topic", func() string { return topics[random.IntN(len(topics))] }
	}
	for i := range names {
		names[i] = name()
	}
	return e2e.To(field, names...)
}

// request returns the events of one request: one event, or now and then a batch. A few are large.
func request(random *rand.Rand) []e2e.Event {
	n := 1
	switch random.IntN(150) {
	case 0:
		n = 60
	case 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15:
		n = 2 + random.IntN(6)
	}
	events := make([]e2e.Event, n)
	everybody := random.IntN(2) == 0
	for i := range events {
		events[i].Size = random.IntN(300)
		if random.IntN(50) == 0 {
			events[i].Size = random.IntN(20_000)
		}
		if !everybody {
			events[i].To = target(random)
		}
	}
	return events
}

// keyLimit is the most time until an event is acknowledged: the server must not forget its key
// before.
const keyLimit = 100 * time.Second

// publish starts the publishers, which stop when the faults stop.
func (w *world) publish() {
	const each = 4 // publishers per hub
	ctx, stop := context.WithTimeout(context.Background(), *duration)
	w.t.Cleanup(stop)
	for i, h := range w.hubs {
		for n := range each {
			// The first publisher uses a bad network, unless it must be certain that no answer is in
			// flight.
			addr := ""
			if n == 0 && h.changes == nil {
				addr = w.admin.Addr
			}
			p := w.server.PublisherVia(addr, h.name, h.ledger)
			h.publishers = append(h.publishers, p)
			random := w.random(1000 + i*each + n)
			pace := time.Second * each * 100 / time.Duration(*rate*h.load)
			w.publishing.Go(func() {
				defer p.Close()
				tick := time.NewTicker(pace)
				defer tick.Stop()
				for {
					select {
					case <-ctx.Done():
						w.mu.Lock()
						w.done["publish requests sent again"] += int(p.Retried.Load())
						w.mu.Unlock()
						return
					case <-tick.C:
					}
					// A request that was sent is acknowledged, also after the end.
					within, done := context.WithTimeout(context.Background(), keyLimit)
					if err := p.Publish(within, request(random)...); err != nil {
						w.t.Errorf("publishing to %s: %v", h.name, err)
					}
					done()
				}
			})
		}
	}
}
