package hub

import (
	"io"
	"sync"
)

// batchBytes is how much one look-up may find before it stops. It bounds what a
// connection holds while its write waits for the client.
const batchBytes = 32 << 10

// batch is what one look-up found and one write sends. A connection has one only
// while it is awake. It is used by one goroutine at a time.
type batch struct {
	items []item
	size  int
	heads [][]uint64 // of history.since

	buf  []byte // control blocks before the events; writeTo adds the rest
	tail []byte // a control block after the events
}

// item is an event in a batch. It refers to the event's bytes, so that eviction
// does not matter any more.
type item struct {
	frame frame
	seq   uint64
	at    int64
}

var batches = sync.Pool{New: func() any { return new(batch) }}

func (b *batch) release() {
	b.reset()
	if cap(b.buf) <= 2*batchBytes {
		batches.Put(b)
	}
}

func (b *batch) reset() {
	clear(b.items)
	clear(b.heads[:cap(b.heads)])
	b.items, b.size, b.buf, b.tail = b.items[:0], 0, b.buf[:0], b.tail[:0]
}

// add takes an event, unless the batch is full.
func (b *batch) add(e *entry, seq uint64) bool {
	if b.size > 0 && b.size+len(e.frame.bytes) > batchBytes {
		return false
	}
	b.items = append(b.items, item{e.frame, seq, e.at})
	b.size += len(e.frame.bytes)
	return true
}

// pending reports whether there is anything to write.
func (b *batch) pending() bool { return len(b.buf)+len(b.items)+len(b.tail) > 0 }

// writeTo sends it all in one write. An event alone is sent from where it is.
func (b *batch) writeTo(w io.Writer) (int, error) {
	if len(b.items) == 1 && len(b.buf)+len(b.tail) == 0 {
		return w.Write(b.items[0].frame.block())
	}
	for _, it := range b.items {
		b.buf = append(b.buf, it.frame.block()...)
	}
	b.buf = append(b.buf, b.tail...)
	return w.Write(b.buf)
}
