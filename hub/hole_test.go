package hub

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// A record that was deleted, or that nobody can read, costs the history nothing
// but itself. All who were not past it are told, once.
func TestHoles(t *testing.T) {
	for name, lose := range map[string]func(*sharedLog, *sharedLogNode){
		"deleted": func(l *sharedLog, _ *sharedLogNode) {
			l.change(func() { l.next += 3 })
		},
		"foreign": func(_ *sharedLog, n *sharedLogNode) {
			entries := []Entry{{Data: []byte("hello")}, {Data: []byte{recordEvent}}, {Data: nil}}
			if _, err := n.Append(t.Context(), entries); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := newSharedLog()
				h, n := log.join(t, Options{})
				publish(t, h, "1")
				position := positionAt(h, 1)
				lose(log, n)
				for i := 5; i < 10; i++ {
					publish(t, h, fmt.Sprint(i))
				}
				synctest.Wait()
				want(t, "head", h.Stats().Head.Seq, 9)

				c := read(t, h, requestOf("").at(position))
				want(t, "who was before it gets", c.data(), "5 6 7 8 9")
				want(t, "and is told", c.controlSummary(), "sse.gap evicted")
				c = read(t, h, requestOf("").at(positionAt(h, 5)))
				want(t, "who was past it gets", c.data(), "6 7 8 9")
				want(t, "and is told", c.controlSummary(), "")
				c = read(t, h, requestOf("").at(Earliest))
				want(t, "who wants all that there is gets", c.data(), "1 5 6 7 8 9")
				want(t, "and is told", c.controlSummary(), "")
			})
		})
	}
}

// A hole in the middle of what a client gets in several writes is told once.
func TestHoleIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newSharedLog()
		h, n := log.join(t, Options{})
		large := fmt.Sprintf("%0*d", batchBytes-1000, 0)
		publish(t, h, large)
		publish(t, h, large)
		v := open(t, h, requestOf(""))
		synctest.Wait()
		resume := v.stall()
		publish(t, h, "3") // its write is stuck
		synctest.Wait()
		publish(t, h, large)
		if _, err := n.Append(t.Context(), []Entry{{Data: []byte("foreign")}}); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			publish(t, h, large)
		}
		resume()
		synctest.Wait()
		c := v.client(t)
		want(t, "events", len(c.events), 5)
		want(t, "told", c.controlSummary(), "sse.gap evicted")
	})
}

// What a node has missed for good may have been a command.
func TestMissedCommands(t *testing.T) {
	for name, missed := range map[string]uint64{"some": 5, "more than the history holds": 1_000} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := newSharedLog()
				here, _ := log.join(t, Options{MaxEvents: 10_000})
				there, cutOff := log.join(t, Options{MaxEvents: 100})
				publish(t, here, "before")
				synctest.Wait()
				mallory := open(t, there, requestOf("mallory"))
				synctest.Wait()
				cutOff.set(true)
				if _, err := here.Disconnect(t.Context(), Filter{Users: []string{"mallory"}}); err != nil {
					t.Fatal(err)
				}
				for range missed - 1 {
					publish(t, here, "meanwhile")
				}
				log.remove(1, missed+1)
				publish(t, here, "after")
				cutOff.set(false)
				synctest.Wait()
				want(t, "mallory got", mallory.client(t).data(), "")
				want(t, "mallory ended", mallory.endReason(t), Lifetime)
				c := read(t, there, requestOf("bob").at(positionAt(here, 1)))
				want(t, "who comes back gets", c.data(), "after")
				want(t, "and is told", c.controlSummary(), "sse.gap evicted")
			})
		})
	}
}

// Who listens is told of a hole at once, though nothing follows it.
func TestHoleIsToldAtOnce(t *testing.T) {
	for name, lose := range map[string]func(h *Hub){
		"deleted": func(h *Hub) { h.fillHoles(5) },
		"foreign": func(h *Hub) { feed{h}.Deliver([]Record{{2, time.Now(), []byte("hello")}}) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHub(t, Options{})
				publish(t, h, "1")
				v := open(t, h, requestOf("alice"))
				synctest.Wait()
				lose(h)
				synctest.Wait()
				want(t, "told", v.client(t).controlSummary(), "sse.gap evicted")
			})
		})
	}
}

// However many records are missing, it takes no time to leave them out.
func TestHugeHole(t *testing.T) {
	h := newHub(t, Options{MaxEvents: 100})
	publish(t, h, "1")
	done := make(chan struct{})
	go func() {
		defer close(done)
		feed{h}.Deliver([]Record{recordOf(1<<50, Event{Data: []byte("far"), Targets: []Target{{}}})})
	}()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatal("it is still counting")
	}
	want(t, "head", h.Stats().Head.Seq, 1<<50)
	want(t, "events", h.Stats().Events, 1)
}

// What another program has written is an event only if it could have been
// published: no client is sent a block of the hub's own that the hub did not write.
func TestForgedEvents(t *testing.T) {
	for name, e := range map[string]Event{
		"a reserved type":  {Type: "sse.closing", Targets: []Target{{}}},
		"a line in a type": {Type: "x\ndata: y", Targets: []Target{{}}},
		"not UTF-8":        {Data: []byte{0xff}, Targets: []Target{{}}},
		"no target":        {Data: []byte("x")},
		"a pattern":        {Data: []byte("x"), Targets: []Target{{pattern, "a/*"}}},
		"a wildcard":       {Data: []byte("x"), Targets: []Target{topic("a/*")}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHub(t, Options{})
				v := open(t, h, requestOf("alice", "a/*"))
				feed{h}.Deliver([]Record{recordOf(1, e)})
				synctest.Wait()
				want(t, "got", v.client(t).data(), "")
				want(t, "told", v.client(t).controlSummary(), "sse.gap evicted")
			})
		})
	}
}
