package hub

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// MaxTraceLength is the largest length of [Event.Trace], in bytes.
const MaxTraceLength = 64

// Delivery says when an event with a [Event.Trace] was written to the connections of this
// node. Replays do not count.
type Delivery struct {
	Trace    string
	Position Position
	First    time.Time // of the first write
	Last     time.Time // of the last write
	Writes   int       // number of connections that the event was written to
}

const (
	// traceTimeout is how long a delivery is measured if some connections do not get the
	// event, because they stall or leave.
	traceTimeout = 5 * time.Second

	// tracesAtOnce is how many deliveries are measured at a time. More events are
	// delivered as ever, but their delivery is not reported.
	tracesAtOnce = 1000

	// traceBytes is what a trace takes of the heap as long as its entry is retained.
	traceBytes = 304
)

// trace measures the delivery of one event. Any goroutine may call noteWrite and finish.
type trace struct {
	id       string // Event.Trace
	position Position

	// expected is how many connections subscribed to the event when it was appended. A
	// connection counts once for each of its subscriptions that match. Then expected is never
	// reached, and the timer ends the trace.
	expected int64
	timer    *time.Timer // ends the trace

	first  atomic.Int64 // in nanoseconds, see monotonic
	last   atomic.Int64 // the same
	writes atomic.Int64
}

// noteWrite counts a write at the time at. It takes no lock and allocates nothing. The
// last write that is expected ends the trace.
func (t *trace) noteWrite(at int64) {
	for first := t.first.Load(); at < first && !t.first.CompareAndSwap(first, at); {
		first = t.first.Load()
	}
	for last := t.last.Load(); at > last && !t.last.CompareAndSwap(last, at); {
		last = t.last.Load()
	}
	if t.writes.Add(1) == t.expected {
		t.finish()
	}
}

// finish ends the trace now, on a goroutine of its own, unless it has ended.
func (t *trace) finish() {
	if t.timer.Stop() {
		t.timer.Reset(0)
	}
}

// traces are the deliveries that are measured.
type traces struct {
	report func(Delivery) // nil: nothing is measured. Static once the hub has a store.

	mu      sync.Mutex // locked after Hub.mu
	running map[*trace]struct{}
	closed  bool
	ending  sync.WaitGroup // counts running traces until they are reported
}

// ReportDeliveries makes the hub call report once for each event with a [Event.Trace] that
// was written to a connection of this node: when all connections that were open at that
// time have it, or after five seconds. At most 1,000 events are measured at a time.
// report is called on a goroutine of its own, and must not block: Close waits for it.
// ReportDeliveries must be called before [Hub.Use].
func (h *Hub) ReportDeliveries(report func(Delivery)) { h.traces.report = report }

// startTrace begins to measure the delivery of the event that was appended last. e is its
// entry. An old history that is still being read is not measured: its events were
// delivered long ago. The caller holds Hub.mu for writing.
func (h *Hub) startTrace(e *entry, event *Event, now time.Time) {
	if h.traces.report == nil || !h.source.open {
		return
	}
	subscribers := 0
	for _, l := range e.lanes {
		subscribers += len(l.subscribers)
	}
	if subscribers == 0 {
		return
	}
	t := &trace{id: event.Trace, position: h.history.position(h.history.head), expected: int64(subscribers)}
	t.first.Store(math.MaxInt64)
	t.last.Store(math.MinInt64)
	if h.traces.start(t) {
		e.trace = t
		h.history.charge(e, traceBytes)
		h.history.evict(now)
	}
}

// start starts the timer of a trace. It returns false if there are too many traces.
func (s *traces) start(t *trace) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.running) >= tracesAtOnce {
		return false
	}
	if s.running == nil {
		s.running = make(map[*trace]struct{})
	}
	s.running[t] = struct{}{}
	s.ending.Add(1)
	t.timer = time.AfterFunc(traceTimeout, func() { s.end(t) })
	return true
}

// end reports a trace, unless nothing was written.
func (s *traces) end(t *trace) {
	defer s.ending.Done()
	s.mu.Lock()
	delete(s.running, t)
	s.mu.Unlock()
	// A write that is being noted has set first and last before it counts.
	if n := t.writes.Load(); n > 0 {
		now := time.Now()
		s.report(Delivery{t.id, t.position, atMonotonic(t.first.Load(), now), atMonotonic(t.last.Load(), now), int(n)})
	}
}

// close ends all traces, and waits until they are reported.
func (s *traces) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.finishAll()
	s.ending.Wait()
}

// finishAll finishes all traces that are running.
func (s *traces) finishAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for t := range s.running {
		t.finish()
	}
}
