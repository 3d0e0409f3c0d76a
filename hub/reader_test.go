package hub

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// follow reads from a position until a while passes in which nothing comes, and says
// what it was told: gaps as "!reason", commands as JSON, events by describe.
func follow(t testing.TB, h *Hub, position string, f EventFilter) string {
	t.Helper()
	r, err := h.Read(t.Context(), position, f)
	if err != nil {
		t.Fatal(err)
	}
	told, err := drain(r)
	wantErr(t, err, context.DeadlineExceeded)
	return told
}

// drain is follow for a reader.
func drain(r *Reader) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	var told []string
	for {
		lines, err := r.Next(ctx)
		if lines.Gap != "" {
			told = append(told, "!"+lines.Gap)
		}
		for _, l := range lines.Lines {
			told = append(told, describe(l))
		}
		if err != nil {
			return strings.Join(told, " "), err
		}
	}
}

func describe(l Line) string {
	switch {
	case l.Command != nil:
		return string(l.Command)
	case l.Replaced:
		return "replaced"
	}
	return l.Type + l.Data
}

// A reader sees what is for anybody, as it was published, and is not there for anybody.
func TestReaderSeesAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		live, err := h.Read(t.Context(), "", EventFilter{})
		if err != nil {
			t.Fatal(err)
		}
		v := open(t, h, requestOf("alice", "room/*"))
		ttl := time.Now().Add(time.Minute)
		var receipts []Receipt
		for _, e := range []Event{
			{Data: []byte("to all\r\nin\n\nlines"), Targets: []Target{{}}},
			{Type: "note", Data: []byte("{}"), Targets: []Target{user("bob"), user("alice"), user("bob")}, Expires: ttl},
			{Data: nil, Targets: []Target{topic("room/1")}},
			{Data: []byte("old"), Slot: "s", Targets: []Target{topic("room/1")}},
			{Type: "new", Data: []byte("id: 7"), Slot: "s", Targets: []Target{topic("room/1")}},
			{Data: []byte("x"), Targets: []Target{{Session, "abc"}, {Connection, v.ID()}}},
		} {
			some, err := h.Publish(t.Context(), e)
			if err != nil {
				t.Fatal(err)
			}
			receipts = append(receipts, some...)
		}
		want(t, "connections", receipts[0].Connections, 1)
		want(t, "connections", h.Stats().Connections["h1"], 1)
		want(t, "opened", h.Stats().Opened, 1)

		lines, err := live.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var told []string
		for i, l := range lines.Lines {
			want(t, "position", l.Position, receipts[i].Position)
			want(t, "stored", l.Stored.UnixNano(), time.Now().UnixNano())
			told = append(told, fmt.Sprintf("%s%q to %v", l.Type, l.Data, l.Targets))
		}
		want(t, "all", strings.Join(told, "\n"), strings.Join([]string{
			`"to all\nin\n\nlines" to [{0 }]`,
			`note"{}" to [{1 bob} {1 alice}]`,
			`"" to [{4 room/1}]`,
			`"" to [{4 room/1}]`,
			`new"id: 7" to [{4 room/1}]`,
			`"x" to [{3 abc} {2 ` + v.ID() + `}]`,
		}, "\n"))
		want(t, "it is replaced", lines.Lines[3].Replaced, true)
		want(t, "the next is not", lines.Lines[4].Replaced, false)
		want(t, "it expires", lines.Lines[1].Expires.UnixNano(), ttl.UnixNano())
		want(t, "the first does not", lines.Lines[0].Expires.IsZero(), true)
		want(t, "position", live.Position(), receipts[5].Position)
		want(t, "position", lines.Position, receipts[5].Position)

		time.Sleep(time.Hour) // the ttl hides nothing from an operator
		want(t, "again", follow(t, h, receipts[0].Position.String(), EventFilter{}), "note{}  replaced newid: 7 x")
	})
}

