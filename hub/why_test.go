package hub

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestWhy: each cause leads to its fate.
func TestWhy(t *testing.T) {
	alice := requestOf("alice")
	for name, c := range map[string]struct {
		opts  Options
		seed  func(t *testing.T, h *Hub) Position
		known Known
		fates string
		check func(t *testing.T, w Why)
	}{
		"delivered": {seed: func(t *testing.T, h *Hub) Position {
			open(t, h, alice)
			synctest.Wait()
			return send(t, h, to(user("alice")))
		}, known: KnownRetained, fates: "delivered", check: func(t *testing.T, w Why) {
			v := w.Connections[0]
			wantTime(t, "written by", v.By, w.Event.Published)
			want(t, "replayed", v.Replayed, false)
			want(t, "position", v.Position, w.Event.ID)
			want(t, "target", w.Event.Targets[0], TargetInfo{"user", "alice"})
		}},
		"replayed": {seed: func(t *testing.T, h *Hub) Position {
			publish(t, h, "before")
			p := send(t, h, to(user("alice")))
			time.Sleep(time.Minute)
			open(t, h, alice.at(positionAt(h, 1)))
			return p
		}, known: KnownRetained, fates: "delivered", check: func(t *testing.T, w Why) {
			v := w.Connections[0]
			wantTime(t, "written by", v.By, w.Event.Published.Add(time.Minute))
			want(t, "replayed", v.Replayed, true)
			want(t, "started from", v.StartedFrom, StartedFromPosition)
		}},
		"pending": {seed: func(t *testing.T, h *Hub) Position {
			_, resume := openStalled(t, h, alice)
			t.Cleanup(resume)
			p := send(t, h, to(user("alice")))
			for range 5 {
				send(t, h, to(user("alice")))
			}
			return p
		}, known: KnownRetained, fates: "pending", check: func(t *testing.T, w Why) {
			want(t, "lag", w.Connections[0].Lag, 7)
		}},
		"written late": {seed: func(t *testing.T, h *Hub) Position {
			_, resume := openStalled(t, h, alice)
			p := send(t, h, to(user("alice")))
			time.Sleep(7 * time.Second)
			resume()
			return p
		}, known: KnownRetained, fates: "delivered", check: func(t *testing.T, w Why) {
			wantTime(t, "written by", w.Connections[0].By, w.Event.Published.Add(7*time.Second))
		}},
		"for another user": {seed: func(t *testing.T, h *Hub) Position {
			open(t, h, alice)
			return send(t, h, to(user("bob")))
		}, known: KnownRetained, fates: "not_addressed"},
		"for a topic that it does not have": {seed: func(t *testing.T, h *Hub) Position {
			open(t, h, requestOf("alice", "room/1", "news/*"))
			return send(t, h, to(topic("room/9")))
		}, known: KnownRetained, fates: "not_addressed", check: func(t *testing.T, w Why) {
			want(t, "topics", strings.Join(w.Connections[0].Topics, " "), "news/* room/1")
		}},
		"for a topic that its pattern matches": {seed: func(t *testing.T, h *Hub) Position {
			v := open(t, h, requestOf("alice", "room/*"))
			p := send(t, h, to(topic("room/9")))
			synctest.Wait()
			v.goAway()
			return p
		}, known: KnownRetained, fates: "delivered", check: func(t *testing.T, w Why) {
			want(t, "reason", w.Connections[0].Reason, Gone)
			want(t, "targets", fmt.Sprint(w.Event.Targets, w.Event.Count), "[{topic room/9}] 1")
		}},
		"for a topic that was removed": {seed: func(t *testing.T, h *Hub) Position {
			open(t, h, requestOf("alice", "room/9"))
			send(t, h, to(topic("room/9")))
			changeOf(t, h, "alice", nil, []string{"room/9"})
			return send(t, h, to(topic("room/9")))
		}, known: KnownRetained, fates: "not_addressed", check: func(t *testing.T, w Why) {
			p, _ := ParsePosition(w.Connections[0].Removed)
			want(t, "removed", p.Seq, 2)
		}},
		"for a topic that was removed later": {seed: func(t *testing.T, h *Hub) Position {
			open(t, h, requestOf("alice", "room/9"))
			p := send(t, h, to(topic("room/9")))
			changeOf(t, h, "alice", nil, []string{"room/9"})
			return p
		}, known: KnownRetained, fates: "unknown", check: func(t *testing.T, w Why) {
			p, _ := ParsePosition(w.Connections[0].Removed)
			want(t, "removed", p.Seq, 2)
		}},
		"for a topic that was added later": {seed: func(t *testing.T, h *Hub) Position {
			open(t, h, alice)
			p := send(t, h, to(topic("room/9")))
			changeOf(t, h, "alice", []string{"room/9"}, nil)
			return p
		}, known: KnownRetained, fates: "not_addressed", check: func(t *testing.T, w Why) {
			p, _ := ParsePosition(w.Connections[0].Added)
			want(t, "added", p.Seq, 2)
		}},
		"for a topic that was added before": {seed: func(t *testing.T, h *Hub) Position {
			v := open(t, h, alice)
			changeOf(t, h, "alice", []string{"room/9"}, nil)
			p := send(t, h, to(topic("room/9")))
			synctest.Wait()
			v.goAway()
			return p
		}, known: KnownRetained, fates: "delivered"},
		"never connected": {seed: func(t *testing.T, h *Hub) Position {
			open(t, h, requestOf("bob"))
			return send(t, h, to(user("alice")))
		}, known: KnownRetained},
		"left, and came back without a position": {seed: func(t *testing.T, h *Hub) Position {
			open(t, h, alice).goAway()
			p := send(t, h, to(user("alice")))
			open(t, h, alice)
			return p
		}, known: KnownRetained, fates: "came_later ended_earlier", check: func(t *testing.T, w Why) {
			want(t, "started from", w.Connections[0].StartedFrom, StartedFromHead)
			want(t, "ended", w.Connections[1].Ended.IsZero(), false)
		}},
		"left, and came back with its position": {seed: func(t *testing.T, h *Hub) Position {
			open(t, h, alice).goAway()
			p := send(t, h, to(user("alice")))
			open(t, h, alice.at(positionAt(h, 0)))
			return p
		}, known: KnownRetained, fates: "delivered ended_earlier"},
		"came back with a later position": {seed: func(t *testing.T, h *Hub) Position {
			p := send(t, h, to(user("alice")))
			open(t, h, alice.at(p.String()))
			return p
		}, known: KnownRetained, fates: "came_later", check: func(t *testing.T, w Why) {
			want(t, "started from", w.Connections[0].StartedFrom, StartedFromPosition)
			want(t, "start", w.Connections[0].Start, w.Event.ID)
		}},
		"came for the state": {seed: func(t *testing.T, h *Hub) Position {
			p := send(t, h, to(user("alice")))
			r := alice
			r.State = true
			open(t, h, r)
			return p
		}, known: KnownRetained, fates: "came_later", check: func(t *testing.T, w Why) {
			want(t, "started from", w.Connections[0].StartedFrom, StartedFromState)
		}},
		"ended before it was written": {seed: func(t *testing.T, h *Hub) Position {
			v, _ := openStalled(t, h, alice)
			p := send(t, h, to(user("alice")))
			time.Sleep(2 * time.Minute)
			want(t, "reason", v.endReason(t), Timeout)
			return p
		}, known: KnownRetained, fates: "cut", check: func(t *testing.T, w Why) {
			want(t, "reason", w.Connections[0].Reason, Timeout)
		}},
		"refused": {seed: func(t *testing.T, h *Hub) Position {
			one := *defaultSettings
			one.MaxPerUser = 1
			open(t, h, alice.with(one))
			if _, err := h.Connect(t.Context(), alice.with(one)); err == nil {
				t.Fatal("a second connection: got admitted, want refused")
			}
			return send(t, h, to(user("alice")))
		}, known: KnownRetained, fates: "delivered refused", check: func(t *testing.T, w Why) {
			want(t, "reason", w.Connections[1].Reason, TooManyPerUser)
			want(t, "connection", w.Connections[1].Connection, "")
		}},
		"ttl passed": {seed: func(t *testing.T, h *Hub) Position {
			_, resume := openStalled(t, h, alice)
			e := to(user("alice"))
			e.Expires = time.Now().Add(time.Second)
			p := send(t, h, e)
			send(t, h, to(user("alice")))
			time.Sleep(2 * time.Second)
			resume()
			return p
		}, known: KnownExpired, fates: "expired"},
		"ttl passed while it waits": {seed: func(t *testing.T, h *Hub) Position {
			_, resume := openStalled(t, h, alice)
			t.Cleanup(resume)
			e := to(user("alice"))
			e.Expires = time.Now().Add(time.Second)
			p := send(t, h, e)
			time.Sleep(2 * time.Second)
			return p
		}, known: KnownExpired, fates: "expired"},
		"ttl passed after it was written": {seed: func(t *testing.T, h *Hub) Position {
			open(t, h, alice)
			synctest.Wait()
			e := to(user("alice"))
			e.Expires = time.Now().Add(time.Second)
			p := send(t, h, e)
			time.Sleep(2 * time.Second)
			return p
		}, known: KnownExpired, fates: "delivered"},
		"replaced": {seed: func(t *testing.T, h *Hub) Position {
			_, resume := openStalled(t, h, alice)
			e := to(user("alice"))
			e.Slot = "price"
			p := send(t, h, e)
			send(t, h, e)
			send(t, h, e)
			t.Cleanup(resume)
			return p
		}, known: KnownReplaced, fates: "replaced", check: func(t *testing.T, w Why) {
			p, _ := ParsePosition(w.Event.Newer)
			want(t, "newer", p.Seq, 4)
		}},
		"replaced after it was written": {seed: func(t *testing.T, h *Hub) Position {
			open(t, h, alice)
			synctest.Wait()
			e := to(user("alice"))
			e.Slot = "price"
			p := send(t, h, e)
			synctest.Wait()
			send(t, h, e)
			return p
		}, known: KnownReplaced, fates: "unknown"},
		"replaced before the client came": {seed: func(t *testing.T, h *Hub) Position {
			publish(t, h, "before")
			e := to(user("alice"))
			e.Slot = "price"
			p := send(t, h, e)
			send(t, h, e)
			time.Sleep(time.Second)
			open(t, h, alice.at(positionAt(h, 1)))
			return p
		}, known: KnownReplaced, fates: "replaced"},
		"evicted by count": {opts: Options{MaxEvents: 2}, seed: evictedOne(nil), known: KnownEvicted, fates: "passed", check: bound(BoundCount)},
		"evicted by size":  {opts: Options{MaxBytes: 1 << 10}, seed: evictedOne(nil), known: KnownEvicted, fates: "passed", check: bound(BoundSize)},
		"evicted by age": {
			opts: Options{MaxAge: time.Minute}, seed: evictedOne(func() { time.Sleep(time.Hour) }),
			known: KnownEvicted, fates: "passed", check: bound(BoundAge),
		},
		"evicted, and for others": {opts: Options{MaxEvents: 2}, seed: func(t *testing.T, h *Hub) Position {
			open(t, h, alice)
			p := send(t, h, to(user("bob")))
			publishMany(t, h, 2)
			return p
		}, known: KnownEvicted, fates: "not_addressed"},
		"evicted before it was written": {opts: Options{MaxEvents: 2}, seed: func(t *testing.T, h *Hub) Position {
			_, resume := openStalled(t, h, alice)
			p := send(t, h, to(user("alice")))
			publishMany(t, h, 2)
			resume()
			return p
		}, known: KnownEvicted, fates: "lost"},
		"of another epoch": {seed: func(t *testing.T, h *Hub) Position {
			open(t, h, alice)
			return Position{Epoch: "another0", Seq: 7}
		}, known: KnownEpoch},
		"of an epoch that has ended": {seed: func(t *testing.T, h *Hub) Position {
			p := send(t, h, to(user("alice")))
			useStore(t, h, NewMemory())
			return p
		}, known: KnownEnded},
		"never published": {seed: func(t *testing.T, h *Hub) Position {
			p := send(t, h, to(user("alice")))
			p.Seq, p.Tag = 1000, Tag{}
			return p
		}, known: KnownAhead},
		"of a history that went another way": {seed: func(t *testing.T, h *Hub) Position {
			p := send(t, h, to(user("alice")))
			p.Tag = Tag([]byte("zzzz"))
			return p
		}, known: KnownOther},
		"a command": {seed: func(t *testing.T, h *Hub) Position {
			open(t, h, alice)
			return changeOf(t, h, "alice", []string{"news"}, nil)
		}, known: KnownCommand},
		"a hole": {seed: func(t *testing.T, h *Hub) Position {
			p := send(t, h, to(user("alice")))
			h.fillHoles(5)
			p.Seq, p.Tag = 3, Tag{}
			return p
		}, known: KnownHole},
		"the beginning": {seed: func(t *testing.T, h *Hub) Position {
			return Position{Epoch: h.history.epoch}
		}, known: KnownStart},
		"published again": {seed: func(t *testing.T, h *Hub) Position {
			open(t, h, alice)
			e := to(user("alice"))
			e.Key = "k"
			p := send(t, h, e)
			send(t, h, e)
			send(t, h, e)
			return p
		}, known: KnownRetained, fates: "delivered", check: func(t *testing.T, w Why) {
			want(t, "repeats", w.Repeats, 2)
			wantTime(t, "time of the repeat", w.Repeated, w.Event.Published)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHub(t, c.opts)
				p := c.seed(t, h)
				synctest.Wait()
				w := why(h, p, "alice")
				want(t, "known", w.Event.Known, c.known)
				want(t, "fates", w.fates(), c.fates)
				if c.check != nil && !t.Failed() {
					c.check(t, w)
				}
			})
		})
	}
}

