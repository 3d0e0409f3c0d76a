package hub

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
)

// feedHub returns a hub and its feed. The test delivers the records instead of a store.
func feedHub(t *testing.T, opts Options) (*Hub, feed) {
	t.Helper()
	h := newHub(t, opts)
	if err := h.Use(newScriptedStore()); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
	return h, feed{h}
}

// textRecord returns the record of an event for everybody.
func textRecord(seq uint64, data string) Record {
	return recordOf(seq, Event{Data: []byte(data), Targets: []Target{{}}})
}

// TestPromise2TagTellsAnotherHistory: a copy of a history that continued differently has the same
// epoch and the same seqs. The tag of a position tells them apart.
func TestPromise2TagTellsAnotherHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var positions []string
		var first Record
		for _, run := range []string{"first", "second"} {
			h, f := feedHub(t, Options{MaxEvents: 4})
			f.Begin("abcdefgh", 1)
			for seq := range uint64(6) {
				data := run
				if seq == 0 {
					data = "both"
				}
				r := textRecord(seq+1, data)
				if seq == 0 && run == "second" {
					r = first
				} else if seq == 0 {
					first = r
				}
				f.Deliver([]Record{r})
				if run == "first" {
					positions = append(positions, positionAt(h, seq+1))
				}
			}
			f.Status(nil, 0)
			if run == "first" {
				continue
			}
			for seq, controls := range map[int]string{
				6: "sse.gap epoch", 5: "sse.gap epoch", 4: "sse.gap epoch", 3: "sse.gap epoch",
				2: "sse.gap epoch", // the history knows the tag of the last evicted event
				1: "sse.gap evicted",
			} {
				c := read(t, h, requestOf("").at(positions[seq-1]))
				want(t, fmt.Sprint("control events at ", seq), c.controlSummary(), controls)
				want(t, fmt.Sprint("events at ", seq), len(c.events), 4)
			}
			want(t, "control events at a position without a tag", read(t, h, requestOf("").at("abcdefgh-5")).controlSummary(), "")
		}
	})
}

// The history may no longer have the record of a position. The client then gets back its position
// with the tag that it sent.
func TestTagOfTheClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{MaxEvents: 2})
		publish(t, h, "x", user("bob"))
		position := positionAt(h, 1)
		for range 5 {
			publish(t, h, "x", user("bob"))
		}
		c := read(t, h, requestOf("alice").at(position))
		want(t, "position", c.position, position)
		want(t, "control events", c.controlSummary(), "")
	})
}

// Begin returns the hub's position. A store compares it with its own records: it may be a copy
// that is shorter, or that continued differently.
func TestBeginReturnsThePosition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, f := feedHub(t, Options{MaxAge: DefaultMaxAge})
		want(t, "of a new epoch", f.Begin("one", 1), Position{})
		want(t, "before any record", f.Begin("one", 1), Position{Epoch: "one"})
		r := textRecord(1, "x")
		f.Deliver([]Record{r})
		want(t, "with a record", f.Begin("one", 1), Position{"one", 1, TagOf(r.Data)})
		h.SetOptions(Options{MaxAge: 1})
		want(t, "after its eviction", f.Begin("one", 1), Position{"one", 1, TagOf(r.Data)})
		want(t, "of another epoch", f.Begin("two", 1), Position{})
	})
}

// The hub serves the previous history while another store opens.
func TestServedWhileAStoreOpens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		publish(t, h, "x")
		position := positionAt(h, 1)
		publish(t, h, "y")
		next := &gatedStore{Memory: NewMemory(), begin: make(chan struct{})}
		if err := h.Use(next); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		c := read(t, h, requestOf("").at(position))
		want(t, "events after a reconnect", c.data(), "y")
		want(t, "control events after a reconnect", c.controlSummary(), "")
		close(next.begin)
		synctest.Wait()
		c.resume(h, requestOf(""))
		want(t, "control events once the store is open", c.controlSummary(), "sse.gap epoch")
	})
}

// A history that was reset is served once the hub has received all of it.
func TestNotServedWhileAnEpochBegins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, f := feedHub(t, Options{})
		f.Begin("abcdefgh", 1)
		f.Deliver([]Record{textRecord(1, "x")})
		f.Status(nil, 1)
		_, err := h.Connect(t.Context(), requestOf(""))
		if refusal, ok := errors.AsType[*Refusal](err); !ok || refusal.Reason != Starting {
			t.Errorf("error of Connect before the history is complete: got %v, want a refusal with the reason starting", err)
		}
		f.Status(nil, 0)
		read(t, h, requestOf(""))
	})
}
