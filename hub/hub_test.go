package hub

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
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
		t.Errorf("got %v", err)
	}
	want(t, "head", h.Stats().Head.Seq, 5)
	if receipts, err := h.Publish(t.Context()); err != nil || len(receipts) != 0 {
		t.Errorf("an empty batch: %v, %v", receipts, err)
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
		want(t, "first", send(keyed("a", "k")), "1/1/false ")
		want(t, "again", send(keyed("b", "k")), "1/1/true ")
		want(t, "none is none", send(keyed("c", ""), keyed("d", "")), "2/1/false 3/1/false ")
		want(t, "in a batch", send(keyed("e", "k"), keyed("f", "l"), keyed("g", "l")), "1/1/true 4/1/false 4/1/true ")
		time.Sleep(2*time.Minute - 1)
		want(t, "at the end of its time", send(keyed("h", "k")), "1/1/true ")
		time.Sleep(time.Nanosecond)
		want(t, "after it, and counted from storing", send(keyed("i", "k")), "5/1/false ")
		synctest.Wait()
		want(t, "got", v.client(t).data(), "a c d f i")

		v.goAway()
		want(t, "connections are counted now", send(keyed("j", "k")), "5/0/true ")
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

func TestFilters(t *testing.T) {
	type entry struct {
		user, session string
		topics        []string
	}
	entries := []entry{
		{"alice", "s1", []string{"news"}}, {"alice", "s2", []string{"a/*", "news"}}, {"bob", "s1", nil}, {"", "s3", []string{"a/b"}}, {"", "", nil},
	}
	setup := func(t *testing.T) (*Hub, map[*Conn]string) {
		h, names := newHub(t, Options{}), make(map[*Conn]string)
		for i, e := range entries {
			r := requestOf(e.user, e.topics...)
			r.Session = e.session
			names[connect(t, h, r).Conn] = fmt.Sprint(i)
		}
		return h, names
	}
	list := func(h *Hub, names map[*Conn]string, f Filter) (s string) {
		for _, c := range h.Connections(f) {
			s += names[c]
		}
		return s
	}
	for _, tt := range []struct {
		f      Filter
		chosen string
	}{
		{Filter{}, "01234"},
		{Filter{Users: []string{"alice"}}, "01"},
		{Filter{Users: []string{"alice", "alice"}}, "01"},
		{Filter{Users: []string{"bob", "alice"}}, "012"},
		{Filter{Users: []string{""}}, ""},
		{Filter{Users: []string{"nobody"}}, ""},
		{Filter{Users: []string{"nobody", "bob"}}, "2"},
		{Filter{Sessions: []string{"s1"}}, "02"},
		{Filter{Topics: []string{"news"}}, "01"},
		{Filter{Topics: []string{"a/b"}}, "13"},
		{Filter{Topics: []string{"a/x", "news"}}, "01"},
		{Filter{Topics: []string{"a"}}, ""},
		{Filter{Users: []string{"alice"}, Sessions: []string{"s1"}}, "0"},
		{Filter{Users: []string{"alice", "bob"}, Sessions: []string{"s1", "s3"}}, "02"},
		{Filter{Users: []string{"alice"}, Sessions: []string{"s3"}}, ""},
		{Filter{Users: []string{"alice"}, Sessions: []string{"s1", "s2"}, Topics: []string{"a/b"}}, "1"},
	} {
		h, names := setup(t)
		want(t, fmt.Sprint("listed by ", tt.f), list(h, names, tt.f), tt.chosen)
		want(t, fmt.Sprint("ended by ", tt.f), h.DisconnectHere(tt.f), len(tt.chosen))
		want(t, "by the same again", h.DisconnectHere(tt.f), 0)
		var left strings.Builder
		for i := range entries {
			if !strings.Contains(tt.chosen, fmt.Sprint(i)) {
				fmt.Fprint(&left, i)
			}
		}
		want(t, "left", list(h, names, Filter{}), left.String())
	}

	h, names := setup(t)
	for c, name := range names {
		want(t, "by id", list(h, names, Filter{IDs: []string{c.ID()}}), name)
	}
	want(t, "by unknown id", list(h, names, Filter{IDs: []string{"x"}}), "")
}

func TestConnectionsAreListedByOpening(t *testing.T) {
	h := newHub(t, Options{})
	var opened []*Conn
	for range 1000 {
		opened = append(opened, connect(t, h, requestOf("alice")).Conn)
	}
	want(t, "in order", slices.Equal(h.Connections(Filter{}), opened), true)
}

func TestDisconnectTellsTheClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		alice, bob := open(t, h, requestOf("alice")), open(t, h, requestOf("bob"))
		publish(t, h, "before")
		want(t, "ended", h.DisconnectHere(Filter{Users: []string{"alice"}}), 1)
		publish(t, h, "after")
		want(t, "reason", alice.wait(), Disconnected)
		synctest.Wait()
		want(t, "alice", alice.client(t).data()+", "+alice.client(t).controlSummary(), "before, sse.closing disconnected")
		want(t, "bob", bob.client(t).data()+", "+bob.client(t).controlSummary(), "before after, ")
		want(t, "nothing is lost for alice", alice.client(t).resume(h, requestOf("alice")).data(), "before after")
	})
}

