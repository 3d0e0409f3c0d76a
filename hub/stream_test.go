package hub

import (
	"fmt"
	"math"
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
		want(t, "farewell", strings.HasSuffix(stale.received(), "\n\nretry: 2137\nevent: sse.closing\ndata: {\"reason\":\"disconnected\",\"retryMs\":2137}\n\n"), true)
	})
}

func TestRetryIsDrawnForEach(t *testing.T) {
	h := newHub(t, Options{})
	drawn := make(map[int]bool)
	for range 200 {
		c := read(t, h, requestOf("alice"))
		if drawn[c.retry] = true; c.retry < 1000 || c.retry > 5000 {
			t.Errorf("retry %d", c.retry)
		}
	}
	if len(drawn) < 100 {
		t.Errorf("200 clients have %d different delays", len(drawn))
	}
}

// sending is what the stream got beyond what it had before.
func sending(v *servedConn, had *int) string {
	synctest.Wait()
	all := v.received()
	news := all[*had:]
	*had = len(all)
	return news
}

func TestHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		had := 0
		v := open(t, h, requestOf("alice"))
		sending(v, &had)
		sent := func(after time.Duration, expected string) {
			t.Helper()
			time.Sleep(after)
			want(t, fmt.Sprint("sent after ", after), sending(v, &had), expected)
		}
		id := func(seq uint64) string { return "id: " + positionAt(h, seq) + "\n\n" }

		for range 3 {
			sent(15*time.Second-1, "")
			sent(1, ":\n")
		}
		publish(t, h, "x", user("bob")) // wakes nobody here, and moves the position
		sent(15*time.Second-1, "")
		sent(1, id(1))
		sent(15*time.Second, ":\n")

		time.Sleep(10 * time.Second)
		publish(t, h, "y", user("alice")) // the silence begins again
		sent(0, "data: y\n"+id(2))
		sent(15*time.Second-1, "")
		sent(1, ":\n")
		want(t, "where it would resume", v.client(t).position, positionAt(h, 2))
	})
}

// An event that is appended between look-up and heartbeat is after the
// heartbeat's position.
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
		v.breakAt = len(v.allBytes()) + len("id: abcdefgh-1-x7d2\n\n") // it is the last that she gets
		resume()
		v.wait()
		c := v.client(t)
		want(t, "moved to", c.position, positionAt(h, 1))
		want(t, "got", c.data(), "")
		want(t, "on resuming", c.resume(h, requestOf("alice")).data(), "y")
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

	// The head moves all the time, and the position is the one of the look-up.
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
				t.Fatalf("the heartbeat says %s, and events were looked up to %d", id, l.cursor)
			}
			c.account(b, l, 0, true)
		}
	})

	t.Run("at any moment", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := newHub(t, Options{})
			var visits []*servedConn
			for i := range 50 {
				beat := Settings{Heartbeat: time.Duration(1+i) * time.Millisecond, Timeout: time.Minute}
				visits = append(visits, open(t, h, requestOf("alice").with(beat)))
			}
			synctest.Wait()
			for i := range 100 {
				publish(t, h, "x", user("bob"))
				publish(t, h, fmt.Sprint(i), user("alice"))
				time.Sleep(time.Millisecond)
			}
			for _, v := range visits {
				v.goAway()
				want(t, "events", len(v.client(t).events), 100)
				want(t, "the position is never past what was sent", v.client(t).resume(h, requestOf("alice")).controlSummary(), "")
			}
		})
	})
}

// A quarter of the history is the signal: idle clients do not fall out of it,
// unless it passes faster than nudgeEvery allows.
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
						t.Fatalf("the client is at %d, and history begins at %d", position.Seq, oldest)
					}
				}
				c := v.client(t)
				if c.positionMoves < 15 || c.positionMoves > 25 {
					t.Errorf("%d moves in five times the history", c.positionMoves)
				}
				want(t, "bare heartbeats", c.heartbeats, 0)

				for range 500 {
					publish(t, h, strings.Repeat("x", 300-50), user("bob"))
				}
				synctest.Wait()
				if moves := v.client(t).positionMoves - c.positionMoves; moves > 1 {
					t.Errorf("%d moves at once", moves)
				}
			})
		})
	}
}

