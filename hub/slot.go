package hub

import (
	"cmp"
	"hash/maphash"
	"math"
	"slices"
)

// slotOf returns a hash of the event's slot and of its targets in any order; 0: the event
// has no slot.
func (h *history) slotOf(e *Event) uint64 {
	if e.Slot == "" {
		return 0
	}
	targets := slices.Clone(e.Targets)
	slices.SortFunc(targets, compareTargets)
	var sum maphash.Hash
	sum.SetSeed(h.seed)
	maphash.WriteComparable(&sum, e.Slot)
	for _, t := range slices.Compact(targets) {
		maphash.WriteComparable(&sum, t)
	}
	return max(sum.Sum64(), 1)
}

func compareTargets(a, b Target) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
}

// fillSlot makes the newest event the event of its slot. The event before is not
// delivered any more: no client misses it.
func (h *history) fillSlot(slot uint64) {
	before, known := h.slots[slot]
	if known {
		h.dropContent(h.entry(before))
	} else {
		h.bytes += slotBytes
	}
	h.slots[slot] = h.head
}

// dropContent releases what an entry holds, except for its position.
func (h *history) dropContent(e *entry) {
	h.pinned.noteEvicted(e.frame)
	h.charge(e, -e.frameBytes())
	e.frame, e.expires = frame{}, math.MinInt64
}

// freeSlot forgets the slot of the oldest entry, which is evicted.
func (h *history) freeSlot(e *entry) {
	if e.slot != 0 && h.slots[e.slot] == h.oldest {
		delete(h.slots, e.slot)
		h.bytes -= slotBytes
	}
}
