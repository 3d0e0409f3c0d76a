package hub

import (
	"hash/maphash"
	"time"
)

// Bound says why an event was evicted.
type Bound string

// The bounds in [Options]. If an event exceeds several, the first of them is the reason.
const (
	NoBound    Bound = "" // the reason is not known; no event is evicted by it
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

// recordEviction notes that the oldest record is evicted. evictSome calls it before it
// moves h.oldest. If there are too many runs, the oldest is forgotten. The caller holds
// Hub.mu for writing.
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

// evictionOf returns why a record was evicted, and a time by which it was. It returns
// NoBound if that is not remembered, or if the record was not evicted. The caller holds
// Hub.mu.
func (h *history) evictionOf(seq uint64) (Bound, time.Time) {
	for _, e := range h.evictions {
		if e.from <= seq && seq <= e.last {
			return e.bound, time.Unix(0, e.at)
		}
	}
	return NoBound, time.Time{}
}

// lastLost returns a position that is at least that of the last event that is lost to the
// subscribers of the target. It is higher if the history has forgotten, or has never known,
// what the target lost. The caller holds Hub.mu.
func (h *history) lastLost(t Target) uint64 {
	if l := h.lanes[t]; l != nil {
		return max(l.lost(), h.floor)
	}
	sum := maphash.Comparable(h.seed, t)
	return max(h.recentEvicted[sum], h.olderEvicted[sum], h.floor)
}
