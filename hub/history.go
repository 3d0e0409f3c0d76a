package hub

import (
	"hash/maphash"
	"math"
	"time"
	"unsafe"
)

// history is the bounded ring of encoded events, indexed by target. A record is retained
// while the ring has it. A hole is a position in the ring whose record is lost or cannot be
// read; to clients it is like an evicted event for all.
//
// Hub.mu guards it. Each method says how the caller holds Hub.mu.
type history struct {
	opts  Options
	epoch string

	// The seqs in the ring follow each other, so oldest and head say what it contains.
	ring         ring
	oldest       uint64 // seq of the first retained record; head+1: none is retained
	head         uint64 // seq of the last appended record
	beforeOldest Tag    // of the record before the oldest; zero: not known
	bytes        int64

	trimmed bool // all bounds were met after the last eviction

	slots    map[uint64]uint64 // slotOf an event -> seq of the newest event with it
	commands map[uint64][]byte // seq of a retained command -> its JSON
	lanes    map[Target]*lane
	all      *lane // lanes[Target{All}], which is never removed
	shapes   []*shape
	pinned   *pinned // is told about evictions

	// The last evicted event of each target that has no lane any more: the hash of the
	// target -> the seq. There are two generations. When the recent one is full, the older
	// one is dropped, and floor rises to the highest seq that only the older one knew.
	seed                        maphash.Seed
	recentEvicted, olderEvicted map[uint64]uint64
	recentLast                  uint64
	olderLast                   uint64
	floor                       uint64 // evictions below it are not known: every older position is a gap

	evictions []eviction // the last runs of evictions, oldest first
}

// entry is one retained record. lanes grows when a shape is learned, and when a command
// concerns a connection. [history.dropContent] drops the frame. Nothing else changes.
type entry struct {
	frame    frame
	lanes    []*lane // whose seqs contain it
	cost     int64   // its share of history.bytes
	stored   int64   // Unix nanoseconds; its age counts from here
	accepted int64   // nanoseconds, see monotonic; the latency of delivery counts from here
	expires  int64   // Unix nanoseconds, or never
	slot     uint64  // slotOf the event; 0: none
	room     int32   // capacity of frame, in bytes
	tag      Tag     // zero: the record is not known
	trace    *trace  // nil: the delivery is not measured
}

// never is the value of entry.expires for an event without ttl.
const never = math.MaxInt64

// Bounds of how many targets one generation of evicted targets may have. Between them,
// a generation takes at most a quarter of Options.MaxBytes.
const (
	maxEvictedTargets = 500_000
	minEvictedTargets = 1_000
)

// newHistory returns an empty history, whose first record will have the seq oldest, at
// least 1. It takes no lock, because nobody else has the new history yet. All histories of
// a hub share pinned.
func newHistory(opts Options, epoch string, oldest uint64, pinned *pinned) *history {
	h := &history{
		opts:          opts,
		epoch:         epoch,
		pinned:        pinned,
		oldest:        oldest,
		head:          oldest - 1,
		floor:         oldest - 1,
		slots:         make(map[uint64]uint64),
		commands:      make(map[uint64][]byte),
		lanes:         make(map[Target]*lane),
		seed:          maphash.MakeSeed(),
		recentEvicted: make(map[uint64]uint64),
	}
	h.all = h.lane(Target{})
	return h
}

// entry returns the entry of the position seq, which must be retained. The caller holds
// Hub.mu, and must not keep the pointer after it unlocks.
func (h *history) entry(seq uint64) *entry { return h.ring.at(seq) }

// retains reports whether the history still has the bytes of an event of it, which it may
// have evicted, or replaced by a newer event of the slot. The caller holds Hub.mu.
func (h *history) retains(it item) bool {
	return it.seq >= h.oldest && unsafe.SliceData(h.entry(it.seq).frame.bytes) == unsafe.SliceData(it.frame.bytes)
}

// append appends a record, evicts what exceeds the bounds, and returns the new entry, which
// is valid until the next call. A record that cannot be read becomes a hole ([history]).
// The bytes of enc become those of the entry: the same enc must not be appended twice.
//
// The caller holds Hub.mu for writing. If h.trimmed is false afterwards, there is more to
// evict: then the caller unlocks, and calls [Hub.trimAll].
func (h *history) append(enc encoded, now time.Time) *entry {
	e := h.next()
	e.tag, e.stored, e.accepted = enc.tag, enc.stored, monotonic(now)-(now.UnixNano()-enc.stored)
	if enc.buf != nil {
		e.frame, e.room = enc.frame(), int32(cap(enc.buf))
		h.charge(e, e.frameBytes())
	}
	switch {
	case enc.event != nil:
		h.addEvent(e, enc.event)
	case enc.command != nil:
		h.commands[h.head] = enc.commandJSON
		h.charge(e, commandBytes+int64(cap(enc.commandJSON)))
	default:
		h.all.evicted = h.head // a hole is like an evicted event for all
	}
	h.evict(now)
	return e
}

