package hub

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A node that was cut off makes a change of topics before it delivers the events that were
// published after the change.
func TestPromise11TopicsOnOtherNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newSharedLog()
		here, _ := log.join(t, Options{})
		there, cutOff := log.join(t, Options{})
		alice := open(t, there, requestOf("alice", "room/1"))
		publish(t, here, "before", topic("room/1"))
		synctest.Wait()
		cutOff.set(true)
		publish(t, here, "still", topic("room/1"))
		if _, err := here.ChangeTopics(t.Context(), TopicChange{
			Filter: Filter{Users: []string{"alice"}}, Add: []string{"room/2"}, Remove: []string{"room/1"},
		}); err != nil {
			t.Fatal(err)
		}
		publish(t, here, "revoked", topic("room/1"))
		publish(t, here, "granted", topic("room/2"))
		time.Sleep(2 * time.Minute)
		cutOff.set(false)
		synctest.Wait()
		// "still" was pending when the right to it ended. It may be missing, unless it was written
		// before.
		got := strings.ReplaceAll(alice.client(t).data(), "still ", "")
		want(t, "events of alice", got, "before granted")
		want(t, "topics of alice", fmt.Sprint(alice.Info().Topics), "[room/2]")
	})
}

// A slow client gets the newest value of each slot, and no gap for the values in between.
func TestSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		slot := func(name, data string, targets ...Target) {
			t.Helper()
			if len(targets) == 0 {
				targets = []Target{{}}
			}
			if _, err := h.Publish(t.Context(), Event{Slot: name, Data: []byte(data), Targets: targets}); err != nil {
				t.Fatal(err)
			}
		}
		v := open(t, h, requestOf("alice"))
		synctest.Wait()
		start := v.client(t).position
		for i := range 10 {
			slot("a", fmt.Sprint("a", i))
			slot("b", fmt.Sprint("b", i), user("alice"))
			slot("b", fmt.Sprint("bob", i), user("bob"))
			publish(t, h, fmt.Sprint(i))
		}
		synctest.Wait()
		c := read(t, h, requestOf("alice").at(start))
		want(t, "events after a reconnect", c.data(), "0 1 2 3 4 5 6 7 8 a9 b9 9")
		want(t, "control events", c.controlSummary(), "")
		r := requestOf("alice")
		r.State = true
		c = read(t, h, r)
		want(t, "events of a new client", c.data(), "a9 b9")
		want(t, "id of sse.connected", c.control[0].id, "")
		want(t, "position", c.position, positionAt(h, 38)) // of b9
		checkBytes(t, h.history)

		empty := requestOf("carol", "x")
		empty.State = true
		h.SetOptions(Options{MaxEvents: 1})
		c = read(t, h, empty)
		want(t, "id of sse.connected without a state", c.control[0].id, positionAt(h, 40))
		want(t, "retained slots", len(h.history.slots), 0)
		checkBytes(t, h.history)
	})
}

// An event that was replaced in its slot is not pending any more, and does not count in the lag.
func TestReplacedIsNotPending(t *testing.T) {
	h := newHub(t, Options{})
	put := func(slot, data string, targets ...Target) {
		t.Helper()
		if _, err := h.Publish(t.Context(), Event{Slot: slot, Data: []byte(data), Targets: targets}); err != nil {
			t.Fatal(err)
		}
	}
	c := connect(t, h, requestOf("alice", "a", "*"))
	publish(t, h, "first", topic("a"))
	for range 500 {
		put("x", "x", topic("a"), user("alice"))
		put("y", "y", topic("b"))
		put("z", "z", user("alice"))
		publish(t, h, "to bob", user("bob"))
		checkBytes(t, h.history)
	}
	publish(t, h, "last", topic("a"))
	want(t, "pending", c.pendingEvents(), 5)
	if lag := c.Info().Lag; lag < 5 || lag > 9 {
		t.Errorf("lag: got %d, want 5 to 9 (5 events are pending, in 9 lanes)", lag)
	}
}

// A look-up passes a bounded number of replaced states, because it holds the hub's lock. The client
// gets the same as from one look-up that passes all of them.
func TestPromise12ManyReplacedStates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const replaced = 2*skipsAtOnce + 10
		h := newHub(t, Options{MaxEvents: 10 * replaced})
		fill := func(n int, e Event) {
			records := make([]Record, n)
			for i := range records {
				records[i] = recordOf(h.history.head+1+uint64(i), e)
			}
			feed{h}.Deliver(records)
		}
		state := requestOf("alice")
		state.State = true
		fill(replaced, Event{Targets: []Target{{}}})
		v := open(t, h, state)
		synctest.Wait()
		want(t, "position after an empty state", v.client(t).position, positionAt(h, replaced))
		want(t, "empty state", v.client(t).data()+v.client(t).controlSummary(), "")

		h = newHub(t, Options{MaxEvents: 10 * replaced})
		fill(replaced, Event{Data: []byte("old"), Slot: "x", Targets: []Target{{}}})
		fill(1, Event{Data: []byte("new"), Slot: "x", Targets: []Target{{}}})
		c := connect(t, h, requestOf("alice").at(Earliest))
		looks := 0
		for b, more := new(batch), true; more; looks++ {
			l := h.lookUp(c.Conn, time.Now(), b)
			c.cursor.Store(l.cursor)
			more = l.more
			want(t, "events found", len(b.items) > 0, !more)
		}
		want(t, "look-ups", looks, 3)
		want(t, "events", read(t, h, requestOf("alice").at(Earliest)).data(), "new")
		want(t, "state", read(t, h, state).data(), "new")
	})
}

