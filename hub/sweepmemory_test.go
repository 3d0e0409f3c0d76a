package hub

import (
	"io"
	"runtime"
	"strings"
	"testing"
)

// A sweeper copies an event for a connection that is sent another block with it, such as the end of
// a poll. It does not keep the copy of a large event.
func TestSweeperKeepsNoLargeEvent(t *testing.T) {
	const size = 8 << 20
	h := newHub(t, Options{MaxEvents: 1, MaxEventSize: size, MaxBytes: 4 * size})
	heap := func() int64 {
		runtime.GC()
		runtime.GC() // a pool keeps what it has until the second
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	for range 2 * len(h.sweepers) { // some for each sweeper, almost certainly
		p := dial(t, h, polling(requestOf("alice")), overTCP)
		p.readUntil(t, "sse.connected")
		publish(t, h, strings.Repeat("x", size))
		if _, err := io.Copy(io.Discard, p.Conn); err != nil {
			t.Fatal(err)
		}
		want(t, "reason", p.wait(), Polled)
	}
	publish(t, h, "x") // evicts the large event
	eventually(t, "the large events are freed", func() bool { return heap()-before < size/2 })
}
