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

// fill makes the newest event the one of its slot. The one before is not delivered any
// more, which nobody misses.
func (h *history) fill(slot uint64) {
	before, known := h.slots[slot]
	if known {
		h.replace(h.entry(before), before)
	} else {
		h.bytes += slotBytes
	}
	h.slots[slot] = h.head
}

// replace gives up what an entry holds, but for its position and its slot. The lanes that
// had it have the newer one.
func (h *history) replace(e *entry, seq uint64) {
	h.held.evict(e.frame)
	h.charge(e, -e.frameBytes()-seqBytes*int64(len(e.lanes))-pointerBytes*int64(cap(e.lanes)))
	for _, l := range e.lanes {
		l.remove(seq)
		h.emptied(l) // only if its shape is being learned, which has yet to come to the newer one
	}
	e.frame, e.lanes, e.expires = frame{}, nil, math.MinInt64
}

// remove takes an event out of the lane: it moves those before it or those after it,
// whichever are fewer.
func (l *lane) remove(seq uint64) {
	i := l.after(seq) - 1
	if i < len(l.seqs)/2 {
		copy(l.seqs[1:i+1], l.seqs[:i])
		l.seqs = l.seqs[1:]
	} else {
		l.seqs = slices.Delete(l.seqs, i, i+1)
	}
}

// vacate forgets the slot of the oldest entry, which is evicted.
func (h *history) vacate(e *entry) {
	if e.slot != 0 && h.slots[e.slot] == h.oldest {
		delete(h.slots, e.slot)
		h.bytes -= slotBytes
	}
}
