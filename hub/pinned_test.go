package hub

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestPromise12StalledStreamsHoldOneHistory: an event stays in memory while a stream is stuck in
// it, even after its eviction. All pinned events together are bounded by the size of the history.
// The hub ends stalled streams to keep the bound, and no others.
func TestPromise12StalledStreamsHoldOneHistory(t *testing.T) {
	overEachTransport(t, func(t *testing.T, kind writerKind) {
		const streams, size, bound = 24, 900 << 10, 4 << 20
		h := newHub(t, Options{MaxBytes: bound})
		other := dial(t, h, requestOf("other"), kind)
		for i := range streams {
			dial(t, h, requestOf(fmt.Sprint(i)), kind)
			publish(t, h, strings.Repeat("x", size), user(fmt.Sprint(i)))
		}
		least := int64(streams - 2*bound/size)
		eventually(t, "stalled streams are ended", func() bool { return h.Stats().Closed["timeout"] >= least })
		publish(t, h, "the end")
		other.readUntil(t, "data: the end")
		eventually(t, "pinned events are released", func() bool {
			h.mu.RLock()
			pinned, known := h.pinned.bytes, len(h.pinned.events)
			h.mu.RUnlock()
			return pinned <= bound && known <= int(h.Stats().Connections["h1"])
		})
		if n := h.Stats().Closed["timeout"]; n > streams-bound/size {
			t.Errorf("ended streams: got %d of %d, want at most %d", n, streams, streams-bound/size)
		}
		h.EndStreams()
		eventually(t, "nothing is pinned", func() bool {
			h.mu.RLock()
			defer h.mu.RUnlock()
			return h.pinned.bytes == 0 && len(h.pinned.events) == 0 && h.pinned.evicted.Len() == 0
		})
	})
}

// An event in a slot is replaced after the look-up and before the stream stalls in it. Its bytes
// are counted, because the history does not have them any more.
func TestReplacedEventIsPinned(t *testing.T) {
	h := newHub(t, Options{})
	p := connect(t, h, requestOf("alice"))
	defer p.Cancel()
	set := func(value string) {
		t.Helper()
		if _, err := h.Publish(t.Context(), Event{Slot: "price", Data: []byte(value), Targets: []Target{{}}}); err != nil {
			t.Fatal(err)
		}
	}
	pinnedBytes := func() int64 {
		h.mu.RLock()
		defer h.mu.RUnlock()
		return h.pinned.bytes
	}
	set("1")
	b := new(batch)
	h.lookUp(p.Conn, time.Now(), b)
	set("2")
	p.socket = new(socket)
	p.pin(b.items[0])
	if pinnedBytes() == 0 {
		t.Error("counted bytes of the replaced event: got 0, want more")
	}
	p.unpin()
	if n := pinnedBytes(); n != 0 {
		t.Errorf("counted bytes after the stall: got %d, want 0", n)
	}
	p.socket = nil
}