func TestReaderFilters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		for _, e := range []Event{
			{Type: "a", Data: []byte("1"), Targets: []Target{{}}},
			{Type: "a", Data: []byte("2"), Targets: []Target{user("alice")}},
			{Type: "b", Data: []byte("3"), Targets: []Target{user("alice")}},
			{Type: "b", Data: []byte("4"), Targets: []Target{user("bob"), user("alice")}},
			{Data: []byte("5"), Targets: []Target{topic("alice")}},
			{Data: []byte("6"), Targets: []Target{topic("room/1/x")}},
			{Type: "s", Data: []byte("7"), Slot: "s", Targets: []Target{{}}},
			{Type: "s", Data: []byte("8"), Slot: "s", Targets: []Target{{}}},
		} {
			if _, err := h.Publish(t.Context(), e); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := h.ChangeTopics(t.Context(), TopicChange{Filter: Filter{Users: []string{"alice"}}, Add: []string{"x"}}); err != nil {
			t.Fatal(err)
		}
		topics := requestOf("", "room/*", "none").Topics
		for _, c := range []struct {
			filter EventFilter
			want   string
		}{
			{EventFilter{Users: []string{"alice"}}, "a2 b3 b4"},
			{EventFilter{Users: []string{"alice"}, Types: []string{"b", "c"}}, "b3 b4"},
			{EventFilter{Topics: topics}, "6"},
			{EventFilter{Topics: topics, Users: []string{"bob"}}, "b4 6"},
			{EventFilter{Types: []string{""}}, "5 6"},
			{EventFilter{Types: []string{"s"}}, "s8"},
			{EventFilter{Users: []string{""}}, ""},
		} {
			want(t, fmt.Sprint(c.filter), follow(t, h, Earliest, c.filter), c.want)
		}
	})
}

// What a reader finds no more is told, and what it passes over moves its position.
func TestReaderIsToldOfGaps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{MaxEvents: 3})
		publish(t, h, "1")
		first := positionAt(h, 1)
		r, err := h.Read(t.Context(), first, EventFilter{})
		if err != nil {
			t.Fatal(err)
		}
		want(t, "resumed", r.Resumed(), true)
		publish(t, h, "2")
		publish(t, h, "3")
		publish(t, h, "4")
		want(t, "what it missed is retained", follow(t, h, first, EventFilter{}), "2 3 4")
		publish(t, h, "5")
		want(t, "too late", follow(t, h, first, EventFilter{}), "!evicted 3 4 5")
		told, _ := drain(r)
		want(t, "too slow", told, "!evicted 3 4 5")
		want(t, "all there is", follow(t, h, Earliest, EventFilter{}), "3 4 5")
		want(t, "nonsense", follow(t, h, "nonsense", EventFilter{}), "!invalid 3 4 5")
		want(t, "the future", follow(t, h, strings.Replace(positionAt(h, 5)[:11], "-5-", "-9", 1), EventFilter{}), "!invalid 3 4 5")
		want(t, "another tag", follow(t, h, positionAt(h, 4)[:11]+"0000", EventFilter{}), "!epoch 3 4 5")
		want(t, "another epoch", follow(t, h, "aaaaaaaa-4", EventFilter{}), "!epoch 3 4 5")

		// A filter hides no gap, and the position goes on.
		r, err = h.Read(t.Context(), first, EventFilter{Users: []string{"nobody"}})
		if err != nil {
			t.Fatal(err)
		}
		want(t, "resumed", r.Resumed(), false)
		told, _ = drain(r)
		want(t, "filtered", told, "!evicted")
		want(t, "position", r.Position().String(), positionAt(h, 5))

		useStore(t, h, NewMemory())
		publish(t, h, "again")
		told, _ = drain(r)
		want(t, "another history", told, "!epoch")
		want(t, "position", r.Position().String(), positionAt(h, 1))
	})
}

// Holes are a gap, told once and in their place. Commands are shown.
func TestReaderSeesHolesAndCommands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newSharedLog()
		h, n := log.join(t, Options{})
		r, err := h.Read(t.Context(), "", EventFilter{})
		if err != nil {
			t.Fatal(err)
		}
		publish(t, h, "1")
		log.change(func() { log.next += 3 })
		if _, err := n.Append(t.Context(), []Entry{{Data: []byte("hello")}}); err != nil {
			t.Fatal(err)
		}
		publish(t, h, "6")
		change := TopicChange{Filter: Filter{Users: []string{"alice"}}, Add: []string{"room"}}
		if _, err := h.ChangeTopics(t.Context(), change); err != nil {
			t.Fatal(err)
		}
		if _, err := h.Disconnect(t.Context(), Filter{Users: []string{"alice"}}); err != nil {
			t.Fatal(err)
		}
		if _, err := n.Append(t.Context(), []Entry{{Data: []byte{recordCommand, '{', '}'}}}); err != nil {
			t.Fatal(err)
		}
		publish(t, h, "10")
		told, _ := drain(r)
		want(t, "all", told, `1 !evicted 6 {"topics":{"filter":{"users":["alice"]},"add":["room"]}} {"disconnect":{"users":["alice"]}} {} 10`)
	})
}

