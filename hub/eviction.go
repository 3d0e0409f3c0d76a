package hub

import (
	"hash/maphash"
	"time"
)

// Bound says why an event was evicted.
type Bound string

// The bounds in [Options]. If an event exceeds several, the first of them is the reason.
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
	at         int64 // when the last one was evicted, in Unix nanoseconds
}

// maxEvictions is how many runs are remembered.
const maxEvictions = 32

// recordEviction notes that the oldest record is evicted.
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

// evictionOf returns why a record was evicted, if that is remembered, and a time by which
// it was.
func (h *history) evictionOf(seq uint64) (Bound, time.Time) {
	for _, e := range h.evictions {
		if e.from <= seq && seq <= e.last {
			return e.bound, time.Unix(0, e.at)
		}
	}
	return NoBound, time.Time{}
}

// lastLost returns a position that is at least that of the last event that is lost to
// the subscribers of the target.
func (h *history) lastLost(t Target) uint64 {
	if l := h.lanes[t]; l != nil {
		return max(l.lost(), h.floor)
	}
	sum := maphash.Comparable(h.seed, t)
	return max(h.recentEvicted[sum], h.olderEvicted[sum], h.floor)
}
