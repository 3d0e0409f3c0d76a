package hub

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// why returns the fate of an event for a user.
func why(h *Hub, p Position, user string) Why { return h.Why(p, Filter{Users: []string{user}}) }

// fates returns the fates of the listed connections, in their order.
func (w Why) fates() string {
	var fates []string
	for _, v := range w.Connections {
		fates = append(fates, string(v.Fate))
	}
	return strings.Join(fates, " ")
}

// send publishes one event and returns its position.
func send(t testing.TB, h *Hub, e Event) Position {
	t.Helper()
	e.Data = append(e.Data, "x"...)
	receipts, err := h.Publish(t.Context(), e)
	if err != nil {
		t.Fatal(err)
	}
	return receipts[0].Position
}

func wantTime(t *testing.T, what string, got, want time.Time) {
	t.Helper()
	if !got.Equal(want) {
		t.Errorf("%s: got %s, want %s", what, got, want)
	}
}

// to returns an event for the targets.
func to(targets ...Target) Event { return Event{Targets: targets} }

// openStalled connects a client that reads nothing and has one event pending.
func openStalled(t *testing.T, h *Hub, r Request) (v *servedConn, resume func()) {
	t.Helper()
	v = open(t, h, r)
	synctest.Wait()
	resume = v.stall()
	publish(t, h, "stuck", user(r.User))
	synctest.Wait()
	return v, resume
}

// evictedOne returns a function that publishes an event for alice, waits, and lets it be evicted.
func evictedOne(wait func()) func(t *testing.T, h *Hub) Position {
	return func(t *testing.T, h *Hub) Position {
		open(t, h, requestOf("alice"))
		synctest.Wait()
		p := send(t, h, to(user("alice")))
		synctest.Wait()
		if wait != nil {
			wait()
		}
		publishMany(t, h, 20)
		return p
	}
}

func publishMany(t *testing.T, h *Hub, n int) {
	t.Helper()
	for range n {
		publish(t, h, strings.Repeat("x", 100))
		synctest.Wait()
	}
}

// bound returns a check of the bound that evicted the event.
func bound(want Bound) func(t *testing.T, w Why) {
	return func(t *testing.T, w Why) {
		if w.Event.Bound != want || w.Event.Evicted.IsZero() {
			t.Errorf("eviction: got by %q at %s, want by %q", w.Event.Bound, w.Event.Evicted, want)
		}
	}
}

// changeOf changes the topics of a user and returns the position of the change.
func changeOf(t *testing.T, h *Hub, user string, add, remove []string) Position {
	t.Helper()
	p, err := h.ChangeTopics(t.Context(), TopicChange{Filter: Filter{Users: []string{user}}, Add: add, Remove: remove})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// stuckAt publishes until the client has received a part of an event and reads no more. It returns
// the position of that event.
func stuckAt(t *testing.T, h *Hub, p *realClient) (at Position) {
	t.Helper()
	large := to(user(p.identity.User))
	large.Data = []byte(strings.Repeat("x", 900<<10))
	var sent uint64
	since := time.Now()
	eventually(t, "the client is stuck", func() bool {
		h.mu.Lock()
		at = h.history.position(p.cursor.Load())
		stuck, all := p.pinnedEvent != nil, at.Seq == h.history.head
		h.mu.Unlock()
		if !stuck && all {
			send(t, h, large)
		}
		if _, bytes := p.Sent(); bytes != sent || !stuck {
			sent, since = bytes, time.Now()
		}
		return time.Since(since) > 200*time.Millisecond
	})
	return at
}
