package hub

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"
)

// sharedLog is a store that several hubs share. Any goroutine may call its methods.
type sharedLog struct {
	epoch string

	mu      sync.Mutex
	records []Record // by ascending seq, without the removed ones
	next    uint64
	changed chan struct{} // closed and replaced at each change
}

func newSharedLog() *sharedLog {
	return &sharedLog{epoch: NewEpoch(), next: 1, changed: make(chan struct{})}
}

func (l *sharedLog) change(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
	close(l.changed)
	l.changed = make(chan struct{})
}

// remove removes the records with the seqs from..to.
func (l *sharedLog) remove(from, to uint64) {
	l.change(func() {
		var kept []Record
		for _, r := range l.records {
			if r.Seq < from || r.Seq > to {
				kept = append(kept, r)
			}
		}
		l.records = kept
	})
}

// sharedLogNode is the log as the store of one hub.
type sharedLogNode struct {
	*sharedLog
	away bool // the node cannot reach the log; guarded by sharedLog.mu
}

var errAway = errors.New("the servers are away")

// set cuts the node off from the log, or connects it again.
func (n *sharedLogNode) set(away bool) { n.change(func() { n.away = away }) }

func (n *sharedLogNode) Append(_ context.Context, entries []Entry) (stored []Stored, err error) {
	n.change(func() {
		if n.away {
			err = fmt.Errorf("%w: %w", ErrNotStored, errAway)
			return
		}
		for _, e := range entries {
			n.records = append(n.records, Record{n.next, time.Now(), e.Data})
			stored = append(stored, Stored{Position: Position{Epoch: n.epoch, Seq: n.next}})
			n.next++
		}
	})
	return stored, err
}

func (n *sharedLogNode) Tail(ctx context.Context, feed Feed) {
	feed.Begin(n.epoch, 1)
	head := uint64(0)
	for {
		n.mu.Lock()
		away, changed := n.away, n.changed
		var news []Record
		for _, r := range n.records {
			if r.Seq > head && !away {
				news = append(news, r)
				head = r.Seq
			}
		}
		n.mu.Unlock()
		feed.Deliver(news)
		if away {
			feed.Status(errAway, 0)
		} else {
			feed.Status(nil, 0)
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

func (*sharedLogNode) Retain(Options, uint64) {}
func (*sharedLogNode) Shared() bool           { return true }
func (*sharedLogNode) Close() error           { return nil }

// join returns a hub that shares the log, and its store.
func (l *sharedLog) join(t testing.TB, opts Options) (*Hub, *sharedLogNode) {
	t.Helper()
	h, n := newHub(t, opts), &sharedLogNode{sharedLog: l}
	useStore(t, h, n)
	return h, n
}
