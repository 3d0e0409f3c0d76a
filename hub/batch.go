package hub

import (
	"io"
	"math"
	"strconv"
	"sync"
)

// batchBytes is how many bytes of events one look-up collects. It bounds the memory
// that a connection holds while its write waits for the client.
const batchBytes = 32 << 10

// batch is the result of one look-up, and the content of one write: control blocks,
// events, and a last control block. A connection has a batch only while it is awake.
// One goroutine at a time uses a batch.
type batch struct {
	before []byte
	items  []item
	after  []byte
	moved  bool // after contains the position of the cursor
	final  bool // after is the last block of the stream

	size    int        // bytes of items
	late    bool       // the first item waited while a quarter of the history was published
	skipped uint64     // the last event that was left out because it is over; 0: none
	heads   [][]uint64 // scratch of history.search: the rest of each lane
	lanes   []*lane    // scratch of history.since

	memo memo // of the last look-up
	out  []byte
}

// item is an event in a batch. It refers to the event's bytes, which therefore outlive
// an eviction.
type item struct {
	frame    frame
	seq      uint64
	accepted int64  // in nanoseconds, see monotonic
	trace    *trace // nil: the delivery is not measured
}

var batches = sync.Pool{New: func() any { return new(batch) }}

// release gives b back to the pool, unless it has become large. The caller must not use b
// afterwards, or any slice of it.
func (b *batch) release() {
	b.reset()
	if cap(b.before)+cap(b.out)+cap(b.memo.joined) <= 4*batchBytes {
		batches.Put(b)
	}
}

// reset drops the content and all references to it, so that b keeps no event in memory.
func (b *batch) reset() {
	b.resetBlocks()
	b.resetItems()
	clear(b.heads[:cap(b.heads)])
	clear(b.lanes[:cap(b.lanes)])
	clear(b.memo.lanes[:cap(b.memo.lanes)])
}

// resetBlocks drops the control blocks, which concern one connection, and keeps the items.
func (b *batch) resetBlocks() {
	b.before, b.after = b.before[:0], b.after[:0]
	b.moved, b.final = false, false
}

// resetItems drops the items, and what the memo knows of them.
func (b *batch) resetItems() {
	clear(b.items)
	b.items, b.size, b.late, b.skipped = b.items[:0], 0, false, 0
	b.memo.forget()
}

// add appends an event, and returns true if the batch had room for it. If it returns false,
// the event must come first in another batch. The first event always has room. Only
// [history.search] calls it. The caller holds Hub.mu.
func (b *batch) add(e *entry, seq uint64) bool {
	if b.size > 0 && b.size+len(e.frame.bytes) > batchBytes {
		return false
	}
	b.items = append(b.items, item{e.frame, seq, e.accepted, e.trace})
	b.size += len(e.frame.bytes)
	return true
}

// advanceHeads removes the event seq from all heads that begin with it, and drops heads
// that are empty then. It returns the lowest seq that is left; math.MaxUint64: none. Only
// [history.search] calls it. The caller holds Hub.mu, because the heads are parts of
// lane.seqs.
func (b *batch) advanceHeads(seq uint64) (next uint64) {
	next = math.MaxUint64
	for i := 0; i < len(b.heads); {
		head := b.heads[i]
		if head[0] == seq {
			if head = head[1:]; len(head) == 0 {
				n := len(b.heads) - 1
				b.heads[i], b.heads[n] = b.heads[n], nil
				b.heads = b.heads[:n]
				continue
			}
			b.heads[i] = head
		}
		next = min(next, head[0])
		i++
	}
	return next
}

// hasBlocks reports whether there is anything to write: events or control blocks.
func (b *batch) hasBlocks() bool { return len(b.before)+len(b.items)+len(b.after) > 0 }

// writeTo writes the blocks, with one call of Write except for a large event. A single
// event, and a large one, is written from where it is, without a copy. It returns how many
// bytes w took, also with an error. w must not keep them. Only the goroutine that has b
// calls it. The caller must not hold a lock.
func (b *batch) writeTo(w io.Writer) (int, error) {
	if len(b.items) == 1 && len(b.before)+len(b.after) == 0 {
		return w.Write(b.items[0].frame.block())
	}
	if b.size > batchBytes { // one large event: a stalled client must not hold a copy of it
		return writeEach(w, b.before, b.items[0].frame.block(), b.after)
	}
	b.out = append(b.out[:0], b.before...)
	for _, it := range b.items {
		b.out = append(b.out, it.frame.block()...)
	}
	b.out = append(b.out, b.after...)
	return w.Write(b.out)
}

// writeEach writes the parts that are not empty, until one fails. It returns how many bytes
// w took.
func writeEach(w io.Writer, parts ...[]byte) (n int, err error) {
	for _, p := range parts {
		if len(p) > 0 && err == nil {
			var took int
			took, err = w.Write(p)
			n += took
		}
	}
	return n, err
}

// chunks returns the blocks as HTTP/1.1 chunks [RFC 9112 7.1]. The events are p[from:to]. p
// belongs to b, or is the frame of an event: it must not be changed, and is valid until b
// changes. The items are joined once for all connections that share them. Only the
// goroutine that has b calls it.
func (b *batch) chunks() (p []byte, from, to int) {
	if len(b.before)+len(b.after) == 0 && !b.final {
		if len(b.items) == 1 {
			p = b.items[0].frame.bytes
		} else {
			p = b.join()
		}
		return p, 0, len(p)
	}
	b.out = appendChunk(b.out[:0], b.before)
	from = len(b.out)
	for _, it := range b.items {
		b.out = append(b.out, it.frame.bytes...)
	}
	to = len(b.out)
	b.out = appendChunk(b.out, b.after)
	if b.final {
		b.out = append(b.out, "0\r\n\r\n"...)
	}
	return b.out, from, to
}

// join returns the frames of the items, one after the other. The result belongs to b: it
// must not be changed, and is valid until the items change. Only chunks calls it.
func (b *batch) join() []byte {
	m := &b.memo
	if m.history == nil || m.joinedItems != len(b.items) {
		m.joined = m.joined[:0]
		for _, it := range b.items {
			m.joined = append(m.joined, it.frame.bytes...)
		}
		m.joinedItems = len(b.items)
	}
	return m.joined
}

// appendChunk appends p as a chunk. It leaves out an empty p, which would end the body.
func appendChunk(buf, p []byte) []byte {
	if len(p) == 0 {
		return buf
	}
	buf = strconv.AppendUint(buf, uint64(len(p)), 16)
	buf = append(buf, "\r\n"...)
	buf = append(buf, p...)
	return append(buf, "\r\n"...)
}
