package hub

import (
	"cmp"
	"hash/maphash"
	"math"
	"slices"
	"unsafe"
)

// slotOf returns a hash of the event's slot and of its targets in any order; 0: the event
// has no slot. It reads only h.seed, which never changes, so it needs no lock.
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

// compareTargets orders targets by kind, and then by name.
func compareTargets(a, b Target) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
}

// fillSlot makes the event of the head the newest of its slot. The event before loses its
// content and is not delivered any more: no client misses it. slot must not be 0. The
// caller holds Hub.mu for writing.
func (h *history) fillSlot(slot uint64) {
	before, known := h.slots[slot]
	if known {
		h.dropContent(h.entry(before))
	} else {
		h.bytes += slotBytes
	}
	h.slots[slot] = h.head
}

// dropContent releases what the entry of a replaced event holds. Its position stays, and
// its place in lanes: look-ups leave it out, because it has expired. The caller holds
// Hub.mu for writing.
func (h *history) dropContent(e *entry) {
	h.pinned.noteEvicted(unsafe.SliceData(e.frame.bytes))
	h.charge(e, -e.frameBytes())
	e.frame, e.expires = frame{}, math.MinInt64
}

// freeSlot forgets the slot of e, the oldest entry, which is evicted, unless a newer event
// has the slot. It must be called before ring.drop, which clears e. The caller holds Hub.mu
// for writing.
func (h *history) freeSlot(e *entry) {
	if e.slot != 0 && h.slots[e.slot] == h.oldest {
		delete(h.slots, e.slot)
		h.bytes -= slotBytes
	}
}
