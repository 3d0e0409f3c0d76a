package hub

import "unsafe"

// What a history takes of the heap. Go rounds what it allocates up to a size
// class, and keeps maps and growing slices partly empty: where that is not known
// exactly, the constants hold what was measured.
// TestPromise12HistorySizeIsTheHeap compares the sum with the heap.
const (
	entryBytes   = int64(unsafe.Sizeof(entry{}))
	laneBytes    = int64(unsafe.Sizeof(lane{})) + 80 // and its place in the map
	seqBytes     = 11                                // one place in lane.seqs
	pointerBytes = 8                                 // one place in entry.lanes
	slotBytes    = 32                                // one slot in history.slots
	commandBytes = 64                                // one command in history.commands, without what it says
	evictedBytes = 32                                // one target in history.young or old
)

// charge adds to what an entry, and the history with it, takes.
func (h *history) charge(e *entry, bytes int64) {
	e.cost += bytes
	h.bytes += bytes
}

// frameBytes is what the entry's frame takes.
func (e *entry) frameBytes() int64 {
	if e.frame.bytes == nil {
		return 0
	}
	return int64(e.room)
}

// bytes is what a lane takes as long as it has events.
func (l *lane) bytes() int64 { return laneBytes + int64(len(l.target.Name)+15)/16*16 }

// sized returns an empty slice with room for n bytes and for what the allocator
// gives beside them.
func makeBuffer(n int) []byte { return append([]byte(nil), make([]byte, n)...)[:0] }