// TestWhyOfTakenOver: an event is pending while the client has only a part of it. It is delivered
// once the client has read all of it.
func TestWhyOfTakenOver(t *testing.T) {
	overEachTransport(t, func(t *testing.T, kind writerKind) {
		h := newHub(t, Options{})
		p := dial(t, h, requestOf("alice"), kind)
		first := send(t, h, to(user("alice")))
		fateOf := func(at Position) Fate { return why(h, at, "alice").Connections[0].Fate }
		stuck := stuckAt(t, h, p)
		fate := fateOf(stuck)
		for later := stuckAt(t, h, p); later != stuck; later = stuckAt(t, h, p) { // it was not stuck yet
			stuck, fate = later, fateOf(later)
		}
		want(t, "fate of an event before", fateOf(first), FateDelivered)
		want(t, "fate of the event that the client is stuck in", fate, FatePending)
		resumed := time.Now()
		publish(t, h, "the end")
		p.readUntil(t, "data: the end")
		w := why(h, stuck, "alice")
		want(t, "fate after the client reads again", w.Connections[0].Fate, FateDelivered)
		if by := w.Connections[0].By; by.Before(resumed) {
			t.Errorf("time of the write: got %s, want %s or later", by, resumed)
		}
		stuckAt(t, h, p)
		p.Close()
		p.wait()
		h.mu.RLock()
		stuck = h.history.position(p.cursor.Load() + 1)
		h.mu.RUnlock()
		want(t, "fate of an event that the client read in part", fateOf(stuck), FateCut)
	})
}
