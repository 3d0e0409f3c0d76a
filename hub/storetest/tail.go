package storetest

import (
	"context"
	"crypto/rand"
	"sync"
	"testing"
	"time"

	"github.com/ea766355/caddy-sse/hub"
)

// timeLimit is how long each step may take.
const timeLimit = 2 * time.Minute

// tail is the Feed of an open store. It checks the calls and keeps the records. Its
// methods may be called from any goroutine.
type tail struct {
	hub.Store
	t    *testing.T
	opts hub.Options // other than roomy: it calls Retain like a hub
	stop func()      // ends Tail, and then closes the store

	feeding sync.Mutex // held during each call of the feed

	mu      sync.Mutex
	changed chan struct{} // closed at each call of the feed
	end     hub.Position  // end of the history that the hub had before; Seq 0: none
	epoch   string
	oldest  uint64
	head    uint64
	records []hub.Record
	opened  bool
	atOpen  uint64 // head when the history was open
	epochs  int
}

// follow tails a store until the test ends, or stop is called.
func follow(t *testing.T, store hub.Store, opts hub.Options) *tail {
	return followFrom(t, store, opts, hub.Position{})
}

// followFrom is like follow, for a hub whose history ends at a position.
func followFrom(t *testing.T, store hub.Store, opts hub.Options, end hub.Position) *tail {
	l := &tail{Store: store, t: t, opts: opts, end: end, changed: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	var tailing sync.WaitGroup
	tailing.Go(func() { store.Tail(ctx, l) })
	l.stop = sync.OnceFunc(func() {
		cancel()
		tailing.Wait()
		if err := store.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	t.Cleanup(l.stop)
	return l
}

// lockFeed checks that only one goroutine calls the feed at a time.
func (l *tail) lockFeed() (unlock func()) {
	if !l.feeding.TryLock() {
		l.t.Error("goroutines that call the feed at once: got 2, want 1")
		l.feeding.Lock()
	}
	return l.feeding.Unlock
}

func (l *tail) Begin(epoch string, oldest uint64) (have hub.Position) {
	defer l.lockFeed()()
	l.mu.Lock()
	defer l.mu.Unlock()
	if epoch == "" || oldest == 0 {
		l.t.Errorf("Begin: got epoch %q and oldest %d, want a name and at least 1", epoch, oldest)
	}
	l.epochs++
	l.notify()
	if l.end.Seq > 0 && epoch == l.end.Epoch {
		l.epoch, l.head = epoch, l.end.Seq
		return l.end
	}
	l.epoch, l.oldest, l.head, l.records = epoch, oldest, oldest-1, nil
	return hub.Position{}
}

func (l *tail) Deliver(records []hub.Record) {
	defer l.lockFeed()()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.epochs == 0 {
		l.t.Error("first call of the feed: got Deliver, want Begin")
	}
	for _, r := range records {
		if r.Seq <= l.head && l.end.Epoch == l.epoch {
			continue // the hub has it
		}
		if r.Seq != l.head+1 {
			l.t.Errorf("seq after %d: got %d, want %d", l.head, r.Seq, l.head+1)
		}
		l.head = r.Seq
		l.records = append(l.records, r)
	}
	if l.end.Epoch == l.epoch {
		l.end = hub.Position{Epoch: l.epoch, Seq: l.head, Tag: l.end.Tag}
		if n := len(l.records); n > 0 {
			l.end.Tag = hub.TagOf(l.records[n-1].Data)
		}
	}
	if l.opts != roomy {
		l.Retain(l.opts, max(l.oldest, l.head+1-min(l.head, uint64(l.opts.MaxEvents))))
	}
	l.notify()
}

func (l *tail) Status(problem error, behind uint64) {
	defer l.lockFeed()()
	l.mu.Lock()
	defer l.mu.Unlock()
	if problem == nil && behind == 0 && !l.opened {
		if l.epochs == 0 {
			l.t.Error("Status of an open history: got it before Begin, want it after")
		}
		l.opened, l.atOpen = true, l.head
	}
	l.notify()
}

func (l *tail) notify() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// await waits until ready returns true. ready is called with mu held.
func (l *tail) await(what string, ready func() bool) {
	l.t.Helper()
	timeout := time.NewTimer(timeLimit)
	defer timeout.Stop()
	for {
		l.mu.Lock()
		ok, changed := ready(), l.changed
		l.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-timeout.C:
			l.t.Fatalf("timed out waiting for %s; the head is %d", what, l.head)
		}
	}
}

// open waits until the whole history was delivered.
func (l *tail) open() {
	l.t.Helper()
	l.await("an open history", func() bool { return l.opened })
}

// upTo waits for the event at seq, and returns all delivered records.
func (l *tail) upTo(seq uint64) []hub.Record {
	l.t.Helper()
	l.open()
	l.await("an event that was stored", func() bool { return l.head >= seq })
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.records
}

// mark stores one more record, with unique data, and returns all records up to it. All
// records that were stored before are among them.
func (l *tail) mark() []hub.Record {
	l.t.Helper()
	stored := publish(l.t, l, entry("mark "+rand.Text(), ""))
	return l.upTo(stored[0].Position.Seq)
}

// count counts the delivered events with this data.
func count(records []hub.Record, data string) (n int) {
	for _, r := range records {
		if string(r.Data) == data {
			n++
		}
	}
	return n
}

// texts counts the delivered events by their data.
func texts(records []hub.Record) map[string]int {
	n := make(map[string]int)
	for _, r := range records {
		n[string(r.Data)]++
	}
	return n
}
