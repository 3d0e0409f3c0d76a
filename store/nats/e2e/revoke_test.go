package e2e_test

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ea766355/caddy-sse/e2e"
)

// revoked is a stream that loses a topic.
type revoked struct {
	mu       sync.Mutex
	got      []int64   // numbers of events
	reported time.Time // when sse.topics arrived
	before   int       // how many events arrived before that
}

// read reads the stream to its end.
func (l *revoked) read(s *e2e.Stream) {
	defer s.Close()
	for {
		b, err := s.Next()
		if err != nil {
			return
		}
		l.mu.Lock()
		if n, err := e2e.ReadPayload(b.Data); err == nil {
			l.got = append(l.got, n)
		} else if b.Type == "sse.topics" {
			l.reported, l.before = time.Now(), len(l.got)
		}
		l.mu.Unlock()
	}
}

// after returns how long after a moment the stream reported the change, and whether it did.
func (l *revoked) after(moment time.Time) (took time.Duration, waitForReport bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.reported.Sub(moment), !l.reported.IsZero()
}

// TestPromise11RevokedOnThreeNodes removes a topic of a user with a stream on each of three nodes.
// One of them is cut off from NATS. No stream gets an event that is published after the answer.
// Each reports the change at its position: after all events before it, and before all later ones. The two
// that are not cut off report it within a second.
func TestPromise11RevokedOnThreeNodes(t *testing.T) {
	const rounds = 5
	*seed = cmp.Or(*seed, uint64(time.Now().UnixNano()))
	w := &world{t: t, ledger: new(e2e.Ledger), faults: make(map[string]int)}
	w.start()
	w.publishOne(e2e.Everybody) // creates the stream and its epoch
	for i, n := range w.nodes {
		c := n.config(random(uint64(i)))
		c.Stream = strings.Replace(c.Stream, "max_lifetime 10s", "max_lifetime 0", 1)
		if err := n.Reload(c); err != nil {
			t.Fatal(err)
		}
	}

	// Events for the topic are published all the time, through the nodes that are not cut off.
	healthy := w.addrs()[:size-1]
	publishing, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	p := e2e.RoamingPublisher(w.ledger, healthy...)
	defer p.Close()
	running.Go(func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for publishing.Err() == nil {
			within, done := context.WithTimeout(context.Background(), keyLimit)
			if err := p.Publish(within, e2e.Event{To: e2e.To("topic", removedTopic)}); err != nil {
				t.Errorf("publishing: %v", err)
			}
			done()
			<-tick.C
		}
	})

	later := e2e.RoamingPublisher(w.ledger, healthy...)
	defer later.Close()
	var took []time.Duration
	for round := range rounds {
		m := &member{Member: e2e.NewMember(fmt.Sprint("revoked ", round), removedTopic)}
		streams := make([]*revoked, size)
		leaving, leave := context.WithCancel(t.Context())
		for i, n := range w.nodes {
			streams[i] = new(revoked)
			e2e.Wait(t, 4*e2e.Patience, "a stream", func() error {
				s, err := e2e.Roaming(n.addr()).Open(leaving, e2e.Identity{User: m.Name, Topics: []string{removedTopic}}, "")
				if err == nil {
					m.reading.Go(func() { streams[i].read(s) })
				}
				return err
			})
			e2e.Wait(t, 4*e2e.Patience, "events on the stream", func() error {
				streams[i].mu.Lock()
				defer streams[i].mu.Unlock()
				if len(streams[i].got) == 0 {
					return fmt.Errorf("node %d has sent none", i+1)
				}
				return nil
			})
		}
		for _, proxy := range w.nodes[size-1].nats {
			proxy.Cut()
		}
		removed := w.change(m, healthy, e2e.TopicChange{Removed: []string{removedTopic}})
		m.answered = time.Now()
		within, done := context.WithTimeout(t.Context(), keyLimit)
		if err := later.Publish(within, e2e.Event{To: e2e.Everybody, Size: 100}); err != nil {
			t.Errorf("publishing: %v", err)
		}
		done()
		waitForReport := func(i int) {
			e2e.Wait(t, 4*e2e.Patience, fmt.Sprintf("node %d to report the change", i+1), func() error {
				if _, ok := streams[i].after(m.answered); !ok {
					return fmt.Errorf("it has not")
				}
				return nil
			})
		}
		var last time.Duration
		for i := range healthy {
			waitForReport(i)
			after, _ := streams[i].after(m.answered)
			last = max(last, after)
		}
		took = append(took, last)
		if _, ok := streams[size-1].after(m.answered); ok {
			t.Error("report of the node that is cut off: got one, want none")
		}
		for _, proxy := range w.nodes[size-1].nats {
			proxy.Mend()
		}
		waitForReport(size - 1)
		w.publishOne(e2e.Everybody)
		w.awaitHistory()
		for i, l := range streams {
			e2e.Wait(t, 4*e2e.Patience, "events after the change", func() error {
				l.mu.Lock()
				defer l.mu.Unlock()
				if len(l.got) == l.before {
					return fmt.Errorf("node %d has sent none", i+1)
				}
				return nil
			})
		}
		leave()
		m.reading.Wait()

		unlawful := make(map[int64]bool) // numbers of events
		positions := make(map[int64]uint64)
		for _, e := range w.ledger.Entries() {
			positions[e.N] = e.Position.Seq
			if e.To.Field == "topic" && (e.Position.Seq > removed.Seq || e.Sent.After(m.answered)) {
				unlawful[e.N] = true
			}
		}
		if len(unlawful) == 0 {
			t.Error("events published after the answer: got 0, want some")
		}
		for i, l := range streams {
			for j, n := range l.got {
				if isLater := positions[n] > removed.Seq; isLater != (j >= l.before) {
					t.Errorf("node %d: got event %d, of position %d, with a report of the change before it = %t, want %t (change: %s)",
						i+1, n, positions[n], j >= l.before, isLater, removed)
				}
				if unlawful[n] {
					t.Errorf("node %d: got event %d, which was published after the topic was removed at %s, want none", i+1, n, removed)
				}
			}
		}
	}
	// The order above is checked in each round. The time is that of the quickest one, since other load on
	// the machine may delay most of them.
	t.Logf("reported after the answer: %s", took)
	if quickest := slices.Min(took); quickest > time.Second {
		t.Errorf("time until both nodes have reported the change: got %s in the quickest round, want at most a second", quickest)
	}
}
