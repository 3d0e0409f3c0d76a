package hub

import (
	"context"
	"errors"
	"sync"
	"time"
)

// Store orders records and, unless it is [Memory], keeps them longer than the process
// lives. It does not interpret records. A record reaches clients only when Tail delivers
// it: so all nodes that share a store see the same order, and nothing is delivered before
// it is stored. Any goroutine may call the methods, also before Tail; Tail itself is called
// once. Package storetest checks this contract.
type Store interface {
	// Append stores the entries, in order, all or none. It returns when they are as
	// durable as the store makes them, and not before Feed.Begin was called. An entry whose
	// Key was stored within KeyLifetime, also by an earlier process, is not stored
	// again: its answer has the position of the first one. If an entry with the same key
	// is being stored, Append waits for it. Append may set keys that are empty.
	//
	// Its errors: a *BatchError if an entry is too large for the store, and nothing was
	// stored. An error that wraps ErrNotStored if it is certain that nothing was stored and
	// nothing will be. An error that wraps ErrUncertain if only another Append of the
	// same entries with the same keys can tell.
	Append(ctx context.Context, entries []Entry) ([]Stored, error)

	// Tail delivers the whole retained history to feed, in order, and then every record
	// that is stored, until ctx ends. It retries by itself what fails. It is called once,
	// and one goroutine at a time calls feed.
	Tail(ctx context.Context, feed Feed)

	// Retain tells the store the bounds of the hub's history, and the oldest seq that the
	// hub retains. The store may drop older records at any later time, and records that
	// exceed the bounds even before Tail has delivered them. It is called before Tail,
	// with 0, and then with the hub locked: it must not block, and must not call feed.
	Retain(opts Options, oldest uint64)

	// Shared reports whether others append to the store too. Then a client's position
	// may be one that this node does not know yet. It may be called with the hub locked:
	// it must not block.
	Shared() bool

	// Close closes the store. It is called after Tail has returned, and waits for Append.
	Close() error
}

// Entry is a record to be stored.
type Entry struct {
	Key  string // idempotency key; empty: none
	Data []byte // not empty; it must not change afterwards
}

// Stored is the answer to one appended [Entry].
type Stored struct {
	Position  Position // without its tag
	Duplicate bool     // the key is known, and Position is that of the first entry with it
}

// Record is an entry with its place in a store.
type Record struct {
	Seq  uint64
	At   time.Time // when it was stored, by the clock of this node
	Data []byte    // it must not change afterwards
}

// Feed is how a [Store] reports to its hub.
type Feed interface {
	// Begin begins a history in which nothing before oldest is known. It is called first.
	// It is called again when records were lost, when a position was used twice, or
	// when the store is another one than before.
	//
	// If epoch is that of the hub's history, this history continues, and have is its
	// head. If the store ends before have, or if its record there has a TagOf that
	// differs from have.Tag, it must call Begin again, with an epoch that was never
	// used. have.Seq is 0 if the hub has nothing of the epoch. A zero have.Tag is not
	// known, and must not be compared.
	Begin(epoch string, oldest uint64) (have Position)

	// Deliver continues the history. Seqs ascend. A seq that is left out is a record that
	// the store does not have any more. Records that the hub already has are ignored.
	Deliver(records []Record)

	// Status reports why the store cannot be reached (nil: it can), and how many of its
	// records are not delivered yet. The history opens at the first nil and 0.
	Status(problem error, behind uint64)
}

// Errors that [Hub.Publish] and [Store].Append wrap.
var (
	// ErrNotStored means that nothing was stored: no client will see the events.
	ErrNotStored = errors.New("not stored")

	// ErrUncertain means that the events may or may not have been stored. To know,
	// publish them again with the same keys: they are not stored twice.
	ErrUncertain = errors.New("the events may or may not have been stored")

	errOpening = errors.New("the store is opening")
)

// Uncertain is an [ErrUncertain], with the keys for publishing again.
type Uncertain struct {
	Keys []string // of the events, in order
	Err  error
}

func (e *Uncertain) Error() string { return e.Err.Error() }
func (e *Uncertain) Unwrap() error { return e.Err }

// startTimeout is how long a client waits for a history that is not open, or that has
// not reached the client's position.
const startTimeout = 5 * time.Second

// source is the store of a hub, and its last status. It is guarded by Hub.mu.
type source struct {
	Store             // nil before Use
	begun   bool      // the history is that of the store
	open    bool      // the history is complete: it may be served
	problem error     // why the store cannot be reached; nil: it can
	since   time.Time // when the problem began
	behind  uint64
	stopped bool // the hub is closed: the store delivers nothing any more
}

// retain tells the store what the hub retains. It does nothing before Use. As long as the
// history is that of the store before, the hub retains nothing of this one. The caller
// holds Hub.mu for writing.
func (s *source) retain(h *history) {
	switch {
	case s.Store == nil:
	case s.begun:
		s.Retain(h.opts, h.oldest)
	default:
		s.Retain(h.opts, 0)
	}
}

// Use makes store the store of the hub, which closes it later, and closes the store before.
// Connections continue. While the store opens, the hub serves the history that it has. If
// the store then has another history, connections are sent sse.gap. The error is that of
// closing the store before: also then the hub uses store. It must not be called after
// Close, or with a store that another hub has. Any goroutine may call it.
func (h *Hub) Use(store Store) error {
	h.storeSwitch.Lock()
	defer h.storeSwitch.Unlock()
	err := h.replaceStore(store)
	ctx, cancel := context.WithCancel(context.Background())
	var tail sync.WaitGroup
	tail.Go(func() { store.Tail(ctx, feed{h}) })
	h.stopTail = func() {
		cancel()
		tail.Wait()
	}
	return err
}

// replaceStore stops and closes the store, if there is one, and makes next the store that
// Publish appends to. If next is nil, as at the end of the hub, the closed store stays, and
// refuses. The error is that of closing. The caller holds h.storeSwitch. The caller must
// not hold Hub.mu.
func (h *Hub) replaceStore(next Store) error {
	if h.stopTail != nil {
		h.stopTail()
		h.stopTail = nil
	}
	h.mu.Lock()
	before := h.source.Store
	if next != nil {
		h.source = source{Store: next, open: h.source.open, problem: errOpening, since: time.Now()}
		h.source.retain(h.history)
	} else {
		h.source.stopped = true
		h.notifyChange()
	}
	h.mu.Unlock()
	if before == nil {
		return nil
	}
	return before.Close()
}
