package hub

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// A record that was deleted or is unreadable affects no other record. Each client with a position
// before it gets one gap.
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
				want(t, "events after a position before the hole", c.data(), "5 6 7 8 9")
				want(t, "control events", c.controlSummary(), "sse.gap evicted")
				c = read(t, h, requestOf("").at(positionAt(h, 5)))
				want(t, "events after a position past the hole", c.data(), "6 7 8 9")
				want(t, "control events", c.controlSummary(), "")
				c = read(t, h, requestOf("").at(Earliest))
				want(t, "events from the earliest", c.data(), "1 5 6 7 8 9")
				want(t, "control events", c.controlSummary(), "")
			})
		})
	}
}

// A client that gets events in several writes gets one gap for a hole among them.
func TestHoleIsOneGap(t *testing.T) {
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
		want(t, "control events", c.controlSummary(), "sse.gap evicted")
	})
}

// The records that a node can never receive may have been commands, so it ends its connections.
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
				want(t, "events of mallory", mallory.client(t).data(), "")
				want(t, "reason of mallory", mallory.endReason(t), Lifetime)
				c := read(t, there, requestOf("bob").at(positionAt(here, 1)))
				want(t, "events after a reconnect", c.data(), "after")
				want(t, "control events", c.controlSummary(), "sse.gap evicted")
			})
		})
	}
}

// A node ends its connections when its shared store begins another history. With the one before, a
// command may be lost that another node has acknowledged and that this node has never received.
func TestPromise11CommandsOfAHistoryThatEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, s := newHub(t, Options{}), newScriptedStore()
		useStore(t, h, s)
		mallory := open(t, h, requestOf("mallory", "room"))
		began := time.Now()
		time.Sleep(time.Second)
		feed{h}.Status(errAway, 0)
		feed{h}.Begin(NewEpoch(), 1)
		feed{h}.Deliver([]Record{recordOf(1, Event{Data: []byte("secret"), Targets: []Target{topic("room")}})})
		feed{h}.Status(nil, 0)
		synctest.Wait()
		want(t, "events", mallory.client(t).data(), "")
		want(t, "reason", mallory.endReason(t), Lifetime)

		r := requestOf("mallory", "room")
		r.Began = began
		_, err := h.Connect(t.Context(), r)
		want(t, "a request from before", fmt.Sprint(err), "connection refused: lifetime")
		c := read(t, h, requestOf("alice", "room").at(mallory.client(t).position))
		want(t, "events after a reconnect", c.data(), "secret")
		want(t, "control events after a reconnect", c.controlSummary(), "sse.gap epoch")

		// The operator has chosen another store: its first history ends no connection.
		alice := open(t, h, requestOf("alice"))
		synctest.Wait()
		useStore(t, h, newScriptedStore())
		synctest.Wait()
		want(t, "control events after a change of the store", alice.client(t).controlSummary(), "sse.gap epoch")
	})
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
				want(t, "control events", v.client(t).controlSummary(), "sse.gap evicted")
			})
		})
	}
}

// The time to skip a hole does not grow with the number of missing records.
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
	case <-time.After(time.Minute):
		t.Fatal("Deliver of a record after a huge hole: not done after a minute")
	}
	want(t, "head", h.Stats().Head.Seq, 1<<50)
	want(t, "events", h.Stats().Events, 1)
}

// A record that another program wrote is an event only if the hub would have accepted it. So no
// client gets a control event that the hub did not write.
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
				want(t, "events", v.client(t).data(), "")
				want(t, "control events", v.client(t).controlSummary(), "sse.gap evicted")
			})
		})
	}
}
