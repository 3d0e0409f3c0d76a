package hub

import (
	"maps"
	"sync"
	"sync/atomic"
	"time"
)

// stats are the counters of a hub. Any goroutine may use them.
type stats struct {
	opened, published, deliveries, bytes, replayed atomic.Uint64

	gaps    [gapReasons]atomic.Uint64
	latency latencyCounts // from publish to write
	commits latencyCounts // of Store.Append

	connections, closed, rejected labelCounts
}

// init creates the counters with 0, so that each exists before it rises. New calls it.
func (s *stats) init() {
	for _, reason := range closeReasons {
		s.closed.add(string(reason), 0)
	}
	for _, reason := range refusalReasons {
		s.rejected.add(string(reason), 0)
	}
}

// labelCounts counts by label. It is for what does not happen often. Any goroutine may use
// it, with Hub.mu or without.
type labelCounts struct {
	mu sync.Mutex
	n  map[string]int64
}

// add adds n to the count of the label. With 0 it creates the count.
func (c *labelCounts) add(label string, n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = make(map[string]int64)
	}
	c.n[label] += n
}

// read returns a copy of the counts.
func (c *labelCounts) read() map[string]int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := make(map[string]int64, len(c.n))
	maps.Copy(n, c.n)
	return n
}

// LatencyBuckets are the upper bounds of the buckets of a [Histogram].
var LatencyBuckets = [...]time.Duration{
	100 * time.Microsecond, 250 * time.Microsecond, 500 * time.Microsecond,
	time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond,
	10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond,
	time.Second, 5 * time.Second, 30 * time.Second,
}

// latencyCounts counts for a [Histogram].
type latencyCounts struct {
	counts [len(LatencyBuckets) + 1]atomic.Uint64
	sum    atomic.Int64 // nanoseconds
}

var processBegan = time.Now()

// monotonic returns t in nanoseconds since the process began, by the monotonic clock.
func monotonic(t time.Time) int64 { return int64(t.Sub(processBegan)) }

// atMonotonic returns the wall clock time, as the clock is set now, at which monotonic
// was n.
func atMonotonic(n int64, now time.Time) time.Time { return now.Add(time.Duration(n - monotonic(now))) }

// observe counts one duration. A negative one counts as 0. Any goroutine may call it.
func (l *latencyCounts) observe(nanoseconds int64) {
	nanoseconds = max(nanoseconds, 0) // the clock of another node may be ahead
	i := 0
	for i < len(LatencyBuckets) && nanoseconds > int64(LatencyBuckets[i]) {
		i++
	}
	l.counts[i].Add(1)
	l.sum.Add(nanoseconds)
}

// read returns what was counted so far. Any goroutine may call it. What is counted
// meanwhile may be in Sum and not in Counts, or the other way round.
func (l *latencyCounts) read() (h Histogram) {
	h.Sum = time.Duration(l.sum.Load())
	for i := range h.Counts {
		h.Counts[i] = l.counts[i].Load()
	}
	return h
}

// Histogram counts durations: one count for each of [LatencyBuckets], and a last one for
// longer durations.
type Histogram struct {
	Counts [len(LatencyBuckets) + 1]uint64
	Sum    time.Duration
}

// Stats has the counters of a hub since [New], and its state now.
type Stats struct {
	Connections map[string]int64 // open connections, by protocol
	Users       int              // distinct users with an open connection
	Head        Position         // of the last event
	Oldest      Position         // of the oldest retained event; if none is retained, its Seq is that of Head + 1
	Events      int              // retained events
	OldestAge   time.Duration    // of the oldest retained event; 0: none is retained
	EventBytes  int64            // bytes of heap that the history takes
	MaxEvents   int              // Options.MaxEvents
	MaxBytes    int64            // Options.MaxBytes

	Open    bool      // the history is complete, and is served
	Problem error     // why the store cannot be reached; nil: it can
	Since   time.Time // when the problem began; zero: there is none
	Behind  uint64    // records of the store that the history does not have yet

	Opened     uint64
	Closed     map[string]int64 // connections that have ended, by Reason
	Rejected   map[string]int64 // connections that were not admitted, by Reason
	Published  uint64
	Deliveries uint64 // events written, counted once for each connection
	Bytes      uint64 // bytes written
	Replayed   uint64 // deliveries of events that are older than the connection
	Gaps       map[string]uint64

	Latency Histogram // from publish to write, of deliveries that were not replayed
	Commits Histogram // of Store.Append, one for each call of Publish
	Waits   Histogram // for the hub's lock, when it was not free
}

// Stats returns the counters and the state. It waits for the hub's lock. The counters are
// read one after the other, so they may differ by what happens meanwhile. Any goroutine may
// call it.
func (h *Hub) Stats() Stats {
	s := &h.stats
	out := Stats{
		Connections: s.connections.read(),
		Opened:      s.opened.Load(),
		Closed:      s.closed.read(),
		Rejected:    s.rejected.read(),
		Published:   s.published.Load(),
		Deliveries:  s.deliveries.Load(),
		Bytes:       s.bytes.Load(),
		Replayed:    s.replayed.Load(),
		Gaps:        make(map[string]uint64),
		Latency:     s.latency.read(),
		Commits:     s.commits.read(),
		Waits:       h.mu.waits.read(),
	}
	for i := gapEvicted; i < gapReasons; i++ {
		out.Gaps[gapNames[i]] = s.gaps[i].Load()
	}
	h.mu.RLock()
	defer h.mu.RUnlock()
	out.Users = h.users
	out.Open = h.source.open
	out.Problem, out.Since, out.Behind = h.source.problem, h.source.since, h.source.behind
	out.Head = h.history.position(h.history.head)
	out.Oldest = h.history.position(h.history.oldest)
	out.Events = int(h.history.head - h.history.oldest + 1)
	if out.Events > 0 {
		out.OldestAge = max(time.Since(time.Unix(0, h.history.entry(h.history.oldest).stored)), 0) // the clock may have been set back
	}
	out.EventBytes = h.history.bytes
	out.MaxEvents, out.MaxBytes = h.history.opts.MaxEvents, h.history.opts.MaxBytes
	return out
}
