package hub

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func refusedBy(t *testing.T, h *Hub, r Request) *Refusal {
	t.Helper()
	_, err := h.Connect(t.Context(), r)
	refusal, ok := errors.AsType[*Refusal](err)
	if !ok {
		t.Fatalf("not refused: %v", err)
	}
	return refusal
}

func TestCaps(t *testing.T) {
	capped := func(user, addr string, all, perUser, perAddr int) Request {
		s := *defaultSettings
		s.MaxConnections, s.MaxPerUser, s.MaxPerAddr = all, perUser, perAddr
		r := requestOf(user).with(s)
		r.Network, _ = netip.ParseAddr(addr)
		return r
	}
	h := newHub(t, Options{})
	for range 3 {
		connect(t, h, capped("alice", "10.0.0.1", 0, 0, 0)) // without caps, but counted
	}
	want(t, "per user", refusedBy(t, h, capped("alice", "10.0.0.2", 0, 3, 0)).Reason, TooManyPerUser)
	want(t, "per address", refusedBy(t, h, capped("bob", "10.0.0.1", 0, 3, 3)).Reason, TooManyPerAddr)
	want(t, "of all", refusedBy(t, h, capped("bob", "10.0.0.2", 3, 3, 3)).Reason, TooMany)
	last := connect(t, h, capped("bob", "10.0.0.2", 4, 3, 3))
	want(t, "of all", refusedBy(t, h, capped("bob", "10.0.0.3", 4, 9, 9)).Reason, TooMany)
	h.finish(last.Conn, Gone)
	connect(t, h, capped("bob", "10.0.0.2", 4, 1, 1))
	for range 5 {
		connect(t, h, capped("", "10.0.0.3", 0, 1, 0)) // anonymous clients are not one user
	}
	for range 5 {
		connect(t, h, capped("", "no address", 0, 0, 1)) // clients without an address are not one address
	}
	full := requestOf("bob")
	full.Full = true
	want(t, "of the process", refusedBy(t, h, full).Reason, TooMany)
	s := h.Stats()
	for reason, n := range map[Reason]int64{TooMany: 3, TooManyPerUser: 1, TooManyPerAddr: 1} {
		want(t, "rejected, "+string(reason), s.Rejected[string(reason)], n)
	}
	want(t, "opened", s.Opened, 15)
	want(t, "open", s.Connections["h1"], 14)
	want(t, "users", s.Users, 2)
}

func TestRefusalBlock(t *testing.T) {
	h := newHub(t, Options{})
	one := *defaultSettings
	one.MaxConnections = 1
	connect(t, h, requestOf("alice"))
	retries := make(map[time.Duration]bool)
	for range 100 {
		r := refusedBy(t, h, requestOf("alice").with(one))
		if retries[r.Retry] = true; r.Retry < 30*time.Second || r.Retry > 90*time.Second {
			t.Errorf("retry: got %v, want 30s to 90s", r.Retry)
		}
		c := (&client{t: t}).read(string(r.Block()))
		want(t, "control events", c.controlSummary(), "sse.rejected max_connections")
		want(t, "retry", time.Duration(c.retry), r.Retry.Truncate(time.Millisecond)/time.Millisecond)
		want(t, "data", c.control[0].data, fmt.Sprintf(`{"reason":"max_connections","retryMs":%d}`, c.retry))
		want(t, "position", c.position, "")
	}
	if len(retries) < 50 {
		t.Errorf("different delays of 100 refusals: got %d, want at least 50", len(retries))
	}
	h.Shutdown()
	r := refusedBy(t, h, requestOf("alice"))
	if !strings.Contains(string(r.Block()), "event: sse.closing\ndata: {\"reason\":\"shutdown\"") || r.Retry > 5*time.Second {
		t.Errorf("refusal on shutdown: got a retry of %v and %s, want at most 5s and sse.closing with the reason shutdown", r.Retry, r.Block())
	}
}

func TestPrevious(t *testing.T) {
	one := *defaultSettings
	one.MaxPerUser = 1
	request := func(user, session, previous string) Request {
		r := requestOf(user).with(one)
		r.Session, r.Previous = session, previous
		return r
	}
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		first := open(t, h, request("alice", "s", ""))
		synctest.Wait()
		for _, other := range []Request{request("bob", "s", first.ID()), request("", "s", first.ID())} {
			connect(t, h, other)
		}
		refusedBy(t, h, request("alice", "t", first.ID()))
		refusedBy(t, h, request("alice", "s", ""))
		refusedBy(t, h, request("alice", "s", "unknown"))
		want(t, "open", h.Stats().Closed["replaced"], 0)

		first.stall()
		publish(t, h, "x")
		synctest.Wait() // the old stream is stuck, like one that lost its network
		began := time.Now()
		second := open(t, h, request("alice", "s", first.ID()).at(first.client(t).position))
		synctest.Wait()
		want(t, "events of the new stream", second.client(t).data(), "x")
		want(t, "reason of the old stream", first.wait(), Replaced)
		want(t, "control events of the old stream", first.client(t).controlSummary(), "")
		want(t, "time until the old stream is aborted", time.Since(began), closeGrace)
		want(t, "counted", h.Stats().Closed["replaced"], 1)
		refusedBy(t, h, request("alice", "s", first.ID())) // the first has ended, and the second counts

		before := second.received()
		open(t, h, request("alice", "s", second.ID()))
		want(t, "reason of a stream that is not stuck", second.wait(), Replaced)
		want(t, "bytes of a stream that is not stuck", second.received(), before)
	})
}

