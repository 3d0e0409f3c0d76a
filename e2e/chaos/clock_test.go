package chaos

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ea766355/caddy-sse/e2e"
)

// serverTime returns the server's time.
func serverTime(t *testing.T, s *e2e.Server) time.Time {
	t.Helper()
	resp, err := http.Get("http://127.0.0.1:" + strconv.Itoa(s.HTTP) + "/ready")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	at, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// TestSetClock: the clock of a running server can be set.
func TestSetClock(t *testing.T) {
	s := e2e.Start(t, e2e.Config{})
	for _, ahead := range []time.Duration{0, 3 * time.Hour, -10 * time.Minute, 0} {
		s.SetClock(ahead)
		if off := serverTime(t, s).Sub(time.Now().Add(ahead)).Abs(); off > e2e.Patience {
			t.Errorf("clock set ahead by %s: got a difference of %s, want at most %s", ahead, off, e2e.Patience)
		}
	}
}

// post publishes an event for everybody with a key. It returns the position, and whether it was
// a duplicate.
func post(t *testing.T, s *e2e.Server, body string) (id string, duplicate bool) {
	t.Helper()
	resp, err := http.Post("http://127.0.0.1:"+strconv.Itoa(s.Admin)+"/sse/broadcast", "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var receipt struct {
		ID        string
		Duplicate bool
	}
	if err := json.NewDecoder(resp.Body).Decode(&receipt); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s, %v", resp.Status, err)
	}
	return receipt.ID, receipt.Duplicate
}

// A key is remembered for two minutes, no matter how the clock is set while the server runs and
// between two processes.
func TestKeysWhenTheClockIsSet(t *testing.T) {
	s := e2e.Start(t, e2e.Config{Hub: "store disk"})
	for i, step := range []struct {
		ahead time.Duration
		kill  bool
	}{
		{3 * time.Hour, false},
		{-10 * time.Minute, false},
		{0, false},
		{3 * time.Hour, true},
		{-10 * time.Minute, true},
		{0, true},
	} {
		event := fmt.Sprintf(`{"data":%d,"key":"%d"}`, i, i)
		first, _ := post(t, s, event)
		s.SetClock(step.ahead)
		post(t, s, `{"data":"another"}`)
		if step.kill {
			s.Kill()
			s.Run()
		}
		if again, known := post(t, s, event); !known || again != first {
			t.Errorf("receipt of a key with the clock ahead by %v (and a kill: %t): got %s, duplicate %t, want %s, true", step.ahead, step.kill, again, known, first)
		}
	}
}

