package hub

import (
	"hash/maphash"
	"time"
)

// Bound is what an event was evicted by.
type Bound string

// The bounds of Options. An event that is evicted by several is put down to the first.
const (
	NoBound    Bound = "" // not known
	BoundCount Bound = "count"
	BoundSize  Bound = "size"
	BoundAge   Bound = "age"
)

// eviction is a run of records that were evicted by the same bound.
type eviction struct {
	from, last uint64
	bound      Bound
	at         int64 // Unix nanoseconds, of the last one
}

// mostEvictions is how many runs are remembered.
const maxEvictions = 32

// noteEviction notes that the oldest record is evicted.
func (h *history) recordEviction(bound Bound, now time.Time) {
	n := len(h.evictions)
	if n > 0 && h.evictions[n-1].bound == bound {
		h.evictions[n-1].last, h.evictions[n-1].at = h.oldest, now.UnixNano()
		return
	}
	if n == maxEvictions {
		n = copy(h.evictions, h.evictions[1:])
	}
	h.evictions = append(h.evictions[:n], eviction{h.oldest, h.oldest, bound, now.UnixNano()})
}

// evictionOf is what the record was evicted by, as far as that is remembered, and by
// when.
func (h *history) evictionOf(seq uint64) (Bound, time.Time) {
	for _, e := range h.evictions {
		if e.from <= seq && seq <= e.last {
			return e.bound, time.Unix(0, e.at)
		}
	}
	return NoBound, time.Time{}
}

// lastLost is at least the last position whose event is lost to the target's listeners.
func (h *history) lastLost(t Target) uint64 {
	if l := h.lanes[t]; l != nil {
		return max(l.lost(), h.floor)
	}
	sum := maphash.Comparable(h.seed, t)
	return max(h.recentEvicted[sum], h.olderEvicted[sum], h.floor)
}
