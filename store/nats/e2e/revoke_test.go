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

// loser is a stream that loses a topic.
type loser struct {
	mu   sync.Mutex
	got  []int64   // numbers of events
	told time.Time // when sse.topics came
}

// read reads the stream to its end.
func (l *loser) read(s *e2e.Stream) {
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
			l.told = time.Now()
		}
		l.mu.Unlock()
	}
}

// after returns how long after a moment the stream was told of the change, and whether it was.
func (l *loser) after(moment time.Time) (took time.Duration, told bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.told.Sub(moment), !l.told.IsZero()
}

// TestPromise11RevokedOnThreeNodes removes a topic of a user with a stream on each of three nodes. One of
// them is cut off from NATS. No stream gets an event that is published after the answer. The other two are
// told of the change within a second.
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

	// Events for the topic all the time, through the nodes that are not cut off.
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

	var took []time.Duration
	for round := range rounds {
		m := &member{Member: e2e.NewMember(fmt.Sprint("loser ", round), removedTopic)}
		losers := make([]*loser, size)
		leaving, leave := context.WithCancel(t.Context())
		for i, n := range w.nodes {
			losers[i] = new(loser)
			e2e.Wait(t, e2e.Patience, "a stream", func() error {
				s, err := e2e.Roaming(n.addr()).Open(leaving, e2e.Identity{User: m.Name, Topics: []string{removedTopic}}, "")
				if err == nil {
					m.reading.Go(func() { losers[i].read(s) })
				}
				return err
			})
			e2e.Wait(t, e2e.Patience, "events on the stream", func() error {
				losers[i].mu.Lock()
				defer losers[i].mu.Unlock()
				if len(losers[i].got) == 0 {
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
		told := func(i int) {
			e2e.Wait(t, 2*e2e.Patience, fmt.Sprintf("node %d to tell of the change", i+1), func() error {
				if _, ok := losers[i].after(m.answered); !ok {
					return fmt.Errorf("it has not")
				}
				return nil
			})
		}
		for i := range healthy {
			told(i)
			after, _ := losers[i].after(m.answered)
			took = append(took, after)
		}
		if _, ok := losers[size-1].after(m.answered); ok {
			t.Error("the node was not cut off")
		}
		for _, proxy := range w.nodes[size-1].nats {
			proxy.Mend()
		}
		told(size - 1)
		w.publishOne(e2e.Everybody)
		w.awaitWhole()
		leave()
		m.reading.Wait()

		unlawful := make(map[int64]bool) // numbers of events
		for _, e := range w.ledger.Entries() {
			if e.To.Field == "topic" && (e.Position.Seq > removed.Seq || e.Sent.After(m.answered)) {
				unlawful[e.N] = true
			}
		}
		if len(unlawful) == 0 {
			t.Error("nothing was published after the answer, so this means nothing")
		}
		for i, l := range losers {
			for _, n := range l.got {
				if unlawful[n] {
					t.Errorf("node %d sent event %d, which was published after the topic was removed at %s", i+1, n, removed)
				}
			}
		}
	}
	// The median, since other load on the machine may delay some.
	slices.Sort(took)
	t.Logf("told after the answer: %s", took)
	if median := took[len(took)/2]; median > time.Second {
		t.Errorf("the nodes that were not cut off told of the change %s after the answer", median)
	}
}