// Setting the clock does not affect streams: they get all events and no gap, and do not end. The
// measured delays of events stay short.
func TestStreamsWhenTheClockIsSet(t *testing.T) {
	s := e2e.Start(t, e2e.Config{Hub: "history 10000 12h\n store disk", Stream: "heartbeat 300ms\n connection_timeout 5m\n max_lifetime 1h"})
	p := s.Publisher()
	var followers []*e2e.Follower
	for _, protocol := range e2e.Protocols {
		for range 2 {
			followers = append(followers, e2e.Follow(t, s.SmallClient(protocol), e2e.Identity{}))
		}
	}
	e2e.AwaitOpen(t, followers)
	publish := func(n int) {
		t.Helper()
		for range n {
			if err := p.Publish(t.Context(), e2e.Event{Size: 20_000}); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, ahead := range []time.Duration{3 * time.Hour, -10 * time.Minute, 0} {
		for i := range 4 {
			followers[2*i].Hold()
		}
		publish(100) // more than fit into the sockets
		s.SetClock(ahead)
		publish(5)
		for i := range 4 {
			followers[2*i].Release()
		}
		publish(5)
		e2e.AwaitAll(t, p.Ledger, followers)
	}
	for _, f := range followers {
		if opened, lost := f.Streams(); opened != 1 || len(f.Gaps()) > 0 {
			t.Errorf("follower: got %d streams that ended with %q and gaps %q, want 1 stream and no gap", opened, lost, f.Gaps())
		}
	}
	if sum := s.Metric(`caddy_sse_delivery_seconds_sum{hub="default"}`); sum > time.Hour.Seconds() {
		t.Errorf("sum of delivery times: got %v seconds, want less than an hour", sum)
	}
	s.AwaitMetric(`caddy_sse_deliveries_total{hub="default"}`, p.Ledger.Len()*len(followers))
}

// A login ends by the wall clock: within a heartbeat when the clock is set past its end, and not
// earlier when the clock is set back.
func TestLoginsWhenTheClockIsSet(t *testing.T) {
	s := e2e.Start(t, e2e.Config{Stream: "heartbeat 1s\n expires {http.request.header.X-Session}"})
	s.SetClock(time.Hour)
	s.SetClock(0)
	login := e2e.Identity{Session: strconv.FormatInt(time.Now().Add(time.Hour).Unix(), 10)}
	var streams []*e2e.Stream
	for _, protocol := range e2e.Protocols {
		c := s.Client(protocol)
		defer c.Close()
		stream, err := c.Open(t.Context(), login, "")
		if err != nil {
			t.Fatal(err)
		}
		defer stream.Close()
		if _, err := stream.Next(); err != nil {
			t.Fatal(err)
		}
		streams = append(streams, stream)
	}
	s.SetClock(-10 * time.Minute)
	post(t, s, `{"data":1}`)
	for i, stream := range streams {
		if b, err := stream.Next(); err != nil || b.Data != "1" {
			t.Errorf("%s: after the clock was set back: got %+v, %v, want the event", e2e.Protocols[i], b, err)
		}
	}
	s.SetClock(2 * time.Hour)
	for i, stream := range streams {
		for stream.Closing == nil {
			if _, err := stream.Next(); err != nil {
				t.Fatalf("%s: %v", e2e.Protocols[i], err)
			}
		}
		if stream.Closing.Reason != "expired" {
			t.Errorf("%s: got %+v, want the reason expired", e2e.Protocols[i], stream.Closing)
		}
	}
}

// When the clock is set past the age of the retained events, they are evicted, and a client gets a
// gap. New events are delivered. When the clock is right again, also in another process, no event
// is missing or comes twice.
func TestAgeWhenTheClockIsSet(t *testing.T) {
	s := e2e.Start(t, e2e.Config{Hub: "history 1000 1h\n store disk"})
	p := s.Publisher()
	publish := func() {
		t.Helper()
		for range 3 {
			if err := p.Publish(t.Context(), e2e.Event{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	c := s.Client(e2e.H1)
	open := e2e.Follow(t, c, e2e.Identity{})
	left := e2e.Follow(t, c, e2e.Identity{})
	e2e.AwaitOpen(t, []*e2e.Follower{open, left})
	publish()
	e2e.AwaitAll(t, p.Ledger, []*e2e.Follower{open, left})
	left.Stop()
	publish()
	e2e.AwaitAll(t, p.Ledger, []*e2e.Follower{open})
	s.SetClock(2 * time.Hour)
	returned := e2e.FollowFrom(t, c, e2e.Identity{}, left.Last())
	e2e.AwaitOpen(t, []*e2e.Follower{returned})
	publish()
	e2e.AwaitAll(t, p.Ledger, []*e2e.Follower{open, returned})
	if gaps := returned.Gaps(); len(gaps) != 1 || gaps[0] != "evicted" {
		t.Errorf("gaps of the client that came back: got %q, want one evicted", gaps)
	}
	s.SetClock(0)
	publish()
	s.Kill()
	s.Run()
	publish()
	e2e.AwaitAll(t, p.Ledger, []*e2e.Follower{open, returned})
	if gaps := open.Gaps(); len(gaps) > 0 {
		t.Errorf("gaps of the client that stayed open: got %q, want none", gaps)
	}
}