// addHoles appends n holes ([history]): records that the store has lost. The caller holds
// Hub.mu for writing, and limits n, because the lock is held for all of them.
func (h *history) addHoles(n uint64, now time.Time) {
	for range n {
		e := h.next()
		e.stored = now.UnixNano()
		h.all.evicted = h.head
	}
	h.evict(now)
}

// next appends an empty entry, which becomes the head, and returns it. The caller fills the
// entry, or makes it a hole by setting h.all.evicted. The caller holds Hub.mu for writing.
func (h *history) next() *entry {
	h.head++
	e := h.ring.push(h.head)
	*e = entry{expires: never}
	h.charge(e, entryBytes)
	return e
}

// addEvent fills e, the entry of the head, with an event. It indexes the event: its seq
// goes into the lanes of its targets, and of the patterns that match them. It does not keep
// the event. The caller holds Hub.mu for writing.
func (h *history) addEvent(e *entry, event *Event) {
	e.accepted += event.At.UnixNano() - e.stored
	if !event.Expires.IsZero() {
		e.expires = unixNano(event.Expires)
	}
	e.lanes = make([]*lane, 0, len(event.Targets))
	h.charge(e, pointerBytes*int64(cap(e.lanes)))
	if e.slot = h.slotOf(event); e.slot != 0 {
		h.fillSlot(e.slot)
	}
	for _, t := range event.Targets {
		h.index(e, h.head, t)
		for _, s := range h.shapes {
			if s.learned {
				h.indexAs(s, e, h.head, t)
			}
		}
	}
}

// position returns the position with this seq, which may be any number. Its tag is zero if
// the tag is not known: the record is evicted, a hole ([history]), or yet to come. The
// caller holds Hub.mu.
func (h *history) position(seq uint64) Position {
	p := Position{Epoch: h.epoch, Seq: seq}
	switch {
	case seq >= h.oldest && seq <= h.head:
		p.Tag = h.entry(seq).tag
	case seq == h.oldest-1:
		p.Tag = h.beforeOldest
	}
	return p
}

// evictAtOnce is about how many records, and lanes that they leave, evict looks at while
// Hub.mu is held once. An event is in few lanes, and leaves all of them at once. A command
// may be in a lane of each connection, and leaves them in slices.
const evictAtOnce = 250

// evict removes the oldest records until all bounds are met, or until evictAtOnce is
// reached. It returns true, and sets h.trimmed, if all bounds are met. If it returns false,
// more is left to evict: then call it again, but let others have the lock in between. The
// newest record stays whatever its size, so that it can be delivered.
//
// The caller holds Hub.mu for writing.
func (h *history) evict(now time.Time) bool {
	h.trimmed = h.evictSome(now)
	return h.trimmed
}

// evictSome does the work of evict, and has the same result. Only evict calls it. The
// caller holds Hub.mu for writing.
func (h *history) evictSome(now time.Time) bool {
	for work := 0; h.oldest <= h.head; { // work counts records, and the lanes that they leave
		e := h.entry(h.oldest)
		n := h.head - h.oldest + 1
		var bound Bound
		switch {
		case n > uint64(h.opts.MaxEvents):
			bound = BoundCount
		case n > 1 && h.bytes > h.opts.MaxBytes:
			bound = BoundSize
		case !h.isFresh(e, now):
			bound = BoundAge
		default:
			return true
		}
		if work >= evictAtOnce {
			return false
		}
		lanes := e.lanes // those that the record leaves now
		if _, isCommand := h.commands[h.oldest]; isCommand {
			lanes = lanes[max(0, len(lanes)-evictAtOnce):]
		}
		work += 1 + len(lanes)
		// An event whose ttl has passed is not delivered any more: no client misses it.
		missed := e.expires > now.UnixNano()
		for _, l := range lanes {
			if l.seqs = l.seqs[1:]; len(l.seqs) == 0 {
				l.seqs = nil         // releases the array, with the seqs before this one
				h.bytes -= l.bytes() // what index charged for the first event
			}
			if missed {
				l.evicted = max(l.evicted, h.oldest)
			}
			h.removeIfUnused(l)
		}
		if e.lanes = e.lanes[:len(e.lanes)-len(lanes)]; len(e.lanes) > 0 {
			return false
		}
		h.pinned.noteEvicted(unsafe.SliceData(e.frame.bytes))
		h.freeSlot(e) // before ring.drop, which clears e
		delete(h.commands, h.oldest)
		h.bytes -= e.cost
		h.beforeOldest = e.tag
		h.ring.drop(h.oldest)
		h.recordEviction(bound, now)
		h.oldest++
	}
	return true
}

