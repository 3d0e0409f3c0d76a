package hub

import (
	"hash/maphash"
	"math"
	"slices"
	"time"
)

// targetOverhead is what an event counts for in the bytes of a history, beside its
// frame, for each of its targets: its place in a lane, its share of their map and of
// the ring.
const targetOverhead = 128

// history is the bounded ring of encoded events, indexed by target. It is
// guarded by Hub.mu: methods that change it need the lock, since and lost only
// a read lock.
type history struct {
	opts  Options
	epoch string

	// The ring. Sequence numbers are gapless, so two of them say it all: the
	// event seq is in ring[seq%len(ring)].
	ring   []entry
	oldest uint64 // the first retained; head+1 when there is none
	head   uint64 // the last appended
	before Tag    // of the record before the oldest, if it is known
	bytes  int64

	lanes  map[Target]*lane
	all    *lane // lanes[Target{All}], which is never dropped
	shapes []shape

	// What was evicted, for targets that have no lane: a target's hash to its
	// highest evicted seq, in two generations. When the young one is full the old
	// one goes, and the floor rises over what only it knew.
	seed       maphash.Seed
	young, old map[uint64]uint64
	youngLast  uint64
	oldLast    uint64
	floor      uint64 // below it nothing is known, so every position is a gap
}

// entry is one retained record. Only an event has a frame and lanes. It is
// immutable but for lanes, which grows when a new shape comes into use.
type entry struct {
	frame    frame
	lanes    []*lane // which hold its seq
	cost     int64   // of history.bytes
	stored   int64   // Unix nanoseconds; the age counts from here
	accepted int64   // Unix nanoseconds; the latency of delivery counts from here
	expires  int64   // Unix nanoseconds; math.MaxInt64: never
	tag      Tag     // zero: the record is not known
}

// lane is everything there is about one target: the retained events for it, in
// order, and the connections that listen. It lives as long as it has either.
type lane struct {
	target  Target
	seqs    []uint64 // ascending
	evicted uint64   // the highest seq evicted from it
	conns   []*Conn
	dirty   bool // in Hub.dirty
}

// generation is how many targets one generation of evicted ones may hold.
const generation = 500_000

// newHistory is empty; the next event is oldest.
func newHistory(opts Options, epoch string, oldest uint64) *history {
	h := &history{
		opts:   opts,
		epoch:  epoch,
		ring:   make([]entry, 16),
		oldest: oldest,
		head:   oldest - 1,
		floor:  oldest - 1,
		lanes:  make(map[Target]*lane),
		seed:   maphash.MakeSeed(),
		young:  make(map[uint64]uint64),
	}
	h.all = h.lane(Target{})
	return h
}

// lane returns the target's lane and makes it if there is none.
func (h *history) lane(t Target) *lane {
	l := h.lanes[t]
	if l == nil {
		l = &lane{target: t}
		h.lanes[t] = l // before its shape is learned, which may index events into it
		if t.Kind == pattern {
			l.evicted = h.shape(t.Name).floor
		}
		if len(h.young)+len(h.old) > 0 {
			sum := maphash.Comparable(h.seed, t)
			l.evicted = max(l.evicted, h.young[sum], h.old[sum])
		}
	}
	return l
}

// lanesFor appends to lanes those with listeners that an event for t is for.
func (h *history) lanesFor(t Target, lanes []*lane) []*lane {
	if l := h.lanes[t]; l != nil && len(l.conns) > 0 {
		lanes = append(lanes, l)
	}
	if t.Kind != Topic {
		return lanes
	}
	for _, s := range h.shapes {
		if l := h.lanes[Target{pattern, s.apply(t.Name)}]; l != nil && len(l.conns) > 0 {
			lanes = append(lanes, l)
		}
	}
	return lanes
}

// drop forgets a lane that has neither events nor connections, and keeps what
// was evicted from it.
func (h *history) drop(l *lane) {
	if len(l.seqs) > 0 || len(l.conns) > 0 || l == h.all {
		return
	}
	delete(h.lanes, l.target)
	// Nobody resumes as a connection that has ended.
	if l.evicted <= h.floor || l.target.Kind == Connection {
		return
	}
	h.young[maphash.Comparable(h.seed, l.target)] = l.evicted
	h.youngLast = max(h.youngLast, l.evicted)
	if len(h.young) >= generation {
		h.age()
	}
}

