package hub

import (
	"cmp"
	"hash/maphash"
	"math"
	"slices"
)

// slotOf stands for an event's slot and its targets, whatever their order; 0: the
// event has no slot.
func (h *history) slotOf(e *Event) uint64 {
	if e.Slot == "" {
		return 0
	}
	targets := slices.Clone(e.Targets)
	slices.SortFunc(targets, func(a, b Target) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
	})
	var sum maphash.Hash
	sum.SetSeed(h.seed)
	maphash.WriteComparable(&sum, e.Slot)
	for _, t := range slices.Compact(targets) {
		maphash.WriteComparable(&sum, t)
	}
	return max(sum.Sum64(), 1)
}

// fill makes the newest event the one of its slot. The one before is not delivered any
// more, which nobody misses.
func (h *history) fill(slot uint64) {
	before, known := h.slots[slot]
	if known {
		h.replace(h.entry(before))
	} else {
		h.bytes += slotBytes
	}
	h.slots[slot] = h.head
}

// replace gives up what an entry holds, but for its position.
func (h *history) replace(e *entry) {
	h.held.evict(e.frame)
	h.charge(e, -e.frameBytes())
	e.frame, e.slot, e.expires = frame{}, 0, math.MinInt64
}

// vacate forgets the slot of an entry that is evicted.
func (h *history) vacate(e *entry) {
	if e.slot != 0 {
		delete(h.slots, e.slot)
		h.bytes -= slotBytes
	}
}
