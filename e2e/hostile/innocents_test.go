//go:build linux

package hostile

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ea766355/caddy-sse/e2e"
)

// innocents is the number of innocent streams.
const innocents = 20

// every is the interval of the innocent publisher. The publisher does not wait for answers.
// Otherwise it would publish less while the server is slow.
const every = 20 * time.Millisecond

// Phases of the measurement.
type phase int

const (
	between phase = iota // not measured
	quiet
	attacked
	phases
)

// innocent is the clients that must not suffer: the streams of a user, and the publisher for this user.
type innocent struct {
	t         *testing.T
	server    *e2e.Server
	publisher *e2e.Publisher
	followers []*e2e.Follower
	stop      context.CancelFunc
	running   sync.WaitGroup

	mu      sync.Mutex
	now     phase
	answers [phases][]time.Duration // times from a publish to its answer
	phaseOf []span
}

// span is a duration in a phase.
type span struct {
	phase    phase
	from, to time.Time
}

// newInnocents returns when all streams are open. If fresh, the publisher uses a new connection for each
// event.
func newInnocents(t *testing.T, s *e2e.Server, fresh bool) *innocent {
	in := &innocent{t: t, server: s, publisher: s.Publisher()}
	for _, p := range e2e.Protocols {
		c := s.Client(p)
		t.Cleanup(c.Close)
		for range innocents / len(e2e.Protocols) {
			in.followers = append(in.followers, e2e.Follow(t, c, e2e.Identity{User: "innocent", Topics: []string{"news/innocent"}}))
		}
	}
	e2e.AwaitOpen(t, in.followers)
	ctx, cancel := context.WithCancel(t.Context())
	in.stop = cancel
	in.running.Go(func() { in.publish(ctx, fresh) })
	t.Cleanup(func() {
		cancel()
		in.running.Wait()
	})
	return in
}

// publish publishes until ctx ends.
func (in *innocent) publish(ctx context.Context, fresh bool) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		in.running.Go(func() {
			began := time.Now()
			in.mu.Lock()
			now := in.now
			in.mu.Unlock()
			if fresh {
				in.publisher.Close()
			}
			within, cancel := context.WithTimeout(context.Background(), e2e.Patience)
			defer cancel()
			if err := in.publisher.Publish(within, e2e.Event{To: e2e.To("user", "innocent"), Size: 200}); err != nil {
				in.t.Errorf("publishing: %v", err)
				return
			}
			took := time.Since(began)
			in.mu.Lock()
			in.answers[now] = append(in.answers[now], took)
			in.mu.Unlock()
		})
	}
}

// observe assigns the events of the next while to a phase.
func (in *innocent) observe(p phase, d time.Duration) {
	from := time.Now()
	in.enter(p)
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-in.t.Context().Done():
	}
	in.enter(between)
	in.phaseOf = append(in.phaseOf, span{p, from, time.Now()})
}

func (in *innocent) enter(p phase) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.now = p
}

// awaitAlone waits until there are no other streams.
func (in *innocent) awaitAlone() {
	in.t.Helper()
	e2e.Wait(in.t, e2e.Patience, "the attacker's streams to end", func() error {
		if n := in.server.Status().Connections; n != innocents {
			return fmt.Errorf("%d streams are open, and not %d", n, innocents)
		}
		return nil
	})
}

// finish checks that all streams got everything, once and in order, without a gap, and that none was
// ended.
func (in *innocent) finish() {
	in.t.Helper()
	in.stop()
	in.running.Wait()
	in.publisher.Close()
	e2e.AwaitAll(in.t, in.publisher.Ledger, in.followers)
	for i, f := range in.followers {
		if opened, lost := f.Streams(); opened != 1 || len(f.Gaps()) > 0 {
			in.t.Errorf("stream %d was told the gaps %q, and ended: %q", i, f.Gaps(), lost)
		}
	}
	if n := in.publisher.Ledger.Len(); n == 0 {
		in.t.Error("nothing was published, so this means nothing")
	}
}

// deliveries returns the times from a publish until a stream had the event.
func (in *innocent) deliveries() (times [phases][]time.Duration) {
	sent := make(map[int64]time.Time)
	for _, e := range in.publisher.Ledger.Entries() {
		sent[e.N] = e.Sent
	}
	for _, f := range in.followers {
		for _, r := range f.Received() {
			at := sent[r.N]
			if i := slices.IndexFunc(in.phaseOf, func(s span) bool { return !at.Before(s.from) && at.Before(s.to) }); i >= 0 {
				times[in.phaseOf[i].phase] = append(times[in.phaseOf[i].phase], r.At.Sub(at))
			}
		}
	}
	return times
}
