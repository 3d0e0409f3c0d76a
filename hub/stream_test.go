package hub

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestOpening(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		fixed := Settings{Heartbeat: 15 * time.Second, Timeout: time.Minute, RetryMin: 2137 * time.Millisecond}
		position := publish(t, h, "x").Position.String()
		fresh, resumed := open(t, h, requestOf("").with(fixed)), open(t, h, requestOf("a\"\n\xff").with(fixed).at(position))
		stale := open(t, h, requestOf("alice").with(fixed).at("abcdefgh-1"))
		synctest.Wait()
		want(t, "fresh", fresh.received(), "retry: 2137\nevent: sse.connected\n"+
			`data: {"connectionId":"`+fresh.ID()+`","user":"","heartbeat":15000,"protocol":"h1","resumed":false}`+"\nid: "+position+"\n\n")
		want(t, "resumed", resumed.received(), "retry: 2137\nevent: sse.connected\n"+
			`data: {"connectionId":"`+resumed.ID()+`","user":"a\"\n`+`\ufffd","heartbeat":15000,"protocol":"h1","resumed":true}`+"\nid: "+position+"\n\n")
		want(t, "stale", stale.received(), "retry: 2137\nevent: sse.connected\n"+
			`data: {"connectionId":"`+stale.ID()+`","user":"alice","heartbeat":15000,"protocol":"h1","resumed":false}`+"\n\n"+
			"event: sse.gap\ndata: {\"reason\":\"epoch\"}\nid: "+h.history.epoch+"-0\n\ndata: x\nid: "+position+"\n\n")
		want(t, "in one write", stale.writes, 1)
		h.DisconnectHere(Filter{})
		synctest.Wait()
		want(t, "sse.closing", strings.HasSuffix(stale.received(), "\n\nretry: 2137\nevent: sse.closing\ndata: {\"reason\":\"disconnected\",\"retryMs\":2137}\n\n"), true)
	})
}

func TestRetryIsRandom(t *testing.T) {
	h := newHub(t, Options{})
	drawn := make(map[int]bool)
	for range 200 {
		c := read(t, h, requestOf("alice"))
		if drawn[c.retry] = true; c.retry < 1000 || c.retry > 5000 {
			t.Errorf("retry: got %d ms, want 1,000 to 5,000", c.retry)
		}
	}
	if len(drawn) < 100 {
		t.Errorf("different delays of 200 clients: got %d, want at least 100", len(drawn))
	}
}

// newBytes returns the bytes that the stream received since the last call. received counts those
// before.
func newBytes(v *servedConn, received *int) string {
	synctest.Wait()
	all := v.received()
	news := all[*received:]
	*received = len(all)
	return news
}

func TestHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		received := 0
		v := open(t, h, requestOf("alice"))
		newBytes(v, &received)
		sent := func(after time.Duration, expected string) {
			t.Helper()
			time.Sleep(after)
			want(t, fmt.Sprint("sent after ", after), newBytes(v, &received), expected)
		}
		id := func(seq uint64) string { return "id: " + positionAt(h, seq) + "\n\n" }

		for range 3 {
			sent(15*time.Second-1, "")
			sent(1, ":\n")
		}
		publish(t, h, "x", user("bob")) // moves the position of alice, and does not wake her
		sent(15*time.Second-1, "")
		sent(1, id(1))
		sent(15*time.Second, ":\n")

		time.Sleep(10 * time.Second)
		publish(t, h, "y", user("alice")) // the time until the heartbeat starts again
		sent(0, "data: y\n"+id(2))
		sent(15*time.Second-1, "")
		sent(1, ":\n")
		want(t, "last position of the client", v.client(t).position, positionAt(h, 2))
	})
}