// The history may learn the shape of a pattern while a value in a slot is replaced.
func TestReplacedWhileAShapeIsLearned(t *testing.T) {
	h := newHub(t, Options{})
	put := func(data string) {
		if _, err := h.Publish(t.Context(), Event{Slot: "x", Data: []byte(data), Targets: []Target{topic("a/b")}}); err != nil {
			t.Fatal(err)
		}
	}
	put("old")
	for range 2 * learnAtOnce {
		publish(t, h, "other", topic("other"))
	}
	h.mu.Lock()
	next := h.history.learn(h.history.shape("a/*"), 0) // the first slice only
	h.mu.Unlock()
	put("new")
	checkBytes(t, h.history)
	h.mu.Lock()
	for s := h.history.shape("a/*"); !s.learned; {
		next = h.history.learn(s, next)
	}
	h.mu.Unlock()
	checkBytes(t, h.history)
	want(t, "data", read(t, h, requestOf("alice", "a/*").at(Earliest)).data(), "new")
}

// A new client gets the state at the moment of sending, even if a part of the history was evicted
// after the client was admitted.
func TestStateIsOfTheMomentOfSending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{MaxEvents: 3})
		put := func(slot, data string) {
			if _, err := h.Publish(t.Context(), Event{Slot: slot, Data: []byte(data), Targets: []Target{{}}}); err != nil {
				t.Fatal(err)
			}
		}
		publish(t, h, "no state")
		put("a", "a1")
		r := requestOf("alice")
		r.State = true
		v := serve(t, func() Pending {
			c := connect(t, h, r)
			put("b", "b1")
			put("b", "b2")
			return c
		}(), newTestSink())
		synctest.Wait()
		want(t, "control events", v.client(t).controlSummary(), "")
		want(t, "data", v.client(t).data(), "a1 b2")
	})
}

// A client that reads now and then ends with the same state as a map of slots.
func TestSlotsAgainstModel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		state := make(map[string]string)
		var position string
		seen := make(map[string]string)
		for round := range 200 {
			for range rand.IntN(20) {
				name := fmt.Sprint("slot", rand.IntN(10))
				state[name] = name + "=" + strconv.Itoa(rand.Int())
				if _, err := h.Publish(t.Context(), Event{Slot: name, Data: []byte(state[name]), Targets: []Target{{}}}); err != nil {
					t.Fatal(err)
				}
			}
			r := requestOf("alice").at(position)
			r.State = position == ""
			c := read(t, h, r)
			want(t, "control events", c.controlSummary(), "")
			if c.position != "" {
				position = c.position
			}
			for _, e := range c.events {
				name, _, _ := strings.Cut(e.data, "=")
				seen[name] = e.data
			}
			if len(c.events) > 10 {
				t.Fatalf("values of 10 slots: got %d, want at most 10", len(c.events))
			}
			if !maps.Equal(seen, state) {
				t.Fatalf("state in round %d: got %v, want %v", round, seen, state)
			}
		}
		checkBytes(t, h.history)
	})
}

// A connection may look for events after the history got a change of its topics, and before the
// hub made the change. It still gets sse.topics.
func TestTopicsChangeDuringLookUp(t *testing.T) {
	h := newHub(t, Options{})
	mustPublish(t, h, Target{})
	c := connect(t, h, requestOf("alice"))
	var w recordingSink
	c.catchUp(&w)
	change := &Command{Topics: &TopicChange{Filter: Filter{Users: []string{"alice"}}, Add: []string{"news"}}}
	enc := encode(Record{Seq: 2, At: time.Now(), Data: encodeCommand(change)}, h.history.epoch, time.Now())
	h.deliver([]encoded{enc})
	c.catchUp(&w)
	want(t, "sse.topics before the change is made", strings.Count(w.String(), "sse.topics"), 0)
	h.execute(enc.command, enc.seq)
	c.catchUp(&w)
	want(t, "sse.topics after the change", strings.Count(w.String(), "sse.topics"), 1)
	want(t, "cursor", c.cursor.Load(), 2)
}

// recordingSink is a client that keeps everything it is sent.
type recordingSink struct{ strings.Builder }

func (*recordingSink) Abort()       {}
func (*recordingSink) Flush() error { return nil }

// TestRightsChangesAreSmall: the names of a disconnect may be parts of a long URL. The hub keeps
// neither the URL nor very long names.
func TestRightsChangesAreSmall(t *testing.T) {
	h := newHub(t, Options{})
	before := liveHeap()
	for i := range maxRightsChanges {
		url := strings.Repeat("x", 100_000)
		f := Filter{Users: []string{url[:10]}}
		if i%2 == 0 {
			f = Filter{Users: []string{url}}
		}
		h.DisconnectHere(f)
	}
	if grown := liveHeap() - before; grown > 5<<20 {
		t.Errorf("heap of %d changes: got %d bytes, want at most 5 MiB", maxRightsChanges, grown)
	}
	runtime.KeepAlive(h)
}