// A reader is told why there is no more, after all that there is.
func TestReaderEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for reason, end := range map[Reason]func(*Hub){
			Shutdown:  (*Hub).Shutdown,
			HubClosed: func(h *Hub) { _ = h.Close() },
		} {
			h := newHub(t, Options{})
			r, err := h.Read(t.Context(), "", EventFilter{})
			if err != nil {
				t.Fatal(err)
			}
			var reading sync.WaitGroup
			reading.Go(func() {
				told, err := drain(r)
				want(t, "told", told, "1")
				refusal, ok := errors.AsType[*Refusal](err)
				want(t, "a refusal", ok, true)
				want(t, "reason", refusal.Reason, reason)
			})
			synctest.Wait()
			publish(t, h, "1")
			end(h)
			reading.Wait()
		}
	})
}

// A hub that is not open yet keeps a reader waiting, and then away. That is no
// connection that was turned away.
func TestReaderOfAHubThatIsOpening(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := New(Options{})
		defer h.Close()
		_, err := h.Read(t.Context(), "", EventFilter{})
		refusal, ok := errors.AsType[*Refusal](err)
		want(t, "a refusal", ok && refusal.Reason == Starting, true)
		want(t, "rejected", h.Stats().Rejected[string(Starting)], 0)
	})
}

// What a reader holds at once is bounded like the batch of a connection.
func TestReaderTakesALittleAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		many := make([]Target, MaxTargets)
		for i := range many {
			many[i] = user(fmt.Sprint(i))
		}
		for range 3 {
			publish(t, h, strings.Repeat("x", batchBytes))
		}
		for range 3 {
			publish(t, h, "", many...)
		}
		for range linesAtOnce + 1 {
			publish(t, h, "")
		}
		r, err := h.Read(t.Context(), Earliest, EventFilter{})
		if err != nil {
			t.Fatal(err)
		}
		var sizes []int
		for r.Position().Seq < h.Stats().Head.Seq {
			lines, err := r.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			sizes = append(sizes, len(lines.Lines))
			for _, k := range r.copied[:cap(r.copied)] {
				want(t, "it holds an event", k.frame.bytes != nil, false)
			}
		}
		want(t, "at once", fmt.Sprint(sizes), fmt.Sprint([]int{1, 1, 1, 1, 1, 1, linesAtOnce, 1}))
	})
}

// Readers beside publishers, changes of topics and eviction: every position once, in
// order, or a gap.
func TestReaderBesidePublishers(t *testing.T) {
	h := newHub(t, Options{MaxEvents: 500})
	open(t, h, requestOf("alice"))
	const events = 5000
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var all sync.WaitGroup
	for range 2 {
		r, err := h.Read(ctx, "", EventFilter{})
		if err != nil {
			t.Fatal(err)
		}
		all.Go(func() {
			last, gaps := uint64(0), 0
			for last < events {
				lines, err := r.Next(ctx)
				if err != nil {
					t.Errorf("after %d: %v", last, err)
					return
				}
				if lines.Gap != "" {
					if gaps++; lines.From.Seq <= last {
						t.Errorf("a gap to %d after %d", lines.From.Seq, last)
					}
					last = lines.From.Seq
				}
				for _, l := range lines.Lines {
					if l.Position.Seq != last+1 {
						t.Errorf("%d after %d, with no gap", l.Position.Seq, last)
					}
					last = l.Position.Seq
				}
			}
		})
	}
	for range 2 {
		all.Go(func() {
			for i := range events / 2 {
				if i%50 == 0 {
					change := TopicChange{Filter: Filter{Users: []string{"alice"}}, Add: []string{"x"}}
					if i%100 == 0 {
						change.Add, change.Remove = nil, change.Add
					}
					if _, err := h.ChangeTopics(ctx, change); err != nil {
						t.Error(err)
					}
					continue
				}
				publish(t, h, "x", user("alice"), topic("x"))
			}
		})
	}
	all.Wait()
}