// age forgets the old generation and begins a young one.
func (h *history) age() {
	h.floor = max(h.floor, h.oldLast)
	h.old, h.oldLast = h.young, h.youngLast
	h.young, h.youngLast = make(map[uint64]uint64), 0
}

// shape finds or learns the shape of a pattern. One that is new is applied to
// everything retained.
func (h *history) shape(name string) shape {
	s := shapeOf(name)
	if i := slices.IndexFunc(h.shapes, s.equal); i >= 0 {
		return h.shapes[i]
	}
	s.floor = h.oldest - 1
	h.shapes = append(h.shapes, s)
	for seq := h.oldest; seq <= h.head; seq++ {
		e := h.entry(seq)
		for _, l := range e.lanes {
			h.indexAs(s, e, seq, l.target)
		}
	}
	return s
}

func (h *history) entry(seq uint64) *entry { return &h.ring[seq%uint64(len(h.ring))] }

// append adds a record as the next one, evicts what no longer fits and returns its
// entry, which is valid until the next call. A record that could not be read
// becomes a hole.
func (h *history) append(enc encoded, now time.Time) *entry {
	e := h.next()
	e.tag, e.stored = enc.tag, enc.stored
	switch {
	case enc.event != nil:
		h.addEvent(e, enc)
	case enc.command == nil:
		h.all.evicted = h.head // to everybody this is as if an event had been evicted
	}
	h.bytes += e.cost
	h.evict(now)
	return e
}

// addHoles adds n records that are lost.
func (h *history) addHoles(n uint64, now time.Time) {
	for range n {
		e := h.next()
		e.stored = now.UnixNano()
		h.bytes += e.cost
		h.all.evicted = h.head
	}
	h.evict(now)
}

// next adds an entry without content.
func (h *history) next() *entry {
	h.head++
	if n := h.head - h.oldest + 1; n > uint64(len(h.ring)) {
		h.grow()
	}
	e := h.entry(h.head)
	*e = entry{expires: math.MaxInt64, cost: targetOverhead}
	return e
}

func (h *history) addEvent(e *entry, enc encoded) {
	e.frame = enc.frame()
	e.accepted = enc.event.At.UnixNano()
	if !enc.event.Expires.IsZero() {
		e.expires = enc.event.Expires.UnixNano()
	}
	e.cost = int64(len(e.frame.bytes) + targetOverhead*len(enc.event.Targets))
	for _, t := range enc.event.Targets {
		h.index(e, h.head, t)
		for _, s := range h.shapes {
			h.indexAs(s, e, h.head, t)
		}
	}
}

// position is the one with this seq.
func (h *history) position(seq uint64) Position {
	p := Position{Epoch: h.epoch, Seq: seq}
	switch {
	case seq >= h.oldest && seq <= h.head:
		p.Tag = h.entry(seq).tag
	case seq == h.oldest-1:
		p.Tag = h.before
	}
	return p
}

// index puts the event into the target's lane, once.
func (h *history) index(e *entry, seq uint64, t Target) {
	l := h.lane(t)
	if n := len(l.seqs); n > 0 && l.seqs[n-1] == seq {
		return
	}
	l.seqs = append(l.seqs, seq)
	e.lanes = append(e.lanes, l)
}

// indexAs puts an event for a topic into the lane of the pattern of shape s
// that matches the topic.
func (h *history) indexAs(s shape, e *entry, seq uint64, t Target) {
	if t.Kind != Topic {
		return
	}
	if name := s.apply(t.Name); name != "" {
		h.index(e, seq, Target{pattern, name})
	}
}

// grow doubles the ring. The bounds of the history are what limits it.
func (h *history) grow() {
	ring := make([]entry, 2*len(h.ring))
	for seq := h.oldest; seq < h.head; seq++ {
		ring[seq%uint64(len(ring))] = *h.entry(seq)
	}
	h.ring = ring
}

