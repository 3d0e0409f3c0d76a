package hub

import (
	"context"
	"errors"
	"sync"
	"time"
)

// Store orders records and, unless it is Memory, makes them outlive the process.
// It knows nothing of what a record says. Append never reaches clients: only what
// Tail delivers becomes history, so that all nodes that share a store see one
// order, and nothing is delivered before it is stored. All methods but Tail may be
// called from any goroutine, and before Tail. Package storetest checks the
// contract.
type Store interface {
	// Append stores the entries, in order, all or none, and returns when they are
	// as durable as the store makes them, and after Feed.Begin was called. An entry
	// whose Key was stored within KeyLifetime, also by an earlier process, is not
	// stored again: its place in the answer is the first one's. One with the same
	// key that is under way is waited for. It may set keys that are empty.
	//
	// Its error is a *BatchError when one of the entries is too large for the store,
	// and nothing was stored. Else it wraps ErrNotStored when it is certain that
	// nothing was stored and nothing will be, and ErrUncertain when the same entries
	// with the same keys must be appended again to know.
	Append(ctx context.Context, entries []Entry) ([]Stored, error)

	// Tail calls feed with the whole retained history, in order, and then with
	// every record that is stored, until ctx ends. What fails meanwhile it retries
	// by itself. It is called once, and feed by one goroutine at a time.
	Tail(ctx context.Context, feed Feed)

	// Retain says how the hub bounds its history, and the oldest seq that it
	// retains. A store may drop what is older, in its own time, and what is older
	// than the bounds allow; it may do so before its own Tail has delivered it. It
	// is called before Tail, with 0, and then with the hub locked: it must not
	// block, nor call feed.
	Retain(opts Options, oldest uint64)

	// Shared reports whether others append too, so that a position may be one
	// that this node has yet to learn of.
	Shared() bool

	// Close ends the store after Tail has returned. What Append is doing ends
	// first.
	Close() error
}

// Entry is a record to be stored.
type Entry struct {
	Key  string // idempotency key; empty: none
	Data []byte // not empty, not changed afterwards
}

// Stored is the answer to one appended entry.
type Stored struct {
	Position  Position // without its tag
	Duplicate bool     // of an entry that was there before
}

// Record is an entry with its place in a store.
type Record struct {
	Seq  uint64
	At   time.Time // when it was stored, by the clock of this node
	Data []byte    // not changed afterwards
}

// Feed is what a store tells its hub.
type Feed interface {
	// Begin starts a life of the history in which nothing before oldest is known.
	// It is called first, and again when records were lost, a position was used
	// twice, or the store is not the one it was.
	//
	// If the epoch is the one of the hub's history, that goes on, and have is its
	// end. A store that ends before have, or keeps a record there whose TagOf
	// differs from have.Tag, must call Begin again, with an epoch that was never
	// used. have.Seq is 0 if the hub has nothing of the epoch. have.Tag may be
	// zero: then it is not known.
	Begin(epoch string, oldest uint64) (have Position)

	// Deliver continues the history. Seqs ascend. Those that are left out are
	// records that the store no longer has. Records that the hub has already are
	// passed over.
	Deliver(records []Record)

	// Status reports why the store cannot be reached, nil if it can, and how many
	// of its records are not delivered yet. The history is open as soon as that
	// is nil and 0.
	Status(problem error, behind uint64)
}

// Errors of Publish, and of Append.
var (
	// ErrNotStored means that nothing was stored: nobody will ever see the events.
	ErrNotStored = errors.New("not stored")

	// ErrUncertain means that the events may have been stored. Publishing them
	// again with the same keys tells, and does not double them.
	ErrUncertain = errors.New("the events may or may not have been stored")

	errOpening = errors.New("the store is opening")
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
	Store             // nil before Use
	begun   bool      // the history is the store's
	open    bool      // the history is complete: it may be served
	problem error     // not nil: the store cannot be reached
	since   time.Time // the problem is there
	behind  uint64
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
// turn. Connections go on. While the store opens, the history that is there is
// served; if the store turns out to be another history, the connections are told.
// Its error is of closing the store before.
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

// leaveStore stops and closes the store, if there is one. Unless next is nil, what
// is published from then on goes there. using is held.
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
	}
	h.mu.Unlock()
	if before == nil {
		return nil
	}
	return before.Close()
}
