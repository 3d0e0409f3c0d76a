package hub

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
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
			p := dial(t, h, requestOf(fmt.Sprint(i)), kind)
			publish(t, h, strings.Repeat("x", size), user(fmt.Sprint(i)))
			eventually(t, "the stream has stalled", func() bool { // before its event is evicted
				h.mu.RLock()
				defer h.mu.RUnlock()
				return p.pinnedEvent != nil
			})
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
	p.pin(b.items[0], true)
	if pinnedBytes() == 0 {
		t.Error("counted bytes of the replaced event: got 0, want more")
	}
	p.unpin()
	if n := pinnedBytes(); n != 0 {
		t.Errorf("counted bytes after the stall: got %d, want 0", n)
	}
}

// The same bound holds for streams that the hub does not take over, such as those over HTTP/2. Their
// write is stuck in the event.
func TestPromise12StalledSinksHoldOneHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const streams, size, bound = 24, 900 << 10, 4 << 20
		h := newHub(t, Options{MaxBytes: bound})
		other := open(t, h, requestOf("other"))
		var stalled []*servedConn
		for i := range streams {
			v := open(t, h, requestOf(fmt.Sprint(i)))
			synctest.Wait()
			v.stall()
			stalled = append(stalled, v)
			publish(t, h, strings.Repeat("x", size), user(fmt.Sprint(i)))
			synctest.Wait()
		}
		h.mu.RLock()
		pinned := h.pinned.bytes
		h.mu.RUnlock()
		if pinned > bound || pinned == 0 {
			t.Errorf("bytes of evicted events in memory: got %d, want some, at most %d", pinned, bound)
		}
		n := int(h.Stats().Closed["timeout"])
		if n < streams-2*bound/size || n > streams-bound/size {
			t.Errorf("ended streams: got %d of %d, want %d to %d", n, streams, streams-2*bound/size, streams-bound/size)
		}
		for i, v := range stalled[:n] { // the oldest events
			want(t, fmt.Sprint("reason of ", i), v.endReason(t), Timeout)
		}
		h.EndStreams()
		time.Sleep(closeGrace)
		synctest.Wait()
		want(t, "pinned events", len(h.pinned.events)+h.pinned.evicted.Len(), 0)
		want(t, "reason of the other", other.endReason(t), HubClosed)
	})
}

// While a stream writes a large event, that event is pending, and those before it are delivered.
func TestWhyOfAStreamInALargeWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		v := open(t, h, requestOf("alice"))
		first := publish(t, h, "first").Position
		synctest.Wait()
		v.stall()
		large := publish(t, h, strings.Repeat("x", 2*batchBytes)).Position
		synctest.Wait()
		want(t, "pinned events", len(h.pinned.events), 1)
		want(t, "fate of the event before", why(h, first, "alice").Connections[0].Fate, FateDelivered)
		want(t, "fate of the large event", why(h, large, "alice").Connections[0].Fate, FatePending)
	})
}

// When the history ends, the events of it that streams have stalled in are counted, and the bound
// holds for them.
func TestPinnedEventOfAnEndedHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{MaxBytes: 1000})
		p := connect(t, h, requestOf("alice"))
		defer p.Cancel()
		publish(t, h, strings.Repeat("x", 2000)) // the newest event is retained whatever its size
		b := new(batch)
		h.lookUp(p.Conn, time.Now(), b)
		p.pin(b.items[0], true)
		synctest.Wait()
		want(t, "ended streams while the event is retained", h.Stats().Closed["timeout"], 0)
		feed{h}.Begin(NewEpoch(), 1)
		synctest.Wait()
		want(t, "ended streams after the end of the history", h.Stats().Closed["timeout"], 1)
	})
}

// However many streams have stalled and ended, the lock is held for one of them at a time.
func TestEndedStreamsAreUnpinnedOneAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const streams = 10
		h := newHub(t, Options{MaxEvents: 1})
		for range streams {
			p := connect(t, h, requestOf("alice"))
			defer p.Cancel()
			publish(t, h, "x")
			b := new(batch)
			h.lookUp(p.Conn, time.Now(), b)
			p.pin(b.items[0], true)
		}
		publish(t, h, "x") // evicts the last of the events
		h.EndStreams()
		synctest.Wait() // the waker has nothing to do
		h.mu.Lock()
		h.history.opts.MaxBytes = -1
		h.mu.Unlock()
		for left := streams; left > 0; left-- {
			want(t, "pinned events", len(h.pinned.events), left)
			want(t, "found another", h.releaseEvicted(), true)
		}
		want(t, "found one in the end", h.releaseEvicted(), false)
		want(t, "reason", h.Stats().Closed["hub_closed"], streams)
	})
}

// Smaller bounds hold at once for the events that streams have stalled in, and not only after the
// next publish.
func TestPromise12SmallerHistoryEndsStalledStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		stalled := open(t, h, requestOf("stalled"))
		synctest.Wait()
		stalled.stall()
		publish(t, h, strings.Repeat("x", 2*batchBytes), user("stalled"))
		publish(t, h, "newer")
		synctest.Wait()
		want(t, "pinned events", len(h.pinned.events), 1)
		h.SetOptions(Options{MaxBytes: batchBytes})
		want(t, "reason", stalled.endReason(t), Timeout)
	})
}