// isFresh reports whether a record has not exceeded the maximum age. The caller holds
// Hub.mu.
func (h *history) isFresh(e *entry, now time.Time) bool {
	return e.stored > now.Add(-h.opts.MaxAge).UnixNano()
}

// isQuarterAfter reports whether a quarter of the records that the bounds allow came after the
// position seq. It takes all records for equally large. The caller holds Hub.mu.
func (h *history) isQuarterAfter(seq uint64) bool {
	after, retained := int64(h.head-seq), int64(h.head-h.oldest+1)
	return 4*after >= int64(h.opts.MaxEvents) || 4*after*(h.bytes/max(retained, 1)) >= h.opts.MaxBytes
}

// isStale reports whether the oldest record has exceeded the maximum age. It returns false
// if no record is retained. The caller holds Hub.mu.
func (h *history) isStale(now time.Time) bool {
	return h.oldest <= h.head && !h.isFresh(h.entry(h.oldest), now)
}

// lastLostTo returns the last position whose record is lost to a connection with these
// subscriptions, because it was evicted or is a hole ([history]); 0: none. Only positions
// after subscription.from count. The caller holds Hub.mu.
func (h *history) lastLostTo(subscriptions []subscription) (last uint64) {
	for _, s := range subscriptions {
		if lost := s.lane.lost(); lost > s.from {
			last = max(last, lost)
		}
	}
	return last
}

// resume returns where a client continues that has everything up to p, and why it may have
// missed something; noGap: it has missed nothing. After gapEvicted it continues at p, or
// before the oldest retained record if that is later. After any other gap it continues
// before the oldest. It changes nothing. The caller holds Hub.mu.
func (h *history) resume(p Position, subscriptions []subscription) (uint64, gapReason) {
	known := h.position(p.Seq).Tag
	switch {
	case p.Epoch != h.epoch, p.Tag != (Tag{}) && known != (Tag{}) && p.Tag != known:
		return h.oldest - 1, gapEpoch
	case p.Seq > h.head:
		return h.oldest - 1, gapInvalid
	case p.Seq < h.floor || h.lastLostTo(subscriptions) > p.Seq:
		return max(p.Seq, h.oldest-1), gapEvicted
	}
	return p.Seq, noGap
}

// since replaces the items of b with the events in (seq, last] that are addressed to the
// subscriptions, in order and without duplicates, until b is full. Up to the position state
// it takes only the newest event of each slot. It returns the position up to which it
// looked: less than last if b is full, or if skipsAtOnce is reached. If b still has the
// items of an equal look-up, they stay ([memo]).
//
// The caller holds Hub.mu. No other goroutine may use b.
func (h *history) since(subscriptions []subscription, seq, last, state uint64, now time.Time, b *batch) (reached uint64) {
	shareable := seq >= state // the result depends on seq, last and the lanes alone
	b.lanes = b.lanes[:0]
	for _, s := range subscriptions {
		if s.lane.hasAfter(s.skipTo(seq)) {
			b.lanes = append(b.lanes, s.lane)
			shareable = shareable && s.from <= seq
		}
	}
	if shareable && b.memo.matches(h, seq, last, b.lanes) {
		return b.memo.reached
	}
	b.resetItems()
	reached = h.search(subscriptions, seq, last, state, now, b)
	if shareable {
		b.memo.remember(h, seq, last, reached)
		b.memo.lanes, b.lanes = b.lanes, b.memo.lanes
	}
	return reached
}

// skipsAtOnce is how many expired or replaced events a look-up passes while Hub.mu is held
// once.
const skipsAtOnce = 10_000

// search does the work of since, and has the same result. It merges the lanes of the
// subscriptions: b.heads has the remaining seqs of each lane, and next is the lowest of
// them. Its cost grows with what it finds, not with what is retained. Only since calls it,
// after it has emptied b. The caller holds Hub.mu.
func (h *history) search(subscriptions []subscription, seq, last, state uint64, now time.Time, b *batch) (reached uint64) {
	b.heads = b.heads[:0]
	next := uint64(math.MaxUint64)
	for _, s := range subscriptions {
		if l, seq := s.lane, s.skipTo(seq); l.hasAfter(seq) {
			head := l.seqs[l.indexAfter(seq):]
			b.heads = append(b.heads, head)
			next = min(next, head[0])
		}
	}
	for skips := 0; len(b.heads) > 0 && next <= last && skips < skipsAtOnce; {
		if e := h.entry(next); e.expires > now.UnixNano() && (next > state || e.slot != 0) {
			if !b.add(e, next) {
				return seq
			}
		} else {
			b.skipped = next
			skips++
		}
		seq, next = next, b.advanceHeads(next)
	}
	if next <= last { // skipsAtOnce is reached
		return seq
	}
	return max(seq, last)
}