// An event that is appended between the look-up and the heartbeat is after the heartbeat's
// position.
func TestHeartbeatSkipsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		v := open(t, h, requestOf("alice"))
		synctest.Wait()
		publish(t, h, "x", user("bob"))
		resume := v.stall()
		time.Sleep(15 * time.Second) // the heartbeat is under way
		synctest.Wait()
		publish(t, h, "y", user("alice"))
		v.cancel()
		v.breakAt = len(v.allBytes()) + len("id: abcdefgh-1-x7d2\n\n") // the heartbeat is the last block that the client gets
		resume()
		v.wait()
		c := v.client(t)
		want(t, "position", c.position, positionAt(h, 1))
		want(t, "events", c.data(), "")
		want(t, "events after a reconnect", c.resume(h, requestOf("alice")).data(), "y")
	})

	t.Run("between look-up and writing", func(t *testing.T) {
		h := newHub(t, Options{})
		c := connect(t, h, requestOf("alice").with(Settings{}))
		c.written = time.Now()
		publish(t, h, "x", user("bob"))
		b := new(batch)
		l := c.compose(time.Now(), b)
		publish(t, h, "y", user("alice"))
		want(t, "heartbeat", string(b.after), "id: "+positionAt(h, 1)+"\n\n")
		want(t, "cursor", l.cursor, 1)
	})

	// The position of a heartbeat is that of the look-up, although the head moves all the time.
	t.Run("while events are published", func(t *testing.T) {
		h := newHub(t, Options{})
		c := connect(t, h, requestOf("alice").with(Settings{}))
		c.written = time.Now()
		stop := make(chan struct{})
		var publishing sync.WaitGroup
		defer publishing.Wait()
		defer close(stop)
		publishing.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					publish(t, h, "x", user("bob"))
				}
			}
		})
		b := new(batch)
		for heartbeats := 0; heartbeats < 2_000; {
			l := c.compose(time.Now(), b)
			if len(b.after) == 0 || !b.moved {
				continue
			}
			heartbeats++
			id := strings.TrimSpace(strings.TrimPrefix(string(b.after), "id: "))
			if p, _ := ParsePosition(id); p.Seq != l.cursor {
				t.Fatalf("position of the heartbeat: got %s, want the end of the look-up, %d", id, l.cursor)
			}
			c.account(b, l, 0, true)
		}
	})

	t.Run("at any moment", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := newHub(t, Options{})
			var streams []*servedConn
			for i := range 50 {
				beat := Settings{Heartbeat: time.Duration(1+i) * time.Millisecond, Timeout: time.Minute}
				streams = append(streams, open(t, h, requestOf("alice").with(beat)))
			}
			synctest.Wait()
			for i := range 100 {
				publish(t, h, "x", user("bob"))
				publish(t, h, fmt.Sprint(i), user("alice"))
				time.Sleep(time.Millisecond)
			}
			for _, v := range streams {
				v.goAway()
				want(t, "events", len(v.client(t).events), 100)
				want(t, "control events after a reconnect", v.client(t).resume(h, requestOf("alice")).controlSummary(), "")
			}
		})
	})
}

// A heartbeat comes early when a quarter of the history is new. So idle clients keep a retained
// position, unless the history moves faster than earlyHeartbeatEvery allows.
func TestHeartbeatComesEarly(t *testing.T) {
	for name, opts := range map[string]Options{"events": {MaxEvents: 100}, "bytes": {MaxBytes: 25 * 4 * 470}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHub(t, opts)
				v := open(t, h, requestOf("alice"))
				for range 500 {
					time.Sleep(earlyHeartbeatEvery / 10)
					publish(t, h, strings.Repeat("x", 300-50), user("bob"))
					synctest.Wait()
					position, _ := ParsePosition(v.client(t).position)
					if oldest := h.Stats().Oldest.Seq; position.Seq+1 < oldest {
						t.Fatalf("position of the client: got %d, want at least %d, where the history begins", position.Seq, oldest-1)
					}
				}
				c := v.client(t)
				if c.positionMoves < 15 || c.positionMoves > 25 {
					t.Errorf("heartbeats with a position: got %d, want 15 to 25", c.positionMoves)
				}
				want(t, "heartbeats without a position", c.heartbeats, 0)

				for range 500 {
					publish(t, h, strings.Repeat("x", 300-50), user("bob"))
				}
				synctest.Wait()
				if moves := v.client(t).positionMoves - c.positionMoves; moves > 1 {
					t.Errorf("heartbeats with a position at once: got %d, want at most 1", moves)
				}
			})
		})
	}
}

// An early heartbeat goes to a part of the clients at a time, so that an event for one of them does
// not wait for the writes to all.
func TestEarlyHeartbeatComesInSteps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{MaxEvents: 100})
		var streams []*servedConn
		for range 2*earlyAtOnce + 1 {
			streams = append(streams, open(t, h, requestOf("alice")))
		}
		moved := func() (n int) {
			synctest.Wait()
			for _, v := range streams {
				n += v.client(t).positionMoves
			}
			return n
		}
		time.Sleep(earlyHeartbeatEvery)
		for range 25 {
			publish(t, h, "x", user("bob"))
		}
		want(t, "clients with a new position at once", moved(), earlyAtOnce)
		time.Sleep(earlyPause)
		want(t, "after a pause", moved(), 2*earlyAtOnce)
		time.Sleep(earlyPause)
		want(t, "after two pauses", moved(), 2*earlyAtOnce+1)
		time.Sleep(earlyHeartbeatEvery)
		want(t, "later", moved(), 2*earlyAtOnce+1)
	})
}

// A client that stalls in a large event holds no copy of it, even if other blocks are sent with
// it.
func TestLargeEventIsNotCopied(t *testing.T) {
	h := newHub(t, Options{})
	start := h.Stats().Head.String()
	publish(t, h, strings.Repeat("x", 2*batchBytes))
	c, w := connect(t, h, requestOf("alice").at(start)), newTestSink()
	serve(t, c, w)
	eventually(t, "the event is sent", func() bool { n, _ := c.Sent(); return n == 1 })
	w.mu.Lock()
	defer w.mu.Unlock()
	want(t, "the bytes of the history were written", w.last == &h.history.entry(1).frame.block()[0], true)
	want(t, "writes", w.writes, 2)
}