func TestLifetime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		hour := *defaultSettings
		hour.MaxLifetime = time.Hour
		began := time.Now()
		var visits []*servedConn
		for range 100 {
			visits = append(visits, open(t, h, requestOf("alice").with(hour)))
		}
		time.Sleep(54*time.Minute - 1)
		want(t, "open before nine tenths", h.Stats().Connections["h1"], 100)
		time.Sleep(3 * time.Minute)
		if n := h.Stats().Connections["h1"]; n < 20 || n > 80 {
			t.Errorf("%d are open in the middle", n)
		}
		for _, v := range visits {
			want(t, "reason", v.wait(), Lifetime)
			want(t, "told", v.client(t).controlSummary(), "sse.closing lifetime")
		}
		if took := time.Since(began); took < 59*time.Minute || took > time.Hour {
			t.Errorf("the last one ended after %v", took)
		}
		want(t, "counted", h.Stats().Closed["lifetime"], 100)
	})
}

// TestLifetimeOfCenturies: the longest there is means never, and does not end
// streams at once.
func TestLifetimeOfCenturies(t *testing.T) {
	h := newHub(t, Options{})
	for _, lifetime := range []time.Duration{33 * 365 * 24 * time.Hour, 100 * 365 * 24 * time.Hour, math.MaxInt64} {
		s := *defaultSettings
		s.MaxLifetime = lifetime
		for range 100 {
			c, err := h.Connect(t.Context(), requestOf("alice").with(s))
			if err != nil {
				t.Fatal(err)
			}
			if left := time.Until(c.end); left < lifetime/10*8 {
				t.Errorf("with %v it ends in %v", lifetime, left)
			}
			c.Cancel()
		}
	}
}

func TestExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		hour := *defaultSettings
		hour.MaxLifetime = time.Hour
		login := func(d time.Duration) Request {
			r := requestOf("alice").with(hour)
			r.Expires = time.Now().Add(d)
			return r
		}
		long, short, over := open(t, h, login(2*time.Hour)), open(t, h, login(10*time.Second)), open(t, h, login(0))
		synctest.Wait()
		want(t, "already over", over.wait(), Expired)
		want(t, "and told", over.client(t).controlSummary(), "sse.closing expired")
		time.Sleep(10*time.Second - 1)
		publish(t, h, "in time")
		synctest.Wait()
		want(t, "open", h.Stats().Connections["h1"], 2)
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		publish(t, h, "too late")
		want(t, "reason", short.wait(), Expired)
		want(t, "got", short.client(t).data()+", "+short.client(t).controlSummary(), "in time, sse.closing expired")
		want(t, "the lifetime is shorter than the login", long.wait(), Lifetime)
	})
}

func TestTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		v := open(t, h, requestOf("alice"))
		synctest.Wait()
		v.stall()
		publish(t, h, "x")
		time.Sleep(time.Minute - 1)
		want(t, "open", h.Stats().Connections["h1"], 1)
		time.Sleep(time.Nanosecond)
		want(t, "reason", v.wait(), Timeout)
		want(t, "told", v.client(t).controlSummary(), "")
		want(t, "counted", h.Stats().Closed["timeout"], 1)
		want(t, "nothing is lost", v.client(t).resume(h, requestOf("alice")).data(), "x")
	})
}

func TestGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		v := open(t, h, requestOf("alice"))
		synctest.Wait()
		want(t, "context", v.goAway(), Gone)
		w := newTestSink()
		w.breakAt = 1
		v = serve(t, connect(t, h, requestOf("alice")), w)
		want(t, "write", v.wait(), Gone)
		want(t, "counted", h.Stats().Closed["gone"], 2)
		want(t, "open", h.Stats().Connections["h1"], 0)
	})
}

