package hub

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestLifetime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		hour := *defaultSettings
		hour.MaxLifetime = time.Hour
		began := time.Now()
		var streams []*servedConn
		for range 100 {
			streams = append(streams, open(t, h, requestOf("alice").with(hour)))
		}
		time.Sleep(54*time.Minute - 1)
		want(t, "open before nine tenths", h.Stats().Connections["h1"], 100)
		time.Sleep(3 * time.Minute)
		if n := h.Stats().Connections["h1"]; n < 20 || n > 80 {
			t.Errorf("open in the middle: got %d, want 20 to 80", n)
		}
		for _, v := range streams {
			want(t, "reason", v.wait(), Lifetime)
			want(t, "control events", v.client(t).controlSummary(), "sse.closing lifetime")
		}
		if took := time.Since(began); took < 59*time.Minute || took > time.Hour {
			t.Errorf("the last stream ended after %v, want 59 to 60 minutes", took)
		}
		want(t, "counted", h.Stats().Closed["lifetime"], 100)
	})
}

// TestLifetimeOfCenturies: the longest possible lifetime means never. It does not overflow and end
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
				t.Errorf("end of a stream with a lifetime of %v: got in %v, want in at least %v", lifetime, left, lifetime/10*8)
			}
			c.Cancel()
		}
	}
}

// The longest possible delay before a client comes back does not overflow.
func TestRetryOfCenturies(t *testing.T) {
	h := newHub(t, Options{})
	s := *defaultSettings
	s.RetryMin, s.RetryMax = 0, math.MaxInt64
	for range 100 {
		if c := read(t, h, requestOf("alice").with(s)); c.retry < 0 {
			t.Fatalf("retry: got %d ms, want 0 or more", c.retry)
		}
	}
}

// A login that ends while the client takes nothing has ended for what is published afterwards.
func TestLoginEndsDuringAStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		r := requestOf("alice")
		r.Expires = time.Now().Add(10 * time.Second)
		v := open(t, h, r)
		synctest.Wait()
		resume := v.stall()
		publish(t, h, "in time")
		time.Sleep(time.Until(r.Expires))
		synctest.Wait()
		want(t, "open", h.Stats().Connections["h1"], 0)
		publish(t, h, "too late")
		resume()
		want(t, "reason", v.wait(), Expired)
		want(t, "events and control events", v.client(t).data()+", "+v.client(t).controlSummary(), "in time, sse.closing expired")
	})
}

// A stream without an end needs no timer while it waits for its client.
func TestStreamWithoutAnEndHasNoTimer(t *testing.T) {
	h := newHub(t, Options{})
	c := connect(t, h, requestOf("alice"))
	defer c.Cancel()
	want(t, "allocations", leastAllocs(100, func() { c.expireOnTime()() }), 0)
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
		want(t, "reason of a login that is already over", over.wait(), Expired)
		want(t, "control events of a login that is already over", over.client(t).controlSummary(), "sse.closing expired")
		time.Sleep(10*time.Second - 1)
		publish(t, h, "in time")
		synctest.Wait()
		want(t, "open", h.Stats().Connections["h1"], 2)
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		publish(t, h, "too late")
		want(t, "reason", short.wait(), Expired)
		want(t, "events and control events", short.client(t).data()+", "+short.client(t).controlSummary(), "in time, sse.closing expired")
		want(t, "reason if the lifetime is shorter than the login", long.wait(), Lifetime)
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
		want(t, "control events", v.client(t).controlSummary(), "")
		want(t, "counted", h.Stats().Closed["timeout"], 1)
		want(t, "events after a reconnect", v.client(t).resume(h, requestOf("alice")).data(), "x")
	})
}

func TestGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		v := open(t, h, requestOf("alice"))
		synctest.Wait()
		want(t, "reason when the context ends", v.goAway(), Gone)
		w := newTestSink()
		w.breakAt = 1
		v = serve(t, connect(t, h, requestOf("alice")), w)
		want(t, "reason when a write fails", v.wait(), Gone)
		want(t, "counted", h.Stats().Closed["gone"], 2)
		want(t, "open", h.Stats().Connections["h1"], 0)
	})
}

// An abort that comes before its write is repeated.
func TestWriteIsAbortedAfterCloseGrace(t *testing.T) {
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
			t.Error("aborted early")
		default:
		}
		want(t, "reason", v.wait(), Disconnected)
		want(t, "time until the abort", time.Since(began), closeGrace)
		aborts := v.aborts
		time.Sleep(10 * closeGrace)
		want(t, "aborts after the end", v.aborts, aborts)

		w := newTestSink()
		resume := w.stall()
		c := connect(t, h, requestOf("alice"))
		c.setAborter(w)
		h.DisconnectHere(Filter{})
		time.Sleep(closeGrace + 1) // the first abort finds no write
		v = serve(t, c, w)
		began = time.Now()
		want(t, "reason", v.wait(), Disconnected)
		if took := time.Since(began); took > closeGrace/4 {
			t.Errorf("a later write was aborted after %v, want at most %v", took, closeGrace/4)
		}
		resume()
	})
}

// A connection that ends while it lags is sent its pending events, and then sse.closing.
func TestClosingComesAfterPendingEvents(t *testing.T) {
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
		want(t, "control events", c.controlSummary(), "sse.closing shutdown")
		want(t, "everything is flushed", v.allBytes(), v.received())
	})
}

// A stream ends when its lifetime is over, even while its client reads an event slowly.
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
			want(t, "reason of a stream whose first write is stuck", late.wait(), Lifetime)
			if took := time.Since(began); took > hour.MaxLifetime+2*closeGrace {
				t.Errorf("ended after %v, want at most %v", took, hour.MaxLifetime+2*closeGrace)
			}
		})
	})
	hour.MaxLifetime = time.Second
	overEachTransport(t, func(t *testing.T, kind writerKind) {
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
