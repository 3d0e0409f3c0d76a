package natsstore

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ea766355/caddy-sse/hub"
	"github.com/ea766355/caddy-sse/store/nats/natstest"
)

func TestMain(m *testing.M) {
	code := m.Run()
	natstest.Clean()
	os.Exit(code)
}

// streams numbers the streams, so that tests on the same servers use different ones.
var streams atomic.Int64

func newStream() string { return "T" + strconv.FormatInt(streams.Add(1), 10) }

// someOptions are the bounds of the histories of these tests.
var someOptions = hub.Options{MaxEvents: 100_000, MaxAge: time.Hour, MaxBytes: 64 << 20, MaxEventSize: 1 << 20}

func openStore(t testing.TB, stream string, replicas int, urls ...string) *store {
	t.Helper()
	s, err := open(config{servers: urls, stream: stream, replicas: replicas, hub: "test"})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// node is an open store and a feed that keeps what is delivered.
type node struct {
	*store
	t testing.TB

	mu        sync.Mutex
	hold      func() // not nil: called before each delivery
	changed   chan struct{}
	histories []history
	end       hub.Position // end of the history that the hub had before
	problem   error
	worked    int // how often a problem has ended
	open      bool
}

// history has the records that were delivered after one Begin.
type history struct {
	epoch   string
	oldest  uint64
	head    uint64 // last delivered seq
	records []hub.Record
}

// startNode opens a store and tails it until the test ends.
func startNode(t testing.TB, stream string, replicas int, opts hub.Options, urls ...string) *node {
	t.Helper()
	return tailNode(t, openStore(t, stream, replicas, urls...), opts, hub.Position{})
}

// tailNode tails a store until the test ends. end is the end of the hub's history.
func tailNode(t testing.TB, s *store, opts hub.Options, end hub.Position) *node {
	t.Helper()
	n := &node{store: s, t: t, changed: make(chan struct{}), end: end, problem: errClosed}
	n.Retain(opts, 0)
	ctx, cancel := context.WithCancel(context.Background())
	var tail sync.WaitGroup
	tail.Go(func() { n.Tail(ctx, n) })
	t.Cleanup(func() {
		cancel()
		tail.Wait()
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

func (n *node) Begin(epoch string, oldest uint64) (have hub.Position) {
	n.store.mu.Lock()
	known := n.known
	n.store.mu.Unlock()
	if known != nil && known.epoch != epoch {
		n.t.Errorf("epoch of Begin: got %s, want that of published positions, %s", epoch, known.epoch)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if goesOn := n.newest(); goesOn.epoch == epoch && len(n.histories) > 0 {
		l := &n.histories[len(n.histories)-1]
		l.head = max(l.head, oldest-1)
		n.notify()
		return hub.Position{Epoch: epoch, Seq: l.head}
	}
	head := oldest - 1
	if n.end.Epoch == epoch {
		have, head = n.end, max(head, n.end.Seq)
	}
	n.histories = append(n.histories, history{epoch: epoch, oldest: oldest, head: head})
	n.notify()
	return have
}

func (n *node) Deliver(records []hub.Record) {
	n.mu.Lock()
	if hold := n.hold; hold != nil {
		n.mu.Unlock()
		hold()
		n.mu.Lock()
	}
	defer n.mu.Unlock()
	l := &n.histories[len(n.histories)-1]
	for _, r := range records {
		if r.Seq <= l.head {
			n.t.Errorf("seq after %d: got %d, want a later one", l.head, r.Seq)
		}
		l.head = r.Seq
		l.records = append(l.records, r)
	}
	n.notify()
}

func (n *node) Status(problem error, behind uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.problem != nil && problem == nil {
		n.worked++
	}
	n.problem = problem
	n.open = n.open || problem == nil && behind == 0
	n.notify()
}

func (n *node) notify() {
	close(n.changed)
	n.changed = make(chan struct{})
}

// await waits until ready returns true. ready is called with mu held.
func (n *node) await(what string, ready func() bool) {
	n.t.Helper()
	timeout := time.NewTimer(2 * time.Minute)
	defer timeout.Stop()
	for {
		n.mu.Lock()
		ok, changed := ready(), n.changed
		n.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-timeout.C:
			n.t.Fatalf("timed out waiting for %s", what)
		}
	}
}

// newest returns the current history. mu is held.
func (n *node) newest() history {
	if len(n.histories) == 0 {
		return history{}
	}
	return n.histories[len(n.histories)-1]
}

// upTo waits for the event at p, and returns its history.
func (n *node) upTo(p hub.Position) (l history) {
	n.t.Helper()
	n.await(fmt.Sprint("event ", p), func() bool {
		l = n.newest()
		return n.open && l.epoch == p.Epoch && l.head >= p.Seq
	})
	return l
}

// texts returns the data of the delivered records, in order.
func (l history) texts() (texts []string) {
	for _, r := range l.records {
		texts = append(texts, string(r.Data))
	}
	return texts
}

// at returns the data of the record at seq.
func (l history) at(seq uint64) string {
	for _, r := range l.records {
		if r.Seq == seq {
			return string(r.Data)
		}
	}
	return ""
}

func entry(data, key string) hub.Entry { return hub.Entry{Data: []byte(data), Key: key} }

// publish appends entries one by one. All must be stored. It returns the last position.
func (n *node) publish(texts ...string) (last hub.Position) {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	for _, text := range texts {
		stored, err := n.Append(ctx, []hub.Entry{entry(text, "")})
		if err != nil {
			n.t.Fatal(err)
		}
		last = stored[0].Position
	}
	return last
}

// numbered returns n different texts.
func numbered(prefix string, n int) []string {
	texts := make([]string, n)
	for i := range texts {
		texts[i] = prefix + strconv.Itoa(i)
	}
	return texts
}
