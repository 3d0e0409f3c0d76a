package hub

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// follow reads from a position until a second passes without anything new. It returns what drain
// returns.
func follow(t testing.TB, h *Hub, position string, f EventFilter) string {
	t.Helper()
	r, err := h.Read(t.Context(), position, f)
	if err != nil {
		t.Fatal(err)
	}
	got, err := drain(r)
	wantErr(t, err, context.DeadlineExceeded)
	return got
}

// drain reads until a second passes without anything new. It returns gaps as "!reason", commands
// as JSON, and events by describe.
func drain(r *Reader) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	var got []string
	for {
		lines, err := r.Next(ctx)
		if lines.Gap != "" {
			got = append(got, "!"+lines.Gap)
		}
		for _, l := range lines.Lines {
			got = append(got, describe(l))
		}
		if err != nil {
			return strings.Join(got, " "), err
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

// A reader sees the events for all targets, as they were published. It does not count as a
// connection.
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
		var got []string
		for i, l := range lines.Lines {
			want(t, "position", l.Position, receipts[i].Position)
			want(t, "stored", l.Stored.UnixNano(), time.Now().UnixNano())
			got = append(got, fmt.Sprintf("%s%q to %v", l.Type, l.Data, l.Targets))
		}
		want(t, "all", strings.Join(got, "\n"), strings.Join([]string{
			`"to all\nin\n\nlines" to [{0 }]`,
			`note"{}" to [{1 bob} {1 alice}]`,
			`"" to [{4 room/1}]`,
			`"" to [{4 room/1}]`,
			`new"id: 7" to [{4 room/1}]`,
			`"x" to [{3 abc} {2 ` + v.ID() + `}]`,
		}, "\n"))
		want(t, "the first value is replaced", lines.Lines[3].Replaced, true)
		want(t, "the second value is replaced", lines.Lines[4].Replaced, false)
		want(t, "expiry of the second event", lines.Lines[1].Expires.UnixNano(), ttl.UnixNano())
		want(t, "the first event has no expiry", lines.Lines[0].Expires.IsZero(), true)
		want(t, "position", live.Position(), receipts[5].Position)
		want(t, "position", lines.Position, receipts[5].Position)

		time.Sleep(time.Hour) // a reader also gets events whose ttl has passed
		want(t, "read again", follow(t, h, receipts[0].Position.String(), EventFilter{}), "note{}  replaced newid: 7 x")
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

// A reader gets a gap for events that were evicted. Events that its filter leaves out move its
// position.
func TestReaderGetsGaps(t *testing.T) {
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
		want(t, "missed events that are retained", follow(t, h, first, EventFilter{}), "2 3 4")
		publish(t, h, "5")
		want(t, "a position that is too old", follow(t, h, first, EventFilter{}), "!evicted 3 4 5")
		got, _ := drain(r)
		want(t, "a reader that is too slow", got, "!evicted 3 4 5")
		want(t, "everything that is retained", follow(t, h, Earliest, EventFilter{}), "3 4 5")
		want(t, "an invalid position", follow(t, h, "nonsense", EventFilter{}), "!invalid 3 4 5")
		want(t, "a position in the future", follow(t, h, strings.Replace(positionAt(h, 5)[:11], "-5-", "-9", 1), EventFilter{}), "!invalid 3 4 5")
		want(t, "another tag", follow(t, h, positionAt(h, 4)[:11]+"0000", EventFilter{}), "!epoch 3 4 5")
		want(t, "another epoch", follow(t, h, "aaaaaaaa-4", EventFilter{}), "!epoch 3 4 5")

		// A filter hides no gap, and does not stop the position.
		r, err = h.Read(t.Context(), first, EventFilter{Users: []string{"nobody"}})
		if err != nil {
			t.Fatal(err)
		}
		want(t, "resumed", r.Resumed(), false)
		got, _ = drain(r)
		want(t, "filtered events", got, "!evicted")
		want(t, "position", r.Position().String(), positionAt(h, 5))

		useStore(t, h, NewMemory())
		publish(t, h, "again")
		got, _ = drain(r)
		want(t, "another history", got, "!epoch")
		want(t, "position", r.Position().String(), positionAt(h, 1))
	})
}

// The reason of a gap stays when a hole follows it.
func TestReaderGetsAGapBeforeAHole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, n := newSharedLog().join(t, Options{})
		if _, err := n.Append(t.Context(), []Entry{{Data: []byte("hello")}}); err != nil {
			t.Fatal(err)
		}
		publish(t, h, "2")
		want(t, "everything", follow(t, h, Earliest, EventFilter{}), "!evicted 2")
		want(t, "another epoch", follow(t, h, "aaaaaaaa-4", EventFilter{}), "!epoch 2")
		want(t, "an invalid position", follow(t, h, "nonsense", EventFilter{}), "!invalid 2")
	})
}

