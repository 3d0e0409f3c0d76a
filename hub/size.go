package hub

import "unsafe"

// Bytes of heap that parts of a history take. Go rounds allocations up to a size class,
// and keeps maps and growing slices partly empty. Where the size is not known exactly, the
// constants are measured. TestPromise12HistorySizeIsTheHeap compares the sum with the heap.
const (
	entryBytes   = int64(unsafe.Sizeof(entry{}))
	laneBytes    = int64(unsafe.Sizeof(lane{})) + 80 // a lane, with its entry in history.lanes
	seqBytes     = 11                                // an element of lane.seqs
	pointerBytes = 8                                 // an element of entry.lanes
	slotBytes    = 32                                // an entry of history.slots
	commandBytes = 64                                // an entry of history.commands, without its JSON
	evictedBytes = 32                                // an entry of history.recentEvicted or olderEvicted
)

// charge adds bytes to the size of an entry and of the history. They may be negative. The
// caller holds Hub.mu for writing.
func (h *history) charge(e *entry, bytes int64) {
	e.cost += bytes
	h.bytes += bytes
}

// frameBytes returns the bytes of heap that the entry's frame takes; 0: it has none. The
// caller holds Hub.mu.
func (e *entry) frameBytes() int64 {
	if e.frame.bytes == nil {
		return 0
	}
	return int64(e.room)
}

// bytes returns how many bytes of heap a lane that has events takes, without its seqs. It
// depends on the target alone. index adds it for the first event, and evictSome takes it
// off after the last.
func (l *lane) bytes() int64 { return laneBytes + int64(len(l.target.Name)+15)/16*16 }

// makeBuffer returns an empty slice for n bytes. Its capacity is all that the allocator
// gives for n bytes.
func makeBuffer(n int) []byte { return append([]byte(nil), make([]byte, n)...)[:0] }