// A cut that comes before the write it is for is repeated.
func TestFarewellIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		v := open(t, h, requestOf("alice"))
		synctest.Wait()
		v.stall()
		publish(t, h, "x")
		synctest.Wait()
		began := time.Now()
		h.DisconnectHere(Filter{})
		time.Sleep(closeGrace - 1)
		synctest.Wait()
		select {
		case <-v.ended:
			t.Error("cut off early")
		default:
		}
		want(t, "reason", v.wait(), Disconnected)
		want(t, "after", time.Since(began), closeGrace)
		cuts := v.aborts
		time.Sleep(10 * closeGrace)
		want(t, "cuts after the end", v.aborts, cuts)

		w := newTestSink()
		resume := w.stall()
		c := connect(t, h, requestOf("alice"))
		c.setAborter(w)
		h.DisconnectHere(Filter{})
		time.Sleep(closeGrace + 1) // the first cut finds no write
		v = serve(t, c, w)
		began = time.Now()
		want(t, "reason", v.wait(), Disconnected)
		if took := time.Since(began); took > closeGrace/4 {
			t.Errorf("a later write was cut off after %v", took)
		}
		resume()
	})
}

// One that ends while it lags is sent what it had coming, and then the farewell.
func TestFarewellComesAfterWhatIsDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		v := open(t, h, requestOf("alice"))
		synctest.Wait()
		resume := v.stall()
		for i := range 100 {
			publish(t, h, fmt.Sprint(i, strings.Repeat(".", 2000)))
		}
		synctest.Wait()
		h.Shutdown()
		publish(t, h, "not for her any more")
		resume()
		want(t, "reason", v.wait(), Shutdown)
		c := v.client(t)
		want(t, "events", len(c.events), 100)
		want(t, "told", c.controlSummary(), "sse.closing shutdown")
		want(t, "flushed", v.allBytes(), v.received())
	})
}

// A stream ends when its time is over, also while a write is under way of which
// the client takes little.
func TestLifetimeOfTheSlow(t *testing.T) {
	hour := *defaultSettings
	hour.MaxLifetime, hour.Timeout = 10*time.Second, time.Hour
	t.Run("served", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := newHub(t, Options{})
			began := time.Now()
			v, fresh := open(t, h, requestOf("alice").with(hour)), newTestSink()
			synctest.Wait()
			v.stall()
			fresh.stall()
			late := serve(t, connect(t, h, requestOf("bob").with(hour)), fresh)
			publish(t, h, "x")
			want(t, "reason", v.wait(), Lifetime)
			want(t, "reason of one whose first write is stuck", late.wait(), Lifetime)
			if took := time.Since(began); took > hour.MaxLifetime+2*closeGrace {
				t.Errorf("after %v", took)
			}
		})
	})
	hour.MaxLifetime = time.Second
	overEachTransport(t, func(t *testing.T, kind way) {
		h := newHub(t, Options{})
		p := dial(t, h, requestOf("alice").with(hour), kind)
		publish(t, h, strings.Repeat("x", 1<<20-10))
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for piece := make([]byte, 20<<10); ; <-tick.C {
			if _, err := p.Conn.Read(piece[:4<<10]); err != nil {
				break
			}
		}
		want(t, "reason", p.wait(), Lifetime)
	})
}

// Who stalls over a large event holds no copy of it, whatever goes out with it.
func TestLargeEventIsNotCopied(t *testing.T) {
	h := newHub(t, Options{})
	start := h.Stats().Head.String()
	publish(t, h, strings.Repeat("x", 2*batchBytes))
	c, w := connect(t, h, requestOf("alice").at(start)), newTestSink()
	serve(t, c, w)
	eventually(t, "it comes", func() bool { n, _ := c.Sent(); return n == 1 })
	w.mu.Lock()
	defer w.mu.Unlock()
	want(t, "the bytes of the history were written", w.last == &h.history.entry(1).frame.block()[0], true)
	want(t, "writes", w.writes, 2)
}
