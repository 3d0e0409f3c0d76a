package hub

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestEvictionBounds(t *testing.T) {
	t.Run("count", func(t *testing.T) {
		h := newHub(t, Options{MaxEvents: 100})
		for i := range 1000 {
			publish(t, h, "x")
			want(t, "retained", h.Stats().Events, min(i+1, 100))
		}
		want(t, "oldest", h.Stats().Oldest.Seq, 901)
	})
	t.Run("bytes", func(t *testing.T) {
		h := newHub(t, Options{MaxBytes: 10_000})
		for range 300 {
			publish(t, h, strings.Repeat("x", 300))
			checkBytes(t, h.history)
			if n := h.Stats().EventBytes; n > 10_000 {
				t.Fatalf("bytes: got %d, want at most 10,000", n)
			}
		}
		if n := h.Stats().Events; n < 15 {
			t.Errorf("retained events: got %d, want at least 15", n)
		}
	})
	t.Run("the newest stays whatever its size", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := newHub(t, Options{MaxBytes: 500})
			v := open(t, h, requestOf("alice"))
			for range 3 {
				publish(t, h, strings.Repeat("x", 1000))
				synctest.Wait()
				want(t, "retained", h.Stats().Events, 1)
			}
			want(t, "delivered", len(v.client(t).events), 3)
		})
	})
	t.Run("age, checked at reading", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := newHub(t, Options{MaxAge: time.Hour})
			start := h.Stats().Head.String()
			publish(t, h, "old", user("alice"))
			time.Sleep(30 * time.Minute)
			publish(t, h, "new")
			time.Sleep(30*time.Minute - 1)
			want(t, "just before", read(t, h, requestOf("alice").at(start)).data(), "old new")
			time.Sleep(time.Nanosecond)
			c := read(t, h, requestOf("alice").at(start))
			want(t, "alice after an hour", c.data()+", "+c.controlSummary(), "new, sse.gap evicted")
			c = read(t, h, requestOf("bob").at(start))
			want(t, "bob, who lost nothing", c.data()+", "+c.controlSummary(), "new, ")
			time.Sleep(time.Hour)
			c = read(t, h, requestOf("bob").at(Earliest))
			want(t, "everything evicted: no gap for a client that asks for the earliest event", c.data()+", "+c.controlSummary(), ", ")
			want(t, "retained", h.Stats().Events, 0)
			want(t, "bytes", h.Stats().EventBytes, evictedBytes) // for alice, who has lost an event
			want(t, "oldest", h.Stats().Oldest.Seq, h.Stats().Head.Seq+1)
			want(t, "resumes at the head", read(t, h, requestOf("bob").at(h.Stats().Head.String())).controlSummary(), "")
		})
	})
	t.Run("age, for an open stream", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := newHub(t, Options{MaxAge: time.Minute})
			v := open(t, h, requestOf("alice").with(Settings{Heartbeat: time.Second, Timeout: time.Hour}))
			synctest.Wait()
			resume := v.stall()
			publish(t, h, "in the write")
			synctest.Wait()
			publish(t, h, "too old")
			time.Sleep(time.Minute)
			resume()
			synctest.Wait()
			want(t, "got", v.client(t).data()+", "+v.client(t).controlSummary(), "in the write, sse.gap evicted")
		})
	})
}

func TestTimeToLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{MaxEvents: 3})
		start := h.Stats().Head.String()
		brief := func(data string) {
			_, err := h.Publish(t.Context(), Event{Data: []byte(data), Targets: []Target{user("alice")}, Expires: time.Now().Add(time.Minute)})
			if err != nil {
				t.Fatal(err)
			}
		}
		v := open(t, h, requestOf("alice").with(Settings{Heartbeat: time.Hour, Timeout: time.Hour}))
		brief("brief")
		publish(t, h, "long")
		synctest.Wait()
		want(t, "live", v.client(t).data(), "brief long")
		time.Sleep(time.Minute - 1)
		want(t, "just before", read(t, h, requestOf("alice").at(start)).data(), "brief long")

		resume := v.stall()
		publish(t, h, "in the write")
		synctest.Wait()
		time.Sleep(time.Nanosecond)
		c := read(t, h, requestOf("alice").at(start))
		want(t, "after the ttl", c.data()+", "+c.controlSummary(), "long in the write, ")

		brief("brief, and stuck")
		time.Sleep(time.Minute)
		for range 3 {
			publish(t, h, "x", user("bob")) // evicts all earlier events
		}
		resume()
		synctest.Wait()
		want(t, "for a stream that was stuck", v.client(t).data()+", "+v.client(t).controlSummary(), "brief long in the write, ")
		want(t, "evicted after its ttl", read(t, h, requestOf("alice").at(Position{Epoch: h.history.epoch, Seq: 3}.String())).controlSummary(), "")
		want(t, "evicted before its ttl", read(t, h, requestOf("alice").at(Position{Epoch: h.history.epoch, Seq: 1}.String())).controlSummary(), "sse.gap evicted")
	})
}

func TestFloorRisesWithGenerations(t *testing.T) {
	h := newHub(t, Options{MaxEvents: 1})
	hi := h.history
	fillGeneration := func() { // as if this many targets had been evicted
		hi.recentEvicted = make(map[uint64]uint64, maxEvictedTargets)
		for i := range uint64(maxEvictedTargets - 1) {
			hi.recentEvicted[i] = 1
		}
	}
	fillGeneration()
	publish(t, h, "1", user("first"))
	publish(t, h, "2", user("second")) // evicts 1
	want(t, "recently evicted targets after a rotation", len(hi.recentEvicted), 0)
	want(t, "floor after one generation", hi.floor, 0)
	want(t, "the older generation is known", read(t, h, requestOf("first").at(h.history.epoch+"-0")).controlSummary(), "sse.gap evicted")
	want(t, "no gap for others", read(t, h, requestOf("other").at(h.history.epoch+"-0")).controlSummary(), "")

	fillGeneration()
	publish(t, h, "3", user("third"))
	want(t, "floor after two generations", hi.floor, 1)
	for name, controls := range map[string]string{"first": "sse.gap evicted", "other": "sse.gap evicted"} {
		want(t, name+" below the floor", read(t, h, requestOf(name).at(h.history.epoch+"-0")).controlSummary(), controls)
	}
	for name, controls := range map[string]string{"first": "", "second": "sse.gap evicted", "third": "", "other": ""} {
		want(t, name+" at the floor", read(t, h, requestOf(name).at(h.history.epoch+"-1")).controlSummary(), controls)
	}
}

func TestShapeLearnedLate(t *testing.T) {
	h := newHub(t, Options{MaxEvents: 4})
	for _, name := range []string{"a/1", "b/1", "a/2", "a", "a/3/x", "b/2"} { // the first two are evicted
		publish(t, h, name, topic(name))
	}
	check := func(pattern string, seq uint64, expected string) {
		t.Helper()
		c := read(t, h, requestOf("", pattern).at(Position{Epoch: h.history.epoch, Seq: seq}.String()))
		want(t, fmt.Sprintf("%s from %d", pattern, seq), c.data()+", "+c.controlSummary(), expected)
	}
	check("a/*", 2, "a/2 a/3/x, ")
	check("b/*", 2, "b/2, ")
	check("*/x", 2, ", ")
	check("a/*/x", 2, "a/3/x, ")
	check("a/*", 1, "a/2 a/3/x, sse.gap evicted") // in doubt
	check("c/*", 1, ", sse.gap evicted")
	publish(t, h, "a/4", topic("a/4")) // evicts a/2
	check("a/*", 3, "a/3/x a/4, ")
	check("a/*", 2, "a/3/x a/4, sse.gap evicted")
	check("b/*", 2, "b/2, ")
	want(t, "shapes", len(h.history.shapes), 3)

	// The eviction of events that were indexed late does not remove the lane of subscribers.
	c := connect(t, h, requestOf("", "a/*"))
	for i := range 10 {
		publish(t, h, fmt.Sprint(i), user("bob"))
	}
	want(t, "receivers", publish(t, h, "a/5", topic("a/5")).Connections, 1)
	want(t, "lag", c.Info().Lag, 1)
}

