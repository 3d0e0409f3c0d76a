package hub

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Defaults of Options.
const (
	DefaultMaxEvents    = 10_000
	DefaultMaxAge       = 24 * time.Hour
	DefaultMaxBytes     = 64 << 20
	DefaultMaxEventSize = 1 << 20
)

// Options bound a hub's history. A field that is zero has its default. They may
// change while the hub runs.
type Options struct {
	MaxEvents    int           // retained events
	MaxAge       time.Duration // of a retained event
	MaxBytes     int64         // of the encoded events, and 128 an event
	MaxEventSize int           // bytes of one event's type and payload
}

func (o Options) withDefaults() Options {
	return Options{
		MaxEvents:    cmp.Or(o.MaxEvents, DefaultMaxEvents),
		MaxAge:       cmp.Or(o.MaxAge, DefaultMaxAge),
		MaxBytes:     cmp.Or(o.MaxBytes, DefaultMaxBytes),
		MaxEventSize: cmp.Or(o.MaxEventSize, DefaultMaxEventSize),
	}
}

// ErrClosed is returned by Publish after Close.
var ErrClosed = errors.New("hub is closed")

// Hub is a history with its connections. All its methods may be called from
// any goroutine.
type Hub struct {
	// Static after New.
	epoch  string
	signal chan struct{} // one slot: there are dirty lanes
	done   chan struct{} // closed by Close
	closed sync.Once
	waker  sync.WaitGroup

	// mu is never held during a write to a client, and for no longer than it
	// takes to append a batch or to look up what one connection is to be sent.
	mu      sync.RWMutex
	history *history
	keys    keys
	addrs   map[netip.Addr]int
	users   int
	dirty   []*lane // with news for their listeners
	ending  Reason  // not empty: no connection is admitted any more

	// Clients must not fall behind history while nothing is sent to them, so each
	// quarter of it all are nudged to move their position.
	nudge      uint64
	nudgeBytes int64

	stats stats
}

// New starts an empty hub. Close must be called to end it.
func New(opts Options) *Hub {
	h := &Hub{
		epoch:   newEpoch(),
		signal:  make(chan struct{}, 1),
		done:    make(chan struct{}),
		history: newHistory(opts.withDefaults()),
		addrs:   make(map[netip.Addr]int),
	}
	h.waker.Go(h.wakeListeners)
	return h
}

// SetOptions changes the bounds. A smaller history evicts at once; connections
// that had not got there yet are told.
func (h *Hub) SetOptions(opts Options) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.history.opts = opts.withDefaults()
	h.history.evict(time.Now())
}

// MaxEventSize is the option that is in force.
func (h *Hub) MaxEventSize() int {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.history.opts.MaxEventSize
}

// Receipt is the answer to one published event.
type Receipt struct {
	Position    Position
	Connections int  // that it is for, on this node, at that moment
	Duplicate   bool // the key was known: nothing was stored
}

// BatchError says which event of a batch was refused. It wraps ErrInvalid or
// ErrTooLarge.
type BatchError struct {
	Index int // from 0
	Err   error
}

func (e *BatchError) Error() string { return fmt.Sprintf("event %d: %v", e.Index+1, e.Err) }
func (e *BatchError) Unwrap() error { return e.Err }

// Publish appends the events, all or none, and wakes whom they are for. Its
// errors are a *BatchError and ErrClosed.
func (h *Hub) Publish(events ...Event) ([]Receipt, error) {
	maxSize := h.MaxEventSize()
	encodings := make([]encoded, len(events))
	for i := range events {
		if err := events[i].validate(maxSize); err != nil {
			return nil, &BatchError{i, err}
		}
		encodings[i] = encode(&events[i], h.epoch)
	}

	receipts := make([]Receipt, len(events))
	now := time.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ending == HubClosed {
		return nil, ErrClosed
	}
	h.keys.expire(now)
	for i, enc := range encodings {
		seq, known := h.keys.seqs[enc.event.Key]
		if !known {
			seq = h.append(enc, now)
		}
		receipts[i] = Receipt{Position{h.epoch, seq}, h.audience(enc.event.Targets), known}
	}
	select {
	case h.signal <- struct{}{}:
	default:
	}
	return receipts, nil
}

// append adds one event and marks the lanes of those it is for. mu is held.
func (h *Hub) append(enc encoded, now time.Time) uint64 {
	e := h.history.append(enc, now)
	seq := h.history.head
	if enc.event.Key != "" {
		h.keys.add(enc.event.Key, seq, now)
	}
	for _, l := range e.lanes {
		h.mark(l)
	}
	h.stats.published.Add(1)
	h.nudgeBytes += e.cost()
	if seq-h.nudge >= uint64(h.history.opts.MaxEvents+3)/4 || h.nudgeBytes >= h.history.opts.MaxBytes/4 {
		h.nudge, h.nudgeBytes = seq, 0
		h.mark(h.history.all)
	}
	return seq
}

func (h *Hub) mark(l *lane) {
	if !l.dirty && len(l.conns) > 0 {
		l.dirty = true
		h.dirty = append(h.dirty, l)
	}
}

// wakeListeners wakes the listeners of dirty lanes. It runs beside the
// publishers, so that publishing to many costs no more than publishing to one;
// what is published meanwhile is woken for in one go.
func (h *Hub) wakeListeners() {
	var conns []*Conn
	for {
		select {
		case <-h.done:
			return
		case <-h.signal:
		}
		h.mu.Lock()
		for _, l := range h.dirty {
			l.dirty = false
			conns = append(conns, l.conns...)
		}
		clear(h.dirty)
		h.dirty = h.dirty[:0]
		h.mu.Unlock()
		for _, c := range conns {
			c.poke()
		}
		clear(conns)
		conns = conns[:0]
	}
}

// audience counts the connections that listen to one of the targets. mu is held.
func (h *Hub) audience(targets []Target) int {
	var few [4]*lane
	lanes := few[:0]
	for _, t := range targets {
		lanes = h.history.lanesFor(t, lanes)
	}
	if len(lanes) == 1 {
		return len(lanes[0].conns)
	}
	seen := make(map[*Conn]struct{})
	for _, l := range lanes {
		for _, c := range l.conns {
			seen[c] = struct{}{}
		}
	}
	return len(seen)
}

// Shutdown ends all connections and admits no more, since the process is about
// to end. Publishing goes on until Close.
func (h *Hub) Shutdown() { h.end(Shutdown, true) }

// EndStreams ends all connections because nothing serves the hub any more. The
// history stays, and others may connect later.
func (h *Hub) EndStreams() { h.end(HubClosed, false) }

// Close ends the hub, and the connections that are still open.
func (h *Hub) Close() {
	h.end(HubClosed, true)
	h.closed.Do(func() { close(h.done) })
	h.waker.Wait()
}

func (h *Hub) end(reason Reason, forGood bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if forGood && h.ending != HubClosed {
		h.ending = reason
	}
	for _, c := range slices.Clone(h.history.all.conns) {
		h.detach(c, reason)
	}
}