// evict drops the oldest events until all bounds are met. The newest stays
// whatever its size, so that it can be delivered at all.
func (h *history) evict(now time.Time) {
	for h.oldest <= h.head {
		e := h.entry(h.oldest)
		n := h.head - h.oldest + 1
		if n <= uint64(h.opts.MaxEvents) && (n == 1 || h.bytes <= h.opts.MaxBytes) && h.fresh(e, now) {
			return
		}
		// An event whose ttl has passed was not delivered any more, so nobody
		// misses it.
		missed := e.expires > now.UnixNano()
		for _, l := range e.lanes {
			l.seqs = l.seqs[1:]
			if missed {
				l.evicted = max(l.evicted, h.oldest)
			}
			h.drop(l)
		}
		h.bytes -= e.cost
		h.before = e.tag
		*e = entry{}
		h.oldest++
	}
}

func (h *history) fresh(e *entry, now time.Time) bool {
	return e.stored > now.Add(-h.opts.MaxAge).UnixNano()
}

// stale reports whether evict has something to do that only time did.
func (h *history) stale(now time.Time) bool {
	return h.oldest <= h.head && !h.fresh(h.entry(h.oldest), now)
}

// lost is the last position whose record is lost to a connection with these seats;
// 0: there is none.
func (h *history) lost(seats []seat) (last uint64) {
	for _, s := range seats {
		last = max(last, s.lane.evicted)
	}
	return last
}

// resume is where a client goes on that has everything up to p, and whether it
// has missed something.
func (h *history) resume(p Position, seats []seat) (uint64, gapReason) {
	known := h.position(p.Seq).Tag
	switch {
	case p.Epoch != h.epoch, p.Tag != (Tag{}) && known != (Tag{}) && p.Tag != known:
		return h.oldest - 1, gapEpoch
	case p.Seq > h.head:
		return h.oldest - 1, gapInvalid
	case p.Seq < h.floor || h.lost(seats) > p.Seq:
		return max(p.Seq, h.oldest-1), gapEvicted
	}
	return p.Seq, noGap
}

// since adds to b, in order and each once, the events of the seats' lanes after the
// position seq up to the position last, until b is full, in place of those that
// were there. It returns the
// position up to which it looked. Its cost is what it finds, not what is
// retained.
func (h *history) since(seats []seat, seq, last uint64, now time.Time, b *batch) (reached uint64) {
	b.heads = b.heads[:0]
	common := true // only what is for all is pending
	for _, s := range seats {
		if l := s.lane; l.pending(seq) {
			b.heads = append(b.heads, l.seqs[l.after(seq):])
			common = common && l == h.all
		}
	}
	if common && b.shared.in == h && b.shared.seq == seq && b.shared.last == last {
		return b.shared.reached
	}
	b.found()
	if common {
		b.shared.in, b.shared.seq, b.shared.last = h, seq, last
		defer func() { b.shared.reached = reached }()
	}
	for len(b.heads) > 0 {
		next := b.heads[0][0]
		for _, head := range b.heads[1:] {
			next = min(next, head[0])
		}
		if next > last {
			break
		}
		if e := h.entry(next); e.expires > now.UnixNano() {
			if !b.add(e, next) {
				return seq
			}
		}
		seq = next
		for i := len(b.heads) - 1; i >= 0; i-- {
			if b.heads[i][0] == next {
				b.heads[i] = b.heads[i][1:]
				if len(b.heads[i]) == 0 {
					b.heads = slices.Delete(b.heads, i, i+1)
				}
			}
		}
	}
	return max(seq, last)
}

// pending reports whether the lane has an event after the position seq.
func (l *lane) pending(seq uint64) bool {
	return len(l.seqs) > 0 && l.seqs[len(l.seqs)-1] > seq
}

// after is the index of the first event of the lane after the position seq.
// Whoever is awake looks at the end of the lane, so the search begins there and
// doubles its steps.
func (l *lane) after(seq uint64) int {
	n, step := len(l.seqs), 1
	for n-step > 0 && l.seqs[n-step-1] > seq {
		step *= 2
	}
	from := max(0, n-step)
	i, _ := slices.BinarySearch(l.seqs[from:], seq+1)
	return from + i
}
