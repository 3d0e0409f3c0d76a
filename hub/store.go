package hub

import (
	"context"
	"errors"
	"sync"
	"time"
)

// Store orders events and, unless it is Memory, makes them outlive the process.
// Append never reaches clients: only what Tail delivers becomes history, so that
// all nodes that share a store see one order, and nothing is delivered before it
// is stored. All methods but Tail may be called from any goroutine, and before
// Tail; storetest checks the contract.
type Store interface {
	// Append stores the events, in order, all or none, and returns when they are
	// as durable as the store makes them. An event whose Key was stored within
	// KeyLifetime, also by an earlier process, is not stored again: its place in
	// the answer is the first one's. One with the same key that is under way is
	// waited for. It may set keys that are empty.
	//
	// Its error is a *BatchError when one of the events is too large for the store,
	// and nothing was stored. Else it wraps ErrNotStored when it is certain that
	// nothing was stored and nothing will be, and ErrUncertain when the same events
	// with the same keys must be appended again to know.
	Append(ctx context.Context, events []Event) ([]Stored, error)

	// Tail calls feed with the whole retained history, in order and without holes,
	// and then with every event that is stored, until ctx ends. What fails
	// meanwhile it retries by itself. It is called once, and feed by one goroutine
	// at a time.
	Tail(ctx context.Context, feed Feed)

	// Retain says how the hub bounds its history, and the oldest seq that it
	// retains. A store may drop what is older, in its own time, and what is older
	// than the bounds allow. It is called before Tail, with 0, and then with the
	// hub locked: it must not block, nor call feed.
	Retain(opts Options, oldest uint64)

	// Shared reports whether others append too, so that a position may be one
	// that this node has yet to learn of.
	Shared() bool

	// Close ends the store after Tail has returned. What Append is doing ends
	// first.
	Close() error
}

// Feed is what a store tells its hub.
type Feed interface {
	// Begin starts a life of the history in which nothing before oldest is known.
	// It is called first, and again when events were lost, a position was used
	// twice, or the store is not the one it was: with a new epoch, unless the
	// positions of the old one still mean the same events. Then the history goes on,
	// if what follows is not beyond its end.
	Begin(epoch string, oldest uint64)

	// Deliver continues the history. The first record's Seq is one more than the
	// last one's.
	Deliver(records []Record)

	// Status reports whether the store is reachable and how many of its events
	// are not delivered yet. The history is open as soon as that is 0.
	Status(connected bool, behind uint64)
}

// Stored is the answer to one appended event.
type Stored struct {
	Position  Position
	Duplicate bool // of an event that was there before
}

// Record is an event with its place in a store.
type Record struct {
	Seq   uint64
	Event Event
}

// Errors of Publish, and of Append.
var (
	// ErrNotStored means that nothing was stored: nobody will ever see the events.
	ErrNotStored = errors.New("not stored")

	// ErrUncertain means that the events may have been stored. Publishing them
	// again with the same keys tells, and does not double them.
	ErrUncertain = errors.New("stored or not, that is uncertain")
)

// Uncertain is an ErrUncertain with the keys to publish again with.
type Uncertain struct {
	Keys []string // of the events, in order
	Err  error
}

func (e *Uncertain) Error() string { return e.Err.Error() }
func (e *Uncertain) Unwrap() error { return e.Err }

// startTimeout is how long a client waits for a history that is not open yet, or
// not yet at the position that the client gives.
const startTimeout = 5 * time.Second

// source is a hub's store, and what it said last. Guarded by Hub.mu.
type source struct {
	Store          // nil before Use
	begun     bool // the history is the store's
	open      bool // once it was complete
	connected bool
	behind    uint64
}

// retain tells the store what the hub retains: nothing yet, as long as the
// history is the one of the store before.
func (s *source) retain(h *history) {
	switch {
	case s.Store == nil:
	case s.begun:
		s.Retain(h.opts, h.oldest)
	default:
		s.Retain(h.opts, 0)
	}
}

// Use makes the store the hub's, and closes the one before. The hub closes it in
// turn. Connections go on; those that were on another history are told. Its error
// is of closing the store before.
func (h *Hub) Use(store Store) error {
	h.using.Lock()
	defer h.using.Unlock()
	err := h.leaveStore(store)
	ctx, cancel := context.WithCancel(context.Background())
	var tail sync.WaitGroup
	tail.Go(func() { store.Tail(ctx, feed{h}) })
	h.stopTail = func() {
		cancel()
		tail.Wait()
	}
	return err
}

// leaveStore stops and closes the store, if there is one. Unless next is nil, what
// is published from then on waits for that. using is held.
func (h *Hub) leaveStore(next Store) error {
	if h.stopTail != nil {
		h.stopTail()
		h.stopTail = nil
	}
	h.mu.Lock()
	before := h.source.Store
	if next != nil {
		h.source = source{Store: next}
		h.source.retain(h.history)
	}
	h.mu.Unlock()
	if before == nil {
		return nil
	}
	return before.Close()
}

// feed is how the store reaches h.
type feed struct{ h *Hub }

func (f feed) Begin(epoch string, oldest uint64) {
	h := f.h
	h.mu.Lock()
	defer h.mu.Unlock()
	before := h.history
	h.source.begun = true
	if epoch == before.epoch && oldest <= before.head+1 {
		return // what there is already, Deliver leaves out
	}
	h.ended = Position{before.epoch, before.head}
	h.history = newHistory(before.opts, epoch, oldest)
	h.nudge, h.nudgeBytes = h.history.head, 0
	clear(h.dirty)
	h.dirty = h.dirty[:0]
	for _, c := range before.all.conns {
		c.seats = nil
		c.sitDown(h.history)
	}
	h.mark(h.history.all)
	h.notify()
}

func (f feed) Deliver(records []Record) {
	h := f.h
	h.mu.RLock()
	epoch, head := h.history.epoch, h.history.head // only feed changes them, which is not called meanwhile
	h.mu.RUnlock()
	if len(records) > 0 && records[0].Seq <= head {
		records = records[min(head-records[0].Seq+1, uint64(len(records))):]
	}
	if len(records) == 0 {
		return
	}
	encodings := make([]encoded, len(records))
	for i := range records {
		encodings[i] = encode(&records[i].Event, epoch)
	}
	for len(encodings) > 0 {
		n, targets := 0, 0
		for n < len(encodings) && (n == 0 || targets < targetsAtOnce) {
			targets += len(encodings[n].event.Targets)
			n++
		}
		h.deliver(encodings[:n])
		encodings = encodings[n:]
	}
}

// targetsAtOnce is about how many targets are indexed under one lock: a batch may
// have a million of them.
const targetsAtOnce = MaxTargets

func (h *Hub) deliver(events []encoded) {
	now := time.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, enc := range events {
		h.append(enc, now)
	}
	h.source.retain(h.history)
	h.notify()
}

func (f feed) Status(connected bool, behind uint64) {
	h := f.h
	h.mu.Lock()
	defer h.mu.Unlock()
	h.source.connected, h.source.behind = connected, behind
	if connected && behind == 0 && !h.source.open {
		h.source.open = true
		h.notify()
	}
}