func TestPlace(t *testing.T) {
	h := newHub(t, Options{MaxEvents: 5})
	for i := range 8 {
		publish(t, h, fmt.Sprint(i), user([]string{"alice", "bob"}[i%2]))
	}
	position := func(seq uint64) string { return positionAt(h, seq) }
	for _, tt := range []struct {
		position, data, controls, begins string
		resumed                          bool
	}{
		{"", "", "", position(8), false},
		{Earliest, "4 6", "", position(3), false},
		{position(8), "", "", position(8), true},
		{position(6), "6", "", position(6), true},
		{position(3), "4 6", "", position(3), true},
		{position(2), "4 6", "sse.gap evicted", position(3), false},
		{position(0), "4 6", "sse.gap evicted", position(3), false},
		{position(9), "4 6", "sse.gap invalid", position(3), false},
		{"zzzzzzzz-7", "4 6", "sse.gap epoch", position(3), false},
		{"zzzzzzzz-99", "4 6", "sse.gap epoch", position(3), false},
	} {
		c := read(t, h, requestOf("alice").at(tt.position))
		want(t, "events at "+tt.position, c.data(), tt.data)
		want(t, "control events at "+tt.position, c.controlSummary(), tt.controls)
		want(t, "resumed at "+tt.position, strings.Contains(c.control[0].data, `"resumed":true`), tt.resumed)
		begins := c.control[0].id
		if tt.controls != "" && c.controlSummary() == tt.controls {
			want(t, "id of sse.connected at "+tt.position, begins, "")
			begins = c.control[1].id
		}
		want(t, "first id at "+tt.position, begins, tt.begins)
	}
	want(t, "connections at the end", len(h.Connections(Filter{})), 0)
}

// A client that loses the connection right after sse.connected can resume from the id that it
// stored.
func TestCutRightAfterConnected(t *testing.T) {
	for name, stale := range map[string]bool{"with a gap": true, "without": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHub(t, Options{})
				c := &client{t: t}
				if stale {
					c.position = "abcdefgh-5"
				}
				v := open(t, h, requestOf("alice").at(c.position))
				synctest.Wait()
				// The connection ends after the first block.
				whole := v.received()
				c.read(whole[:strings.Index(whole, "\n\n")+2])
				v.goAway()
				publish(t, h, "meanwhile", user("alice"))
				c.resume(h, requestOf("alice"))
				want(t, "events", c.data(), "meanwhile")
				want(t, "control events", c.controlSummary(), map[bool]string{true: "sse.gap epoch", false: ""}[stale])
			})
		})
	}
}

// An eviction between Connect and the first block causes a gap like any other.
func TestEvictionBeforeTheFirstBlock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, position := range []string{"", "0", Earliest} {
			h := newHub(t, Options{MaxEvents: 2})
			if position == "0" {
				position = h.Stats().Head.String()
			}
			alice, bob := connect(t, h, requestOf("alice").at(position)), connect(t, h, requestOf("bob").at(position))
			publish(t, h, "lost", user("alice"))
			publish(t, h, "1")
			publish(t, h, "2")
			a, b := serve(t, alice, newTestSink()), serve(t, bob, newTestSink())
			synctest.Wait()
			want(t, "control events of alice", a.client(t).controlSummary(), "sse.gap evicted")
			want(t, "alice resumed", strings.Contains(a.client(t).control[0].data, `"resumed":false`), true)
			want(t, "events of alice", a.client(t).data(), "1 2")
			want(t, "control events of bob", b.client(t).controlSummary(), "")
			want(t, "events of bob", b.client(t).data(), "1 2")
		}
	})
}

// Info may be called while a connection moves to the history of a new store. The race
// detector checks it.
func TestInfoWhileConnectionMoves(t *testing.T) {
	h := newHub(t, Options{})
	p := connect(t, h, requestOf("alice"))
	defer p.Cancel()
	useStore(t, h, NewMemory())
	var looking sync.WaitGroup
	looking.Go(func() { h.lookUp(p.Conn, time.Now(), new(batch)) })
	p.Info()
	looking.Wait()
}

// Close has begun, and has not come to the connection yet.
func TestTakeOverWhileHubCloses(t *testing.T) {
	h := newHub(t, Options{})
	p := connect(t, h, requestOf("alice"))
	h.mu.Lock()
	h.isClosing = true
	h.mu.Unlock()
	client, conn, tcp := connPair(t, bySweeper)
	p.TakeOver(conn, tcp)
	got, err := io.ReadAll(client)
	if err != nil || !strings.Contains(string(got), `"reason":"hub_closed"`) {
		t.Errorf("bytes of the client: got %v %q, want sse.closing with the reason hub_closed", err, got)
	}
}

// Connect calls Suspend only if it has to wait. An error of Suspend leaves no connection.
func TestSuspend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, f := feedHub(t, Options{})
		f.Begin("abcdefgh", 1)
		f.Status(nil, 1)
		gone := errors.New("gone")
		r := requestOf("alice")
		r.Suspend = func(func() error) error { return gone }
		if _, err := h.Connect(t.Context(), r); err != gone {
			t.Errorf("error of Connect before the history is whole: got %v, want that of Suspend", err)
		}
		want(t, "connections", h.countSubscribers(Target{}), 0)
		f.Status(nil, 0)
		p, err := h.Connect(t.Context(), r)
		if err != nil {
			t.Fatalf("Connect to a whole history: %v", err)
		}
		p.Cancel()
	})
}