// The reason of a gap stays when events are evicted before the reader reports it. A full history
// evicts with each event.
func TestReaderGetsAGapBeforeAnEviction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{MaxEvents: 2})
		publish(t, h, "1")
		publish(t, h, "2")
		for position, reason := range map[string]string{"aaaaaaaa-4": "epoch", "nonsense": "invalid", positionAt(h, 2): "evicted"} {
			r, err := h.Read(t.Context(), position, EventFilter{})
			if err != nil {
				t.Fatal(err)
			}
			for _, data := range []string{"3", "4", "5"} {
				publish(t, h, data)
			}
			got, _ := drain(r)
			want(t, position, got, "!"+reason+" 4 5")
		}
	})
}

// A history that is still being read has no readers: they would be sent the rest of it as new. That
// holds also if it begins after a reader has waited for the one before it.
func TestHistoryBeginsDuringRead(t *testing.T) {
	const records = 3
	h, s := newHub(t, Options{}), newScriptedStore()
	useStore(t, h, s)
	begin := func() {
		f := feed{h}
		f.Begin(NewEpoch(), 1)
		for seq := range uint64(records) {
			f.Deliver([]Record{textRecord(seq+1, "x")})
		}
		f.Status(nil, 0)
	}
	begin() // the history of the store before it is complete and empty
	ctx, cancel := context.WithCancel(t.Context())
	var reads atomic.Int64
	var reading sync.WaitGroup
	for range 4 {
		reading.Go(func() {
			for ctx.Err() == nil {
				if r, err := h.Read(ctx, "", EventFilter{}); err == nil && r.Position().Seq < records {
					t.Errorf("position of a reader: got %v, want the end of the history", r.Position())
					cancel()
				}
				reads.Add(1)
			}
		})
	}
	for range 100 {
		begin()
		for before := reads.Load(); reads.Load() < before+10 && ctx.Err() == nil; { // some are in Read now
			runtime.Gosched()
		}
	}
	cancel()
	reading.Wait()
}

// A reader gets one gap for a hole, in its place, and gets commands.
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
		got, _ := drain(r)
		want(t, "all", got, `1 !evicted 6 {"topics":{"filter":{"users":["alice"]},"add":["room"]}} {"disconnect":{"users":["alice"]}} {} 10`)
	})
}

// A reader passes a bounded number of holes while it holds the hub's lock. Together they are still
// one gap.
func TestPromise12ReaderPassesManyHoles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const holes = 3*holesAtOnce + 10
		h := newHub(t, Options{MaxEvents: 10 * holes})
		r, err := h.Read(t.Context(), Earliest, EventFilter{})
		if err != nil {
			t.Fatal(err)
		}
		feed{h}.Deliver([]Record{recordOf(holes+1, Event{Data: []byte("x"), Targets: []Target{{}}})})
		h.check(func() bool { return r.copyNext() })
		want(t, "position after the first look", r.Position().Seq, holesAtOnce)
		lines, err := r.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		want(t, "gap", lines.Gap, "evicted")
		want(t, "position before the lines", lines.From.Seq, holes)
		want(t, "lines", len(lines.Lines), 1)
	})
}

// A reader gets all pending events, and then the reason of the end.
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
				got, err := drain(r)
				want(t, "events", got, "1")
				refusal, ok := errors.AsType[*Refusal](err)
				want(t, "the error is a refusal", ok, true)
				want(t, "reason", refusal.Reason, reason)
			})
			synctest.Wait()
			publish(t, h, "1")
			end(h)
			reading.Wait()
		}
	})
}

// A hub that does not open in time refuses a reader. This does not count as a refused connection.
func TestReaderOfAHubThatIsOpening(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := New(Options{})
		defer h.Close()
		_, err := h.Read(t.Context(), "", EventFilter{})
		refusal, ok := errors.AsType[*Refusal](err)
		want(t, "the error is a refusal with the reason starting", ok && refusal.Reason == Starting, true)
		want(t, "rejected", h.Stats().Rejected[string(Starting)], 0)
	})
}

// A reader holds no more at once than the batch of a connection.
func TestReaderBatchesAreBounded(t *testing.T) {
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
				want(t, "the reader still holds an event", k.frame.bytes != nil, false)
			}
		}
		want(t, "sizes of batches", fmt.Sprint(sizes), fmt.Sprint([]int{1, 1, 1, 1, 1, 1, linesAtOnce, 1}))
	})
}

// Readers run beside publishers, changes of topics and eviction. They get each position once and
// in order, or a gap.
func TestReaderBesidePublishers(t *testing.T) {
	h := newHub(t, Options{MaxEvents: 500})
	open(t, h, requestOf("alice"))
	const events = 5000
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
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
						t.Errorf("gap: got one to %d after %d, want one that moves forward", lines.From.Seq, last)
					}
					last = lines.From.Seq
				}
				for _, l := range lines.Lines {
					if l.Position.Seq != last+1 {
						t.Errorf("position after %d: got %d without a gap, want %d", last, l.Position.Seq, last+1)
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
