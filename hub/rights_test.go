package hub

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A change reaches a node that was cut off before what was published after it.
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
		// "still" was pending when the right to it ended, unless it was written first.
		got := strings.ReplaceAll(alice.client(t).data(), "still ", "")
		want(t, "alice got", got, "before granted")
		want(t, "listed", fmt.Sprint(alice.Info().Topics), "[room/2]")
	})
}

// Slots: who is slow gets the newest of each, and no gap for those in between.
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
		want(t, "who comes back gets", c.data(), "0 1 2 3 4 5 6 7 8 a9 b9 9")
		want(t, "and is told", c.controlSummary(), "")
		r := requestOf("alice")
		r.State = true
		c = read(t, h, r)
		want(t, "a newcomer gets", c.data(), "a9 b9")
		want(t, "without an id before it", c.control[0].id, "")
		want(t, "and ends at", c.position, positionAt(h, 38)) // that of b9
		checkBytes(t, h.history)

		empty := requestOf("carol", "x")
		empty.State = true
		h.SetOptions(Options{MaxEvents: 1})
		c = read(t, h, empty)
		want(t, "without a state", c.control[0].id, positionAt(h, 40))
		want(t, "slots that are left", len(h.history.slots), 0)
		checkBytes(t, h.history)
	})
}

// What is replaced in its slot is not pending any more: it counts in no lag.
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
	want(t, "pending", c.left(), 5)
	if lag := c.Info().Lag; lag < 5 || lag > 9 {
		t.Errorf("lag %d, though 5 are pending, in 9 places", lag)
	}
}

// The pattern of a slot is learned while a value of it is replaced.
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
	next := h.history.learn(h.history.shape("a/*"), 0) // not to its end
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

// A newcomer is sent the state of the moment when it is sent, though some of the history
// went after it was admitted.
func TestStateOfNow(t *testing.T) {
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
		want(t, "told", v.client(t).controlSummary(), "")
		want(t, "data", v.client(t).data(), "a1 b2")
	})
}

// Slots against a map: a client that reads now and then ends with the same state.
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
			want(t, "told", c.controlSummary(), "")
			if c.position != "" {
				position = c.position
			}
			for _, e := range c.events {
				name, _, _ := strings.Cut(e.data, "=")
				seen[name] = e.data
			}
			if len(c.events) > 10 {
				t.Fatalf("%d values of 10 slots", len(c.events))
			}
			if !maps.Equal(seen, state) {
				t.Fatalf("round %d: the client has %v, want %v", round, seen, state)
			}
		}
		checkBytes(t, h.history)
	})
}

// A connection that looks for events just when the history has a change of its topics,
// and the change is not yet made, is told of it all the same.
func TestTopicsChangeWhileOneLooks(t *testing.T) {
	h := newHub(t, Options{})
	mustPublish(t, h, Target{})
	c := connect(t, h, requestOf("alice"))
	var w discardSink
	c.catchUp(&w)
	change := &Command{Topics: &TopicChange{Filter: Filter{Users: []string{"alice"}}, Add: []string{"news"}}}
	enc := encode(Record{Seq: 2, At: time.Now(), Data: encodeCommand(change)}, h.history.epoch, time.Now())
	h.deliver([]encoded{enc})
	c.catchUp(&w)
	want(t, "told before it is made", strings.Count(w.String(), "sse.topics"), 0)
	h.execute(enc.command, enc.seq)
	c.catchUp(&w)
	want(t, "told", strings.Count(w.String(), "sse.topics"), 1)
	want(t, "cursor", c.cursor.Load(), 2)
}

// copied is a client that keeps what it is sent.
type discardSink struct{ strings.Builder }

func (*discardSink) Abort()       {}
func (*discardSink) Flush() error { return nil }