func TestLanesAreDropped(t *testing.T) {
	h := newHub(t, Options{MaxEvents: 10})
	for i := range 100 {
		publish(t, h, "x", user(fmt.Sprint(i)), topic(fmt.Sprint("t/", i)), Target{Session, fmt.Sprint(i)}, Target{Connection, fmt.Sprint(i)})
		read(t, h, requestOf(fmt.Sprint("u", i), "t/*", fmt.Sprint("v/", i)))
	}
	lanes := len(h.history.lanes)
	want(t, "lanes of ten events, of one pattern, and of everybody", lanes, 10*4+1+1)
	want(t, "evicted users, topics and sessions", len(h.history.recentEvicted), 90*3)
}

func TestLaneAfter(t *testing.T) {
	for n := range 70 {
		var l lane
		for i := range n {
			l.seqs = append(l.seqs, uint64(3*i+5))
		}
		for seq := range uint64(3*n + 10) {
			expected := slices.IndexFunc(l.seqs, func(s uint64) bool { return s > seq })
			want(t, fmt.Sprintf("has one after %d of %d", seq, n), l.hasAfter(seq), expected >= 0)
			if expected < 0 {
				expected = n
			}
			want(t, fmt.Sprintf("after %d of %d", seq, n), l.indexAfter(seq), expected)
		}
	}
}

// The time to find an event of a user does not grow with the number of later events of others. A
// scan over those would exceed the bound several times. The test takes the quickest of many
// look-ups, which nothing has disturbed.
func TestReplayCostsWhatWasMissed(t *testing.T) {
	quickest := func(others int) time.Duration {
		h := newHub(t, Options{MaxEvents: 100_000})
		publish(t, h, "x", user("alice"))
		for range others {
			publish(t, h, "x", user("bob"))
		}
		c := connect(t, h, requestOf("alice").at(h.history.epoch+"-0"))
		b, best := new(batch), time.Hour
		for range 200 {
			b.reset()
			began := time.Now()
			h.lookUp(c.Conn, time.Now(), b)
			best = min(best, time.Since(began))
			want(t, "found", len(b.items), 1)
		}
		return best
	}
	if few, many := quickest(1), quickest(20_000); many > 10*few+10*time.Microsecond {
		t.Errorf("look-up among 20,000 events of others: got %v, want about the %v among one", many, few)
	}
}

func TestBatchesAreBounded(t *testing.T) {
	h := newHub(t, Options{})
	start := h.Stats().Head.String()
	for i := range 300 {
		publish(t, h, fmt.Sprint(i, strings.Repeat(".", 1000)))
	}
	publish(t, h, strings.Repeat("x", 5*batchBytes))
	publish(t, h, "end")
	c := connect(t, h, requestOf("alice").at(start))
	b := new(batch)
	for looks := 0; ; looks++ {
		b.reset()
		l := h.lookUp(c.Conn, time.Now(), b)
		if b.size > batchBytes && len(b.items) > 1 {
			t.Errorf("batch: got %d events with %d bytes, want at most %d bytes", len(b.items), b.size, batchBytes)
		}
		if c.cursor.Store(l.cursor); !l.more {
			want(t, "looks", looks, 11)
			break
		}
	}
	w := newTestSink()
	got := (&client{t: t}).read(readOnce(t, h, requestOf("alice").at(start), w))
	want(t, "events", len(got.events), 302)
	want(t, "flushes", w.flushed, len(w.taken))
}
