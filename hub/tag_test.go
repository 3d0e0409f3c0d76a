package hub

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
)

// feedHub is a hub whose store is the test.
func feedHub(t *testing.T, opts Options) (*Hub, feed) {
	t.Helper()
	h := newHub(t, opts)
	if err := h.Use(newShelf()); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
	return h, feed{h}
}

func text(seq uint64, data string) Record {
	return recordOf(seq, Event{Data: []byte(data), Targets: []Target{{}}})
}

// TestPromise2TagTellsAnotherHistory: a copy that went another way has the same
// epoch and the same numbers.
func TestPromise2TagTellsAnotherHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var positions []string
		var first Record
		for _, life := range []string{"first", "second"} {
			h, f := feedHub(t, Options{MaxEvents: 4})
			f.Begin("abcdefgh", 1)
			for seq := range uint64(6) {
				what := life
				if seq == 0 {
					what = "both"
				}
				r := text(seq+1, what)
				if seq == 0 && life == "second" {
					r = first
				} else if seq == 0 {
					first = r
				}
				f.Deliver([]Record{r})
				if life == "first" {
					positions = append(positions, positionAt(h, seq+1))
				}
			}
			f.Status(nil, 0)
			if life == "first" {
				continue
			}
			for seq, told := range map[int]string{
				6: "sse.gap epoch", 5: "sse.gap epoch", 4: "sse.gap epoch", 3: "sse.gap epoch",
				2: "sse.gap epoch", // its tag is known as long as it is the last one that was evicted
				1: "sse.gap evicted",
			} {
				c := read(t, h, requestOf("").at(positions[seq-1]))
				want(t, fmt.Sprint("at ", seq, " is told"), c.controlSummary(), told)
				want(t, fmt.Sprint("at ", seq, " gets"), len(c.events), 4)
			}
			want(t, "without a tag is told", read(t, h, requestOf("").at("abcdefgh-5")).controlSummary(), "")
		}
	})
}

// A position whose record the history no longer has is said again as it was given.
func TestTagOfTheClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{MaxEvents: 2})
		publish(t, h, "x", user("bob"))
		position := positionAt(h, 1)
		for range 5 {
			publish(t, h, "x", user("bob"))
		}
		c := read(t, h, requestOf("alice").at(position))
		want(t, "it begins at", c.position, position)
		want(t, "told", c.controlSummary(), "")
	})
}

// Begin says what the hub has, so that a store can tell whether it is a copy that
// ends before that, or went another way.
func TestBeginSaysWhatTheHubHas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, f := feedHub(t, Options{MaxAge: DefaultMaxAge})
		want(t, "of a new epoch", f.Begin("one", 1), Position{})
		want(t, "before any record", f.Begin("one", 1), Position{Epoch: "one"})
		r := text(1, "x")
		f.Deliver([]Record{r})
		want(t, "with a record", f.Begin("one", 1), Position{"one", 1, TagOf(r.Data)})
		h.SetOptions(Options{MaxAge: 1})
		want(t, "when it was evicted", f.Begin("one", 1), Position{"one", 1, TagOf(r.Data)})
		want(t, "of another epoch", f.Begin("two", 1), Position{})
	})
}

// While another store opens, the history that is there is served.
func TestServedWhileAStoreOpens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		publish(t, h, "x")
		position := positionAt(h, 1)
		publish(t, h, "y")
		next := &retainer{Memory: NewMemory(), begin: make(chan struct{})}
		if err := h.Use(next); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		c := read(t, h, requestOf("").at(position))
		want(t, "who comes back gets", c.data(), "y")
		want(t, "and is told", c.controlSummary(), "")
		close(next.begin)
		synctest.Wait()
		c.resume(h, requestOf(""))
		want(t, "once it is open, is told", c.controlSummary(), "sse.gap epoch")
	})
}

// A history that was reset is served once it is whole.
func TestNotServedWhileAnEpochBegins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, f := feedHub(t, Options{})
		f.Begin("abcdefgh", 1)
		f.Deliver([]Record{text(1, "x")})
		f.Status(nil, 1)
		_, err := h.Connect(t.Context(), requestOf(""))
		if refusal, ok := errors.AsType[*Refusal](err); !ok || refusal.Reason != Starting {
			t.Errorf("a connection before it is whole: %v, want it to be told to come back", err)
		}
		f.Status(nil, 0)
		read(t, h, requestOf(""))
	})
}
