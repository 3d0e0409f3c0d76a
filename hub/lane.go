package hub

import (
	"hash/maphash"
	"slices"
	"strings"
)

// lane is everything there is about one target: the retained events for it, in
// order, and the connections that listen. It lives as long as it has either. It is
// guarded by Hub.mu.
type lane struct {
	target      Target
	shape       *shape   // of a pattern; nil for other targets
	seqs        []uint64 // ascending
	evicted     uint64   // the highest seq evicted from it
	subscribers []subscriber
	dirty       bool // in Hub.dirty
}

// listener is a connection that listens to a lane, and which of its seats is there.
type subscriber struct {
	*Conn
	index int
}

// lane returns the target's lane and makes it if there is none.
func (h *history) lane(t Target) *lane {
	l := h.lanes[t]
	if l == nil {
		t.Name = strings.Clone(t.Name) // it may be a part of something larger
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

// lost is the highest position whose event is lost to the lane's listeners.
func (l *lane) lost() uint64 {
	if l.shape != nil {
		return max(l.evicted, l.shape.floor)
	}
	return l.evicted
}

// lanesFor appends to lanes those with listeners that an event for one of the
// targets is for, each once.
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

// drop forgets a lane that has neither events nor connections, and keeps what
// was evicted from it.
func (h *history) removeIfUnused(l *lane) {
	if len(l.seqs) > 0 || len(l.subscribers) > 0 || l == h.all {
		return
	}
	delete(h.lanes, l.target)
	// Nobody resumes as a connection that has ended.
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

// age forgets the old generation and begins a young one.
func (h *history) rotateEvicted() {
	h.floor = max(h.floor, h.olderLast)
	h.bytes -= evictedBytes * int64(len(h.olderEvicted))
	h.olderEvicted, h.olderLast = h.recentEvicted, h.recentLast
	h.recentEvicted, h.recentLast = make(map[uint64]uint64), 0
}

// index puts the event into the target's lane, once.
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

// indexAs puts an event for a topic into the lane of the pattern of shape s
// that matches the topic.
func (h *history) indexAs(s *shape, e *entry, seq uint64, t Target) {
	if t.Kind != Topic {
		return
	}
	if name := s.apply(t.Name); name != "" {
		h.index(e, seq, Target{pattern, name})
	}
}

// pending reports whether the lane has an event after the position seq.
func (l *lane) hasAfter(seq uint64) bool {
	return len(l.seqs) > 0 && l.seqs[len(l.seqs)-1] > seq
}

// after is the index of the first event of the lane after the position seq.
// A connection that is awake looks at the end of the lane, so the search begins
// there and doubles its steps.
func (l *lane) indexAfter(seq uint64) int {
	n, step := len(l.seqs), 1
	for n-step > 0 && l.seqs[n-step-1] > seq {
		step *= 2
	}
	from := max(0, n-step)
	i, _ := slices.BinarySearch(l.seqs[from:], seq+1)
	return from + i
}