func TestStats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{MaxEvents: 2})
		publish(t, h, "old", user("alice"))
		start := h.Stats().Head
		publish(t, h, "missed", user("alice"))

		h2 := requestOf("bob")
		h2.Protocol = "h2"
		visits := []*servedConn{open(t, h, requestOf("alice").at(start.String())), open(t, h, requestOf("alice").at("garbage")), open(t, h, h2), open(t, h, requestOf(""))}
		synctest.Wait()
		resume := visits[2].stall()
		publish(t, h, "live")
		time.Sleep(3 * time.Second)
		s := h.Stats()
		want(t, "h1", s.Connections["h1"], 3)
		want(t, "h2", s.Connections["h2"], 1)
		want(t, "users", s.Users, 2)
		want(t, "opened", s.Opened, 4)
		want(t, "published", s.Published, 3)
		want(t, "replayed", s.Replayed, 3)
		want(t, "deliveries", s.Deliveries, 3+3)
		want(t, "gap", s.Gaps["invalid"], 1)
		want(t, "head", s.Head, h.history.position(3))
		want(t, "oldest", s.Oldest, h.history.position(2))
		want(t, "retained", s.Events, 2)
		want(t, "at once", s.Latency.Counts[0], 3)
		want(t, "took", s.Latency.Sum, 0)
		sent := 0
		for _, v := range visits {
			sent += len(v.allBytes())
			events, bytes := v.Sent()
			want(t, "events of one", int(events), len(v.client(t).events))
			want(t, "bytes of one", int(bytes), len(v.allBytes()))
		}
		want(t, "bytes", int(s.Bytes), sent)

		resume()
		synctest.Wait()
		s = h.Stats()
		want(t, "after three seconds", s.Latency.Counts[slices.Index(LatencyBuckets[:], 5*time.Second)], 1)
		want(t, "took", s.Latency.Sum, 3*time.Second)

		want(t, "gone", visits[0].goAway(), Gone)
		h.DisconnectHere(Filter{Users: []string{"bob"}})
		h.Shutdown()
		for _, v := range visits {
			v.wait()
		}
		if _, err := h.Connect(t.Context(), requestOf("alice")); err == nil {
			t.Error("admitted after Shutdown")
		}
		s = h.Stats()
		want(t, "h1 in the end", s.Connections["h1"], 0)
		want(t, "h2 in the end", s.Connections["h2"], 0)
		want(t, "users in the end", s.Users, 0)
		want(t, "opened in the end", s.Opened, 4)
		want(t, "rejected", s.Rejected["shutdown"], 1)
		for reason, n := range map[Reason]int64{Gone: 1, Disconnected: 1, Shutdown: 2, Timeout: 0} {
			want(t, "closed, "+string(reason), s.Closed[string(reason)], n)
		}
		want(t, "networks", len(h.networks), 0)
		want(t, "listeners of all", len(h.history.all.subscribers), 0)
	})
}

func TestInfo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		r := requestOf("alice", "news", "a/*", "news")
		r.Session, r.Addr = "s", netip.MustParseAddr("2001:db8::1")
		v := open(t, h, r)
		synctest.Wait()
		resume := v.stall()
		publish(t, h, "in the write")
		synctest.Wait()
		publish(t, h, "1", user("alice"))
		publish(t, h, "2", user("bob"))
		publish(t, h, "3", topic("a/x"))
		publish(t, h, "4", topic("news"))
		info := v.Info()
		want(t, "position", info.Position, Position{Epoch: h.history.epoch, Seq: 0}.String())
		want(t, "lag", info.Lag, 4)
		want(t, "topics", strings.Join(info.Topics, " "), "a/* news")
		info.Position, info.Lag, info.Topics = "", 0, nil
		want(t, "rest", fmt.Sprint(info), fmt.Sprint(Info{ID: v.ID(), User: "alice", Session: "s", Protocol: "h1", Remote: "2001:db8::1", Since: time.Now()}))
		resume()
		synctest.Wait()
		want(t, "lag", v.Info().Lag, 0)
		want(t, "position", v.Info().Position, positionAt(h, 5))
	})
}

