package hub

import (
	"fmt"
	"testing"
	"time"
)

// TestEndedConnsAreBounded: the hub remembers only the last connections that ended, and only as
// many as fit into a bound of bytes.
func TestEndedConnsAreBounded(t *testing.T) {
	h := newHub(t, Options{})
	ended := func(r Request) { connect(t, h, r).Cancel() }
	for i := range maxEndedConns + 5 {
		ended(requestOf(fmt.Sprint("user-", i)))
	}
	w := why(h, send(t, h, to(user("user-4"))), "user-4")
	want(t, "fates of the last connection that is forgotten", w.fates(), "")
	if !w.Since.After(w.Began) {
		t.Errorf("since: got %s, want later than %s", w.Since, w.Began)
	}
	want(t, "fates of the first connection that is known", why(h, send(t, h, to(user("user-5"))), "user-5").fates(), "ended_earlier")

	var topics []string
	for i := range 1000 {
		topics = append(topics, fmt.Sprintf("%0500d", i))
	}
	for range 100 {
		ended(requestOf("many topics", topics...))
	}
	h.endedConns.mu.Lock()
	defer h.endedConns.mu.Unlock()
	if n := len(h.endedConns.list); n < 10 || n > 40 || h.endedConns.bytes > maxEndedConnBytes {
		t.Errorf("remembered connections: got %d with %d bytes, want 10 to 40 with at most %d bytes", n, h.endedConns.bytes, maxEndedConnBytes)
	}
	var sum int64
	for _, f := range h.endedConns.list {
		sum += f.size()
		if f.conn != nil {
			t.Fatal("a remembered connection still has its Conn, want nil")
		}
	}
	want(t, "bytes", h.endedConns.bytes, sum)
}

func TestRepeatsAreBounded(t *testing.T) {
	var r repeats
	for i := range uint64(maxRepeats + 5) {
		r.add(Position{Epoch: "e", Seq: i}, time.Now())
		r.add(Position{Epoch: "e", Seq: 3}, time.Now())
	}
	want(t, "remembered", len(r.list), maxRepeats)
	times, _ := r.count(Position{Epoch: "e", Seq: 3})
	want(t, "count of the repeated position", times, maxRepeats+6)
	times, _ = r.count(Position{Epoch: "e", Seq: 1})
	want(t, "count of a forgotten position", times, 0)
}

// TestEvictionsAreBounded: the number of remembered evictions is bounded. For the oldest events
// the bound that evicted them is unknown.
func TestEvictionsAreBounded(t *testing.T) {
	h := newHistory(Options{}.withDefaults(), "e", 1, new(pinned))
	for i := range 100 {
		h.recordEviction([]Bound{BoundCount, BoundAge}[i%2], time.Now())
		h.oldest++
		h.recordEviction([]Bound{BoundCount, BoundAge}[i%2], time.Now())
		h.oldest++
	}
	want(t, "runs", len(h.evictions), maxEvictions)
	for seq, want := range map[uint64]Bound{0: NoBound, 1: NoBound, 136: NoBound, 137: BoundCount, 138: BoundCount, 199: BoundAge, 200: BoundAge, 201: NoBound} {
		if got, _ := h.evictionOf(seq); got != want {
			t.Errorf("bound that evicted %d: got %q, want %q", seq, got, want)
		}
	}
}

// TestWhyOfMany: Why counts all connections, and lists a bounded number.
func TestWhyOfMany(t *testing.T) {
	h := newHub(t, Options{})
	for range 2000 {
		connect(t, h, requestOf("alice"))
		connect(t, h, requestOf("alice")).Cancel()
	}
	w := why(h, send(t, h, to(user("alice"))), "alice")
	want(t, "open", w.Fates[FatePending], 2000)
	want(t, "ended", w.Fates[FateEndedEarlier], 2000)
	want(t, "listed", len(w.Connections), maxConnectionFates)
}
