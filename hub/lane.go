package hub

import (
	"hash/maphash"
	"slices"
	"strings"
)

// lane is a target with its retained events, in order, and its subscribers. It exists as
// long as it has either. It is dirty while it has news of which its subscribers must still
// be told: then it is in Hub.dirty, and [Hub.wakeSubscribers] wakes them.
//
// Hub.mu guards it. target and shape never change, and may be read without the lock.
type lane struct {
	target      Target
	shape       *shape   // of a pattern; nil: the target is no pattern
	seqs        []uint64 // of the retained events, ascending
	evicted     uint64   // the highest seq that was evicted from the lane
	subscribers []subscriber
	dirty       bool // it is in Hub.dirty
}

// subscriber is a connection that subscribes to a lane, and the index of that lane in
// Conn.subscriptions. Hub.mu guards it.
type subscriber struct {
	*Conn
	index int
}

// lane returns the lane of the target. It creates the lane if there is none. The caller
// then gives the lane an event or a subscriber, because only [history.removeIfUnused]
// removes it. The caller holds Hub.mu for writing. With the lock for reading, use h.lanes.
func (h *history) lane(t Target) *lane {
	l := h.lanes[t]
	if l == nil {
		t.Name = strings.Clone(t.Name) // it may be a part of a larger string
		l = &lane{target: t}
		if t.Kind == pattern {
			l.shape = h.shape(t.Name)
		}
		if len(h.recentEvicted)+len(h.olderEvicted) > 0 {
			sum := maphash.Comparable(h.seed, t)
			l.evicted = max(h.recentEvicted[sum], h.olderEvicted[sum])
		}
		h.lanes[t] = l
	}
	return l
}

// lost returns the highest position whose event is lost to the lane's subscribers: it was
// evicted, or, for a pattern, it was evicted before the pattern was indexed; 0: none. The
// caller holds Hub.mu.
func (l *lane) lost() uint64 {
	if l.shape != nil {
		return max(l.evicted, l.shape.floor)
	}
	return l.evicted
}

// lanesFor appends to lanes the lanes that an event for the targets is for: those of the
// targets, and of the patterns that match them. It leaves out lanes without subscribers.
// Each lane is there once. The caller holds Hub.mu. The result may be kept, but its lanes
// must be read with Hub.mu.
func (h *history) lanesFor(targets []Target, lanes []*lane) []*lane {
	add := func(t Target) {
		if l := h.lanes[t]; l != nil && len(l.subscribers) > 0 {
			lanes = append(lanes, l)
		}
	}
	for _, t := range targets {
		add(t)
		if t.Kind != Topic {
			continue
		}
		for _, s := range h.shapes {
			if name := s.apply(t.Name); name != "" {
				add(Target{pattern, name})
			}
		}
	}
	if len(lanes) < 2 {
		return lanes
	}
	seen := make(map[*lane]struct{}, len(lanes))
	return slices.DeleteFunc(lanes, func(l *lane) bool {
		_, again := seen[l]
		seen[l] = struct{}{}
		return again
	})
}

// removeIfUnused removes a lane that has neither events nor subscribers from the index. The
// history remembers what was evicted from it. The caller must not add anything to the lane
// afterwards: [history.lane] gives a new one. The caller holds Hub.mu for writing.
func (h *history) removeIfUnused(l *lane) {
	if len(l.seqs) > 0 || len(l.subscribers) > 0 || l == h.all {
		return
	}
	delete(h.lanes, l.target)
	// Nobody resumes with the id of a connection that has ended.
	if l.evicted <= h.floor || l.target.Kind == Connection {
		return
	}
	sum := maphash.Comparable(h.seed, l.target)
	if _, known := h.recentEvicted[sum]; !known {
		h.bytes += evictedBytes
	}
	h.recentEvicted[sum] = l.evicted
	h.recentLast = max(h.recentLast, l.evicted)
	if int64(len(h.recentEvicted)) >= min(maxEvictedTargets, max(minEvictedTargets, h.opts.MaxBytes/4/evictedBytes)) {
		h.rotateEvicted()
	}
}

// rotateEvicted drops the older generation of evicted targets and begins a new one. What
// only the older one knew is forgotten, so floor rises to the last of it. The caller holds
// Hub.mu for writing.
func (h *history) rotateEvicted() {
	h.floor = max(h.floor, h.olderLast)
	h.bytes -= evictedBytes * int64(len(h.olderEvicted))
	h.olderEvicted, h.olderLast = h.recentEvicted, h.recentLast
	h.recentEvicted, h.recentLast = make(map[uint64]uint64), 0
}

// index puts the event of e, which is at the position seq, into the target's lane, unless
// it is there already. The seqs of a lane ascend, so seq must not be less than the last one
// in the lane. The caller holds Hub.mu for writing.
func (h *history) index(e *entry, seq uint64, t Target) {
	l := h.lane(t)
	if n := len(l.seqs); n > 0 && l.seqs[n-1] == seq {
		return
	}
	if len(l.seqs) == 0 {
		h.bytes += l.bytes()
	}
	l.seqs = append(l.seqs, seq)
	h.charge(e, seqBytes)
	before := cap(e.lanes)
	e.lanes = append(e.lanes, l)
	h.charge(e, pointerBytes*int64(cap(e.lanes)-before))
}

// indexAs puts an event for the topic t into the lane of the pattern that has the shape s
// and matches t. It does nothing if t is no topic, or if no such pattern matches it. See
// [history.index] for seq. The caller holds Hub.mu for writing.
func (h *history) indexAs(s *shape, e *entry, seq uint64, t Target) {
	if t.Kind != Topic {
		return
	}
	if name := s.apply(t.Name); name != "" {
		h.index(e, seq, Target{pattern, name})
	}
}

// hasAfter reports whether the lane has an event after the position seq. The caller holds
// Hub.mu.
func (l *lane) hasAfter(seq uint64) bool {
	return len(l.seqs) > 0 && l.seqs[len(l.seqs)-1] > seq
}

// indexAfter returns the index in l.seqs of the first event after the position seq;
// len(l.seqs): there is none. It goes back from the end in steps that double, until the seq
// before the step is not after the position. So the result is not before the step, and only
// the rest is searched. Most connections are close to the end, so the rest is short. The
// caller holds Hub.mu.
func (l *lane) indexAfter(seq uint64) int {
	n, step := len(l.seqs), 1
	for n-step > 0 && l.seqs[n-step-1] > seq {
		step *= 2
	}
	from := max(0, n-step)
	i, _ := slices.BinarySearch(l.seqs[from:], seq+1)
	return from + i
}