func TestDisconnectCountsEachOnce(t *testing.T) {
	h := newHub(t, Options{})
	for range 2000 {
		connect(t, h, requestOf("alice"))
	}
	var ended [4]int
	var disconnecting sync.WaitGroup
	together := make(chan struct{})
	for i := range ended {
		disconnecting.Go(func() {
			<-together
			ended[i] = h.DisconnectHere(Filter{Users: []string{"alice"}})
		})
	}
	close(together)
	disconnecting.Wait()
	want(t, "ended", ended[0]+ended[1]+ended[2]+ended[3], 2000)
	want(t, "counted", h.Stats().Closed["disconnected"], 2000)
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

// The receipts count each connection once, by whatever lanes it is reached.
func TestAudience(t *testing.T) {
	h := newHub(t, Options{})
	random := rand.New(rand.NewPCG(1, 2))
	names := []string{"a", "b", "c/d", "c/e"}
	pick := func(from ...string) string { return from[random.IntN(len(from))] }
	var conns []*Conn
	for range 60 {
		r := requestOf(pick("", "u", "v"))
		for range random.IntN(3) {
			more := requestOf("", pick(append(names, "*", "c/*")...))
			r.Topics = append(r.Topics, more.Topics...)
		}
		conns = append(conns, connect(t, h, r).Conn)
	}
	for range 200 {
		var targets []Target
		for range 1 + random.IntN(4) {
			targets = append(targets, topic(pick(names...)), user(pick("u", "v")))
		}
		targets = targets[random.IntN(2) : 1+random.IntN(len(targets)-1)]
		reached := 0
		for _, c := range conns {
			if slices.ContainsFunc(targets, func(to Target) bool {
				return to.Kind == User && to.Name == c.identity.User ||
					to.Kind == Topic && slices.ContainsFunc(c.topics, func(own Target) bool { return own.Matches(to.Name) })
			}) {
				reached++
			}
		}
		if len(targets) > 0 {
			want(t, fmt.Sprint(targets), publish(t, h, "x", targets...).Connections, reached)
		}
	}
}

// An event for many takes the room of many, so that the bound of a history bounds
// its memory.
func TestManyTargetsCount(t *testing.T) {
	h := newHub(t, Options{MaxBytes: 2 << 20})
	targets := make([]Target, MaxTargets)
	var batch []Event
	for n := range 30 {
		for i := range targets {
			targets[i] = user(fmt.Sprint(n, " ", i))
		}
		batch = append(batch, Event{Targets: slices.Clone(targets)})
	}
	if _, err := h.Publish(t.Context(), batch...); err != nil {
		t.Fatal(err)
	}
	if n := h.Stats().Events; n < 3 || n > 10 {
		t.Errorf("%d events of 1,000 targets are retained in 2 MiB", n)
	}
	if lanes := len(h.history.lanes); lanes > 10*MaxTargets+1 {
		t.Errorf("%d lanes", lanes)
	}
	checkBytes(t, h.history)
	h.SetOptions(Options{MaxEvents: 1})
	publish(t, h, "x")
	checkBytes(t, h.history)
}

// An event lags once for each lane that brings it, and the lag is never more than
// there are events.
func TestLag(t *testing.T) {
	h := newHub(t, Options{})
	c := connect(t, h, requestOf("alice", "news", "*"))
	publish(t, h, "1", topic("news"))
	publish(t, h, "2", user("alice"))
	publish(t, h, "3", topic("other"), user("alice"))
	want(t, "lag", c.Info().Lag, 3)
}

// Who comes for nothing has left nothing.
func TestCancel(t *testing.T) {
	h := newHub(t, Options{})
	c := connect(t, h, requestOf("alice"))
	c.Cancel()
	want(t, "open", h.Stats().Connections["h1"], 0)
	want(t, "closed", h.Stats().Closed["gone"], 1)
}
