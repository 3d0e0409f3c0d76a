package hub

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// slowStore takes two seconds for each Append.
type slowStore struct{ *Memory }

func (s slowStore) Append(ctx context.Context, entries []Entry) ([]Stored, error) {
	time.Sleep(2 * time.Second)
	return s.Memory.Append(ctx, entries)
}

func TestStatsOfTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{MaxEvents: 2, MaxBytes: 1 << 20})
		if err := h.Use(slowStore{NewMemory()}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		s := h.Stats()
		want(t, "bound of events", s.MaxEvents, 2)
		want(t, "bound of bytes", s.MaxBytes, 1<<20)
		want(t, "age of the oldest event of an empty history", s.OldestAge, 0)
		for range 3 {
			publish(t, h, "x")
		}
		s = h.Stats()
		want(t, "commits", s.Commits.Sum, 6*time.Second)
		want(t, "age of the second event", s.OldestAge, 2*time.Second)
		if _, err := h.Publish(t.Context(), Event{Type: "open", Targets: []Target{{}}}); err == nil {
			t.Error("a reserved type was accepted")
		}
		want(t, "commits after a refusal", h.Stats().Commits.Sum, 6*time.Second)
	})
}

// TestStatsSayWhenTheProblemBegan: the time stays the same when the store reports the problem
// again.
func TestStatsSayWhenTheProblemBegan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		synctest.Wait()
		want(t, "no problem", h.Stats().Since, time.Time{})
		begun := time.Now()
		feed{h}.Status(errors.New("away"), 0)
		time.Sleep(time.Minute)
		feed{h}.Status(errors.New("still away"), 0)
		want(t, "a minute later", h.Stats().Since, begun)
		feed{h}.Status(nil, 0)
		want(t, "after the problem", h.Stats().Since, time.Time{})
	})
}

// TestStatsCountFromZero: counters exist from the start, because an alert can only compare a
// counter with an earlier value.
func TestStatsCountFromZero(t *testing.T) {
	h := New(Options{}) // without a store, whose goroutine would use the lock too
	defer h.Close()
	s := h.Stats()
	want(t, "reasons of refusals", len(s.Rejected), len(refusalReasons))
	want(t, "reasons of ends", len(s.Closed), len(closeReasons))
	want(t, "waits", s.Waits, Histogram{})
}

func TestLockCountsWaits(t *testing.T) {
	var l timedMutex
	l.Lock()
	want(t, "waits for a lock that is free", l.waits.read(), Histogram{})
	l.Unlock()

	l.RLock()
	locked := make(chan struct{})
	go func() {
		l.Lock()
		close(locked)
	}()
	eventually(t, "the writer waits", func() bool {
		if l.TryRLock() {
			l.RUnlock()
			return false
		}
		return true
	})
	l.RUnlock()
	<-locked
	l.Unlock()
	waits := l.waits.read()
	var n uint64
	for _, count := range waits.Counts {
		n += count
	}
	want(t, "waits", n, 1)
	if waits.Sum <= 0 {
		t.Errorf("time of waits: got %v, want more than 0", waits.Sum)
	}
}

func TestStats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{MaxEvents: 2})
		publish(t, h, "old", user("alice"))
		start := h.Stats().Head
		publish(t, h, "missed", user("alice"))

		h2 := requestOf("bob")
		h2.Protocol = "h2"
		streams := []*servedConn{open(t, h, requestOf("alice").at(start.String())), open(t, h, requestOf("alice").at("garbage")), open(t, h, h2), open(t, h, requestOf(""))}
		synctest.Wait()
		resume := streams[2].stall()
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
		want(t, "deliveries at once", s.Latency.Counts[0], 3)
		want(t, "sum of latencies", s.Latency.Sum, 0)
		sent := 0
		for _, v := range streams {
			sent += len(v.allBytes())
			events, bytes := v.Sent()
			want(t, "events of one stream", int(events), len(v.client(t).events))
			want(t, "bytes of one stream", int(bytes), len(v.allBytes()))
		}
		want(t, "bytes", int(s.Bytes), sent)

		resume()
		synctest.Wait()
		s = h.Stats()
		want(t, "deliveries after three seconds", s.Latency.Counts[slices.Index(LatencyBuckets[:], 5*time.Second)], 1)
		want(t, "sum of latencies", s.Latency.Sum, 3*time.Second)

		want(t, "gone", streams[0].goAway(), Gone)
		h.DisconnectHere(Filter{Users: []string{"bob"}})
		h.Shutdown()
		for _, v := range streams {
			v.wait()
		}
		if _, err := h.Connect(t.Context(), requestOf("alice")); err == nil {
			t.Error("Connect after Shutdown: got admitted, want refused")
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
		want(t, "subscribers of all", len(h.history.all.subscribers), 0)
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
		want(t, "the other fields", fmt.Sprint(info), fmt.Sprint(Info{ID: v.ID(), User: "alice", Session: "s", Protocol: "h1", Remote: "2001:db8::1", Since: time.Now()}))
		resume()
		synctest.Wait()
		want(t, "lag", v.Info().Lag, 0)
		want(t, "position", v.Info().Position, positionAt(h, 5))
	})
}

// The lag counts an event once for each lane that it is in, and is never more than the number of
// events.
func TestLag(t *testing.T) {
	h := newHub(t, Options{})
	c := connect(t, h, requestOf("alice", "news", "*"))
	publish(t, h, "1", topic("news"))
	publish(t, h, "2", user("alice"))
	publish(t, h, "3", topic("other"), user("alice"))
	want(t, "lag", c.Info().Lag, 3)
}
