package hub

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestPublishBatch(t *testing.T) {
	h := newHub(t, Options{MaxEventSize: 4})
	connect(t, h, requestOf("alice"))
	connect(t, h, requestOf("alice", "t"))
	event := func(data string, targets ...Target) Event { return Event{Data: []byte(data), Targets: targets} }
	receipts, err := h.Publish(t.Context(), event("1", user("alice")), event("2", topic("t")), event("3", topic("t"), user("alice"), user("bob")), event("4", user("bob")), event("5", Target{}))
	if err != nil {
		t.Fatal(err)
	}
	for i, connections := range []int{2, 1, 2, 0, 2} {
		want(t, fmt.Sprint("receipt ", i), receipts[i], Receipt{h.history.position(uint64(i + 1)), connections, false})
	}
	_, err = h.Publish(t.Context(), event("6", Target{}), event("12345", Target{}))
	wantErr(t, err, ErrTooLarge)
	refused, ok := errors.AsType[*BatchError](err)
	if !ok || refused.Index != 1 || !strings.HasPrefix(err.Error(), "event 2: ") {
		t.Errorf("error: got %v, want a BatchError for event 2", err)
	}
	want(t, "head", h.Stats().Head.Seq, 5)
	if receipts, err := h.Publish(t.Context()); err != nil || len(receipts) != 0 {
		t.Errorf("an empty batch: got %v, %v, want no receipts and no error", receipts, err)
	}
}

func TestKeys(t *testing.T) {
	keyed := func(data, key string) Event {
		return Event{Data: []byte(data), Targets: []Target{user("alice")}, Key: key}
	}
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		v := open(t, h, requestOf("alice"))
		send := func(events ...Event) (s string) {
			t.Helper()
			receipts, err := h.Publish(t.Context(), events...)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range receipts {
				s += fmt.Sprintf("%d/%d/%v ", r.Position.Seq, r.Connections, r.Duplicate)
			}
			return s
		}
		want(t, "the first use of a key", send(keyed("a", "k")), "1/1/false ")
		want(t, "the second use", send(keyed("b", "k")), "1/1/true ")
		want(t, "two events without keys", send(keyed("c", ""), keyed("d", "")), "2/1/false 3/1/false ")
		want(t, "in a batch", send(keyed("e", "k"), keyed("f", "l"), keyed("g", "l")), "1/1/true 4/1/false 4/1/true ")
		time.Sleep(2*time.Minute - 1)
		want(t, "just before the key expires", send(keyed("h", "k")), "1/1/true ")
		time.Sleep(time.Nanosecond)
		want(t, "two minutes after the first use", send(keyed("i", "k")), "5/1/false ")
		synctest.Wait()
		want(t, "events", v.client(t).data(), "a c d f i")

		v.goAway()
		want(t, "connections of a duplicate are those of now", send(keyed("j", "k")), "5/0/true ")
		want(t, "published", h.Stats().Published, 5)
		time.Sleep(time.Hour)
		send(keyed("k", "new"))
		remembered := 0
		for _, g := range h.source.Store.(*Memory).keys.generations {
			remembered += len(g.keys)
		}
		want(t, "keys remembered", remembered, 1)
	})

	t.Run("in flight together", func(t *testing.T) {
		h := newHub(t, Options{})
		var seqs [8][100]uint64
		var first [8]int
		var publishing sync.WaitGroup
		for p := range seqs {
			publishing.Go(func() {
				for i := range seqs[p] {
					receipts, err := h.Publish(t.Context(), keyed(fmt.Sprint(i), fmt.Sprint(i)))
					if err != nil {
						t.Error(err)
						return
					}
					if seqs[p][i] = receipts[0].Position.Seq; !receipts[0].Duplicate {
						first[p]++
					}
				}
			})
		}
		publishing.Wait()
		sum := 0
		for p := range seqs {
			sum += first[p]
			want(t, "positions", seqs[p], seqs[0])
		}
		want(t, "stored", sum, 100)
		c := read(t, h, requestOf("alice").at(Earliest))
		for i, m := range c.events {
			want(t, "event "+m.data, m.id, positionAt(h, seqs[0][i]))
		}
		want(t, "delivered", len(c.events), 100)
	})
}

func TestCloseEndsAll(t *testing.T) {
	h := New(Options{})
	useStore(t, h, NewMemory())
	v := open(t, h, requestOf("alice"))
	h.Close()
	want(t, "goroutines of the hub", strings.Count(stacks(), "wakeSubscribers"), 0)
	want(t, "reason", v.wait(), HubClosed)
	h.Close()
	_, err := h.Connect(t.Context(), requestOf("alice"))
	want(t, "refused", err.Error(), "connection refused: hub_closed")
}

// A connection that is cancelled is closed and counted.
func TestCancel(t *testing.T) {
	h := newHub(t, Options{})
	c := connect(t, h, requestOf("alice"))
	c.Cancel()
	want(t, "open", h.Stats().Connections["h1"], 0)
	want(t, "closed", h.Stats().Closed["gone"], 1)
}
