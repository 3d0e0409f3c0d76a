package hub

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Defaults of Options.
const (
	DefaultMaxEvents    = 10_000
	DefaultMaxAge       = 24 * time.Hour
	DefaultMaxBytes     = 64 << 20
	DefaultMaxEventSize = 1 << 20
)

// nudgeEvery is how often at most heartbeats come early.
const nudgeEvery = 5 * time.Second

// Options bound a hub's history. A field that is zero has its default. They may
// change while the hub runs.
type Options struct {
	MaxEvents    int           // retained events
	MaxAge       time.Duration // of a retained event
	MaxBytes     int64         // of the heap that the history takes
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

// PublishTimeout is how long Publish tries before it gives up.
const PublishTimeout = 10 * time.Second

// Hub is a history with its connections. All its methods may be called from
// any goroutine.
type Hub struct {
	// Static after New.
	signal  chan struct{} // one slot: there are dirty lanes
	done    chan struct{} // closed by Close, at first
	stopped chan struct{} // closed by Close, when no connection is left
	closed  sync.Once
	waker   sync.WaitGroup

	// Guarded by using, which is held while one store takes another's place.
	using    sync.Mutex
	stopTail func()

	learning sync.Mutex // held while a shape is learned; before mu

	// mu is never held during a write to a client, nor for work that grows with the
	// number of connections, topics, targets or records.
	mu       sync.RWMutex
	history  *history
	ended    []Position // the ends of the last histories, oldest first
	source   source
	networks map[netip.Addr]int // connections of each
	users    int
	dirty    []*lane // with news for their listeners
	held     held
	ending   Reason        // not empty: no connection is admitted any more, for this reason
	closing  bool          // Close was called
	changed  chan struct{} // closed, and made anew, when the history has changed and somebody waits for that

	// Clients must not fall far behind history while nothing is sent to them, so
	// each quarter of it all are nudged to move their position; but not more often
	// than nudgeEvery, since what few are sent must not cost a write to all.
	nudge      uint64
	nudgeBytes int64
	nudged     time.Time

	waiting   atomic.Int64 // goroutines that wait for changed
	replaying atomic.Int64 // connections that get more than one batch

	stats stats

	// What writes for connections that were taken over.
	sweepers   []*sweeper
	sweeping   sync.WaitGroup // the sweepers
	writers    sync.WaitGroup // goroutines beside them
	taken      sync.WaitGroup // connections
	departures departures
}

// New starts a hub. It serves once Use has given it a store, and must be closed.
func New(opts Options) *Hub {
	h := &Hub{
		signal:   make(chan struct{}, 1),
		done:     make(chan struct{}),
		stopped:  make(chan struct{}),
		source:   source{problem: errOpening},
		networks: make(map[netip.Addr]int),
		changed:  make(chan struct{}),
	}
	h.history = newHistory(opts.withDefaults(), "", 1, &h.held)
	h.waker.Go(h.wakeListeners)
	for range runtime.GOMAXPROCS(0) {
		s := newSweeper(h)
		h.sweepers = append(h.sweepers, s)
		h.sweeping.Go(s.run)
	}
	return h
}

// SetOptions changes the bounds. A smaller history evicts at once; connections
// that had not got there yet are told.
func (h *Hub) SetOptions(opts Options) {
	h.mu.Lock()
	h.history.opts = opts.withDefaults()
	h.mu.Unlock()
	for !h.trim(time.Now()) {
	}
}

// trim evicts some of what exceeds the bounds, and reports whether that was all.
func (h *Hub) trim(now time.Time) bool {
	h.mu.Lock()
	trimmed := h.history.evict(now)
	h.source.retain(h.history)
	h.mu.Unlock()
	if !trimmed {
		runtime.Gosched() // others wait for the lock
	}
	return trimmed
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

// Publish stores the events, all or none, and returns when they are in history,
// which wakes whom they are for. Its errors are a *BatchError, and what wraps
// ErrNotStored or, as an *Uncertain, ErrUncertain. It gives up when ctx ends, and
// after PublishTimeout.
func (h *Hub) Publish(ctx context.Context, events ...Event) ([]Receipt, error) {
	maxSize := h.MaxEventSize()
	now := time.Now()
	entries := make([]Entry, len(events))
	for i := range events {
		e := &events[i]
		if err := e.validate(maxSize); err != nil {
			return nil, &BatchError{i, err}
		}
		e.At = now
		entries[i] = Entry{e.Key, encodeEvent(e)}
	}
	stored, err := h.store(ctx, entries)
	if err != nil {
		return nil, err
	}

	h.letSweep(time.Now())
	receipts := make([]Receipt, len(events))
	for i, s := range stored {
		if s.Duplicate {
			s.Position = h.complete(s.Position)
		} else {
			s.Position.Tag = TagOf(entries[i].Data)
			h.stats.published.Add(1)
		}
		receipts[i] = Receipt{s.Position, h.audience(events[i].Targets), s.Duplicate}
	}
	return receipts, nil
}

// complete adds the tag to a position, if the history still has it.
func (h *Hub) complete(p Position) Position {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if p.Epoch == h.history.epoch {
		return h.history.position(p.Seq)
	}
	return p
}

// store appends to the store, and waits until its tail has brought the entries.
// Its errors are those of Publish.
func (h *Hub) store(ctx context.Context, entries []Entry) ([]Stored, error) {
	ctx, cancel := context.WithTimeout(ctx, PublishTimeout)
	defer cancel()
	stored, err := h.tryStore(ctx, entries)
	if errors.Is(err, ErrUncertain) {
		keys := make([]string, len(entries))
		for i, e := range entries {
			keys[i] = e.Key
		}
		return nil, &Uncertain{keys, err}
	}
	return stored, err
}

func (h *Hub) tryStore(ctx context.Context, entries []Entry) (stored []Stored, err error) {
	for {
		var store Store
		var closed bool
		var problem error
		if h.await(ctx, func() bool {
			store, closed, problem = h.source.Store, h.closing, h.source.problem
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
		if stored, err = store.Append(ctx, entries); err == nil {
			break
		}
		if !errors.Is(err, ErrNotStored) || !h.holds(func() bool { return h.source.Store != store }) {
			return nil, err
		}
	}
	var lost bool
	if h.await(ctx, func() bool {
		lost = slices.ContainsFunc(stored, h.lost)
		return lost || h.reached(stored)
	}) != nil {
		return nil, fmt.Errorf("%w: it was accepted, but this node has not received it yet", ErrUncertain)
	}
	if lost {
		return nil, fmt.Errorf("%w: it was accepted, but the history began anew before this node had received it", ErrUncertain)
	}
	return stored, nil
}

// reached reports whether all that was stored is in history, or was. mu is held.
func (h *Hub) reached(stored []Stored) bool {
	return !slices.ContainsFunc(stored, func(s Stored) bool {
		return s.Position.Epoch == h.history.epoch && s.Position.Seq > h.history.head
	})
}

// lost reports whether what was stored belongs to a history that ended before it
// was in there. mu is held.
func (h *Hub) lost(s Stored) bool {
	return s.Position.Epoch != h.history.epoch && !slices.ContainsFunc(h.ended, func(end Position) bool {
		return s.Position.Epoch == end.Epoch && s.Position.Seq <= end.Seq
	})
}

// holds calls ready with mu held.
func (h *Hub) holds(ready func() bool) bool {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return ready()
}

// await waits until ready, which is called with mu held, or ctx ends.
func (h *Hub) await(ctx context.Context, ready func() bool) error {
	h.waiting.Add(1) // before it looks, so that no change is missed
	defer h.waiting.Add(-1)
	for {
		var changed chan struct{}
		if h.holds(func() bool { changed = h.changed; return ready() }) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// notify tells whoever waits that the history has changed, and the waker that
// there are dirty lanes. mu is held.
func (h *Hub) notify() {
	if h.waiting.Load() > 0 {
		close(h.changed)
		h.changed = make(chan struct{})
	}
	h.wake()
}

// wake wakes the waker.
func (h *Hub) wake() {
	select {
	case h.signal <- struct{}{}:
	default:
	}
}

// append adds one record and marks the lanes of those it is for. mu is held.
func (h *Hub) append(enc encoded, now time.Time) {
	e := h.history.append(enc, now)
	for _, l := range e.lanes {
		h.mark(l)
	}
	if enc.event == nil && enc.command == nil {
		h.mark(h.history.all) // a hole concerns everybody
	}
	h.nudgeBytes += e.cost
	quarter := h.history.head-h.nudge >= uint64(h.history.opts.MaxEvents+3)/4 || h.nudgeBytes >= h.history.opts.MaxBytes/4
	if quarter && now.Sub(h.nudged) >= nudgeEvery {
		h.nudge, h.nudgeBytes, h.nudged = h.history.head, 0, now
		h.mark(h.history.all)
	}
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
	conns := make([]*Conn, 0, listenersAtOnce)
	for {
		select {
		case <-h.done:
			return
		case <-h.signal:
		}
		for l := h.nextDirty(); l != nil; l = h.nextDirty() {
			h.eachListener(l, conns, (*Conn).poke)
		}
		for h.letGo() {
		}
	}
}

// nextDirty takes a lane off the list of dirty ones.
func (h *Hub) nextDirty() *lane {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := len(h.dirty) - 1
	if n < 0 {
		return nil
	}
	l := h.dirty[n]
	h.dirty[n] = nil
	h.dirty = h.dirty[:n]
	l.dirty = false
	return l
}

// listenersAtOnce is how many listeners are copied under one lock.
const listenersAtOnce = 4096

// eachListener calls f, without the lock, with all connections that listen to the
// lane all the time. buf is used for copies. It goes from the end to the beginning:
// when a listener leaves, the last one takes its place, and may be met twice, but
// never be left out.
func (h *Hub) eachListener(l *lane, buf []*Conn, f func(*Conn)) {
	for n := -1; n != 0; {
		h.mu.RLock()
		end := len(l.conns)
		if n >= 0 {
			end = min(n, end)
		}
		n = max(0, end-listenersAtOnce)
		buf = buf[:0]
		for _, listener := range l.conns[n:end] {
			buf = append(buf, listener.Conn)
		}
		h.mu.RUnlock()
		for _, c := range buf {
			f(c)
		}
		clear(buf)
	}
}

// audience counts the connections that listen to one of the targets.
func (h *Hub) audience(targets []Target) int {
	lanes, total := h.lanesWithListeners(targets)
	if len(lanes) == 1 {
		return lanes[0].listeners
	}
	slices.SortFunc(lanes, func(a, b laneSize) int { return cmp.Compare(b.listeners, a.listeners) })
	counted := make(map[*Conn]struct{})
	for _, l := range lanes {
		if len(counted) >= total {
			break // the rest would be counted again
		}
		h.eachListener(l.lane, nil, func(c *Conn) { counted[c] = struct{}{} })
	}
	return len(counted)
}

// laneSize is a lane with how many listeners it has.
type laneSize struct {
	lane      *lane
	listeners int
}

// lanesWithListeners returns the lanes of the targets that have listeners, and how
// many connections there are.
func (h *Hub) lanesWithListeners(targets []Target) (sizes []laneSize, connections int) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	var few [4]*lane
	for _, l := range h.history.lanesFor(targets, few[:0]) {
		sizes = append(sizes, laneSize{l, len(l.conns)})
	}
	return sizes, len(h.history.all.conns)
}

// Shutdown ends all connections and admits no more, since the process is about
// to end. Publishing goes on until Close.
func (h *Hub) Shutdown() { h.end(Shutdown, true) }

// EndStreams ends all connections because nothing serves the hub any more. The
// history stays, and others may connect later.
func (h *Hub) EndStreams() { h.end(HubClosed, false) }

// EndOf ends the connections that were opened with one of these settings.
func (h *Hub) EndOf(settings []*Settings, reason Reason) {
	h.detachAll(reason, func(c *Conn) bool { return slices.Contains(settings, c.settings) })
}

// Close ends the hub, its store, and the connections that are still open. After
// Shutdown they, and those who come later, are told of that. To close it once more
// does nothing.
func (h *Hub) Close() error {
	var err error
	h.closed.Do(func() {
		h.mu.Lock()
		h.closing = true
		h.mu.Unlock()
		h.end(HubClosed, true)
		close(h.done)
		h.waker.Wait()
		h.taken.Wait()
		close(h.stopped)
		h.sweeping.Wait()
		h.departures.close()
		h.writers.Wait()
		h.using.Lock()
		defer h.using.Unlock()
		err = h.leaveStore(nil)
	})
	return err
}

// endAtOnce is how many connections are ended before others have mu.
const endAtOnce = 64

// end ends the connections that there are. Once it has ended them for good, the
// reason stays the same.
func (h *Hub) end(reason Reason, forGood bool) {
	h.mu.Lock()
	if forGood {
		h.ending = cmp.Or(h.ending, reason)
	}
	reason = cmp.Or(h.ending, reason)
	h.notify()
	h.mu.Unlock()
	h.detachAll(reason, func(*Conn) bool { return true })
}

// detachAll ends the connections that there are and that match.
func (h *Hub) detachAll(reason Reason, match func(*Conn) bool) {
	h.mu.RLock()
	all := h.history.all
	h.mu.RUnlock()
	var conns []*Conn
	h.eachListener(all, nil, func(c *Conn) {
		if match(c) {
			conns = append(conns, c)
		}
	})
	for some := range slices.Chunk(conns, endAtOnce) {
		h.mu.Lock()
		for _, c := range some {
			h.detach(c, reason)
		}
		h.mu.Unlock()
	}
}
