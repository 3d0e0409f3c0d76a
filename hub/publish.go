package hub

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ea766355/caddy-sse/internal/netyield"
)

// PublishTimeout is how long [Hub.Publish] waits for the store and the history.
const PublishTimeout = 10 * time.Second

// Receipt is the result of one published event.
type Receipt struct {
	Position    Position
	Connections int  // number of connections on this node that the event was for when it was published
	Duplicate   bool // the key is known: nothing was stored, and Position is that of the first event
}

// BatchError says which event of a batch was refused. It wraps [ErrInvalid] or
// [ErrTooLarge].
type BatchError struct {
	Index int // of the event, from 0
	Err   error
}

func (e *BatchError) Error() string { return fmt.Sprintf("event %d: %v", e.Index+1, e.Err) }
func (e *BatchError) Unwrap() error { return e.Err }

// Publish stores the events, all or none, in order. It returns when the history of this
// node has them, which wakes their subscribers. It does not wait for clients. While more is
// published than this node can write, it waits for up to 50 ms more, so that clients keep up.
// It waits for ctx, but at most [PublishTimeout]. It sets Event.At. The receipts are in the
// order of the events.
//
// Its errors: a [*BatchError] if an event is invalid; an error that wraps [ErrNotStored] if
// nothing was stored; an [*Uncertain], which wraps [ErrUncertain], if that is not known.
// Any goroutine may call it.
func (h *Hub) Publish(ctx context.Context, events ...Event) ([]Receipt, error) {
	maxSize := h.MaxEventSize()
	now := time.Now()
	entries := make([]Entry, len(events))
	var yielder netyield.Yielder // a batch may take long
	yielder.Begin()
	bytes := 0
	for i := range events {
		e := &events[i]
		if err := e.validate(maxSize); err != nil {
			return nil, &BatchError{i, err}
		}
		e.At = now
		entries[i] = Entry{e.Key, encodeEvent(e)}
		bytes += len(entries[i].Data)
		yielder.Step()
	}
	// Before the store has the events: a publisher does not wait for the streams that its own
	// events wake.
	h.stacks.published.Add(int64(bytes))
	stored, err := h.storeEntries(ctx, entries)
	if err != nil {
		return nil, err
	}

	h.yieldToWriters(time.Now())
	receipts := make([]Receipt, len(events))
	connections := 0
	yielder.Begin()
	for i, s := range stored {
		if s.Duplicate {
			s.Position = h.withTag(s.Position)
			h.repeats.add(s.Position, time.Now())
		} else {
			s.Position.Tag = TagOf(entries[i].Data)
			h.stats.published.Add(1)
		}
		if i == 0 || !slices.Equal(events[i].Targets, events[i-1].Targets) {
			connections = h.countReceivers(events[i].Targets)
		}
		receipts[i] = Receipt{s.Position, connections, s.Duplicate}
		yielder.Step()
	}
	return receipts, nil
}

// withTag returns the position with its tag, if the history still has the record. Any
// goroutine may call it. The caller must not hold Hub.mu.
func (h *Hub) withTag(p Position) Position {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if p.Epoch == h.history.epoch {
		return h.history.position(p.Seq)
	}
	return p
}

// storeEntries appends to the store and waits until the history has the entries, but at
// most [PublishTimeout]. The answers are in the order of the entries. Its errors are those
// of [Hub.Publish]. Any goroutine may call it. The caller must not hold Hub.mu.
func (h *Hub) storeEntries(ctx context.Context, entries []Entry) ([]Stored, error) {
	ctx, cancel := context.WithTimeout(ctx, PublishTimeout)
	defer cancel()
	stored, err := h.appendAndWait(ctx, entries)
	if errors.Is(err, ErrNotStored) {
		err = h.uncertainKeys.reclassify(entries, err, time.Now())
	}
	if errors.Is(err, ErrUncertain) {
		h.uncertainKeys.add(entries, time.Now())
		keys := make([]string, len(entries))
		for i, e := range entries {
			keys[i] = e.Key
		}
		return nil, &Uncertain{keys, err}
	}
	return stored, err
}

// appendAndWait does the work of storeEntries, until ctx ends. It waits for a store that is
// open, appends, and waits for the history. If the store was replaced meanwhile and has
// certainly stored nothing, it begins again with the next store. Only storeEntries calls
// it.
func (h *Hub) appendAndWait(ctx context.Context, entries []Entry) (stored []Stored, err error) {
	for {
		var store Store
		var closed bool
		var problem error
		if h.await(ctx, func() bool {
			store, closed, problem = h.source.Store, h.isClosing, h.source.problem
			return h.source.open || closed
		}) != nil {
			if problem == nil {
				problem = errors.New("the history is still being read")
			}
			return nil, fmt.Errorf("%w: %w", ErrNotStored, problem)
		}
		if closed {
			return nil, fmt.Errorf("%w: the hub is closed", ErrNotStored)
		}
		begun := time.Now()
		if stored, err = store.Append(ctx, entries); err == nil {
			h.stats.commits.observe(int64(time.Since(begun)))
			break
		}
		if !errors.Is(err, ErrNotStored) || !h.check(func() bool { return h.source.Store != store }) {
			return nil, err
		}
	}
	var lost, arrived bool
	_ = h.await(ctx, func() bool { // an error means that neither is the case yet
		lost, arrived = slices.ContainsFunc(stored, h.isLost), h.isInHistory(stored)
		return lost || arrived || h.source.stopped
	})
	switch {
	case lost:
		return nil, fmt.Errorf("%w: the store accepted it, but the history was reset before this node received it", ErrUncertain)
	case !arrived:
		return nil, fmt.Errorf("%w: it was accepted, but this node has not received it yet", ErrUncertain)
	}
	return stored, nil
}

// isInHistory reports whether the history has, or had, everything that was stored. An entry
// of an earlier history counts as had: [Hub.isLost] finds those that never arrived. The
// caller holds Hub.mu.
func (h *Hub) isInHistory(stored []Stored) bool {
	return !slices.ContainsFunc(stored, func(s Stored) bool {
		return s.Position.Epoch == h.history.epoch && s.Position.Seq > h.history.head
	})
}

// isLost reports whether an entry belongs to a history that ended before the entry arrived
// in it. The caller holds Hub.mu.
func (h *Hub) isLost(s Stored) bool {
	return s.Position.Epoch != h.history.epoch && !slices.ContainsFunc(h.endedHistories, func(end Position) bool {
		return s.Position.Epoch == end.Epoch && s.Position.Seq <= end.Seq
	})
}

// check returns ready(), called with Hub.mu held for reading: ready must not block, change
// the hub, or lock Hub.mu. Any goroutine may call check. The caller must not hold Hub.mu.
func (h *Hub) check(ready func() bool) bool {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return ready()
}

// await waits until ready() is true, and returns nil; or until ctx ends, and returns the
// error of ctx. It calls ready as check does, again after each change ([Hub.notifyChange]).
// Any goroutine may call await. The caller must not hold Hub.mu.
func (h *Hub) await(ctx context.Context, ready func() bool) error {
	h.waiters.Add(1) // before the first check, so that no change is missed
	defer h.waiters.Add(-1)
	for {
		var changed chan struct{}
		if h.check(func() bool { changed = h.changed; return ready() }) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
