package hub

import (
	"fmt"
	"math"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// The wheel and its timer fire an alarm less than one tick after its time.
func TestHeartbeatOfTakenOver(t *testing.T) {
	for _, w := range []writerKind{bySweeper, byBlockingGoroutine} {
		t.Run(string(w), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHub(t, Options{})
				withoutEpoll(h)
				var streams []*servedConn
				beats := []time.Duration{300 * time.Millisecond, time.Second, 15 * time.Second, time.Minute, 5 * time.Minute} // some are longer than the wheel
				for i := range 20 {
					time.Sleep(37 * time.Millisecond)
					beat := Settings{Heartbeat: beats[i%len(beats)], Timeout: time.Minute}
					streams = append(streams, serveTakenOver(t, h, requestOf("alice").with(beat), w))
				}
				time.Sleep(11 * time.Minute)
				for _, v := range streams {
					beat := v.settings.Heartbeat
					want(t, fmt.Sprint("heartbeats of ", beat), v.goAway(), Gone)
					if n := len(v.socket.times); n < 1+int(11*time.Minute/(beat+wheelTick)) {
						t.Errorf("writes with a heartbeat of %v: got %d, want at least %d", beat, n, 1+int(11*time.Minute/(beat+wheelTick)))
					}
					for i, at := range v.socket.times[1:] {
						if after := at.Sub(v.socket.times[i]); after < beat || after > beat+wheelTick {
							t.Fatalf("time between heartbeats: got %v, want %v to %v", after, beat, beat+wheelTick)
						}
					}
				}
			})
		})
	}
}

// serveTakenOver serves a connection that was taken over, in every test.
func serveTakenOver(t testing.TB, h *Hub, r Request, w writerKind) *servedConn {
	v := &servedConn{Pending: connect(t, h, r), testSink: newTestSink(), ended: make(chan struct{})}
	v.testSink.timeout = r.Timeout
	gone := make(chan struct{})
	left := false
	v.cancel = func() {
		if !left {
			left = true
			close(gone)
		}
	}
	v.takeOver(untilClosed(gone), w)
	t.Cleanup(func() { v.goAway() })
	return v
}

func TestLifetimeOfTakenOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		withoutEpoll(h)
		hour := *defaultSettings
		hour.MaxLifetime = time.Hour
		began := time.Now()
		var streams []*servedConn
		for i := range 50 {
			r := requestOf("alice").with(hour)
			if i%2 == 0 {
				r.Expires = began.Add(10 * time.Minute)
			}
			streams = append(streams, serveTakenOver(t, h, r, bySweeper))
		}
		for i, v := range streams {
			reason, earliest, latest := Lifetime, 54*time.Minute, time.Hour
			if i%2 == 0 {
				reason, earliest, latest = Expired, 10*time.Minute, 10*time.Minute
			}
			want(t, "reason", v.wait(), reason)
			want(t, "control events", v.client(t).controlSummary(), "sse.closing "+string(reason))
			want(t, "final chunk", final(v.taken), true)
			if took := v.written.Sub(began); took < earliest || took > latest+wheelTick {
				t.Errorf("end with the reason %s: got after %v, want after %v to %v", reason, took, earliest, latest+wheelTick)
			}
		}
		time.Sleep(time.Minute)
		for _, s := range h.sweepers {
			want(t, "connections in the wheel at the end", s.wheel.n, 0)
		}
	})
}

// The memory of the wheel stays proportional to the number of connections, however often all of
// them are due together.
func TestWheelStaysSmall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w wheel
		conns := make([]Conn, 1000)
		for i := range conns {
			w.add(&conns[i], time.Now())
		}
		// Two connections are due at other times, so that the wheel is never empty.
		for i := range 900 {
			time.Sleep(5 * time.Second)
			for _, c := range w.takeDue(time.Now()) {
				switch c {
				case &conns[0], &conns[1]:
					w.add(c, time.Now().Add(24*time.Second))
				default:
					w.add(c, time.Now().Add(15*time.Second))
				}
			}
			if i == 0 { // the two are due at different times, too
				w.slots, w.n = [256][]*Conn{}, 0
				for i := range conns {
					w.add(&conns[i], time.Now().Add(time.Duration(min(i, 2))*5*time.Second))
				}
			}
			want(t, "in the wheel", w.n, len(conns))
		}
		places := cap(w.spare)
		for _, slot := range w.slots {
			places += cap(slot)
		}
		if places > 5*len(conns) {
			t.Errorf("capacity of the slots: got %d connections, want at most %d", places, 5*len(conns))
		}
	})
}

func TestWheelFindsEachOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w wheel
		conns := make([]Conn, 500)
		at := make(map[*Conn]time.Time)
		for i := range conns {
			c := &conns[i]
			at[c] = time.Now().Add(time.Duration(i-10) * 41 * time.Millisecond)
			w.add(c, at[c])
		}
		for len(at) > 0 {
			time.Sleep(time.Until(w.next()))
			for _, c := range w.takeDue(time.Now()) {
				due, ok := at[c]
				if late := time.Since(due); !ok || late < 0 || late > wheelTick && time.Until(due) > 0 {
					t.Errorf("alarm of a connection (known: %t): got %v after its time, want 0 to %v", ok, late, wheelTick)
				}
				want(t, "alarmed", c.alarmed, false)
				delete(at, c)
			}
		}
		want(t, "connections in the wheel at the end", w.n, 0)
	})
}

// A connection that always has pending events does not keep its sweeper from the others.
func TestSweeperIsFair(t *testing.T) {
	h := New(Options{})
	useStore(t, h, NewMemory())
	defer h.Close()
	s := newSweeper(h) // without a goroutine
	var busy, other Conn
	for _, c := range []*Conn{&busy, &other} {
		*c = Conn{hub: h, settings: defaultSettings, sweeper: s, queue: s, id: newID()}
		h.mu.Lock()
		h.attach(c)
		h.setCursor(c, "", false)
		h.mu.Unlock()
		c.socket = newSocket(discardConn{}, idleTCP())
		c.alarmed = true
	}
	defer h.EndStreams()
	busy.socket.conn = notifyingConn{onWrite: func() { // an event is published during each write
		if n, _ := busy.Sent(); n < 50 {
			publish(t, h, "x", Target{Connection, busy.id})
			busy.turn.Store(turnTakenAndNews)
		}
	}}
	s.push(&busy)
	s.push(&other)
	for range 2 {
		c := s.ready[0]
		s.ready = s.ready[1:]
		c.takeTurn()
		s.serve(c, new(batch))
	}
	if n, _ := busy.Sent(); n > 1 {
		t.Errorf("events of the busy connection before the other's turn: got %d, want at most 1", n)
	}
	want(t, "the other connection has its first block", other.bytes.Load() > 0 || other.turn.Load() == turnIdle, true)
	busy.takeTurn() // so that they are not queued again
	other.takeTurn()
}

// notifyingConn is a connection that accepts every write, and calls onWrite before.
type notifyingConn struct {
	discardConn
	onWrite func()
}

func (c notifyingConn) Write(p []byte) (int, error) {
	c.onWrite()
	return len(p), nil
}

func TestSweepersShareTheConnections(t *testing.T) {
	h := newHub(t, Options{})
	for len(h.sweepers) < 64 {
		h.sweepers = append(h.sweepers, newSweeper(h))
	}
	n := make(map[*sweeper]int)
	for range 64 * 100 {
		n[h.randomSweeper()]++
	}
	for _, s := range h.sweepers {
		if n[s] < 40 || n[s] > 200 {
			t.Errorf("connections of one of 64 sweepers: got %d of 6400, want 40 to 200", n[s])
		}
	}
}

// Constant publishing for one connection does not delay the heartbeats and lifetimes of others.
func TestAlarmsUnderConstantTraffic(t *testing.T) {
	h := newHub(t, Options{})
	brief := *defaultSettings
	brief.Heartbeat = 100 * time.Millisecond
	quiet := dial(t, h, requestOf("quiet").with(brief), overTCP)
	busy := dial(t, h, requestOf("busy"), overTCP)
	go func() {
		for {
			if _, err := busy.block(); err != nil {
				return
			}
			busy.raw.Reset()
		}
	}()
	var stop atomic.Bool
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for i := 0; !stop.Load(); i++ {
			publish(t, h, fmt.Sprint(i), user("busy"))
		}
	}()
	for beats := 0; beats < 5; {
		block, err := quiet.block()
		if err != nil {
			t.Fatal(err)
		}
		if block == ":\n" || strings.HasPrefix(block, "id: ") {
			beats++
		}
	}
	stop.Store(true)
	<-ended
}

// A delivery by a sweeper allocates nothing.
func TestSweepAllocatesNothing(t *testing.T) {
	h := newHub(t, Options{})
	for range 10 {
		mustPublish(t, h, Target{})
	}
	c := connect(t, h, requestOf("alice"))
	c.socket = newSocket(discardConn{}, idleTCP())
	if c.socket.fd < 0 {
		t.Skip("goroutines write everything on this system")
	}
	defer c.socket.close()
	defer c.takeTurn() // so that it is not queued again
	c.sweeper = h.randomSweeper()
	c.alarmed = true
	b := new(batch)
	c.step(b)
	for _, events := range []uint64{1, 5} {
		before, _ := c.Sent()
		served := uint64(0)
		if allocs := leastAllocs(1000, func() {
			served++
			c.cursor.Store(h.history.head - events)
			c.takeTurn()
			c.sweeper.serve(c.Conn, b)
			b.reset()
		}); allocs > 0 {
			t.Errorf("allocations to deliver %d events: got %v, want 0", events, allocs)
		}
		after, _ := c.Sent()
		want(t, "delivered", after-before, served*events)
	}
}

// leastAllocs returns how many allocations f makes. Allocations of other goroutines count too, such as
// those that another test has left, so it measures again if there were any.
func leastAllocs(runs int, f func()) float64 {
	least := math.Inf(1)
	for range 10 {
		if least = min(least, testing.AllocsPerRun(runs, f)); least == 0 {
			break
		}
	}
	return least
}

// A connection that has ended leaves the wheel at once. Otherwise its topics would stay in memory
// until its alarm.
func TestEndedLeaveTheWheel(t *testing.T) {
	for _, w := range []writerKind{bySweeper, byBlockingGoroutine} {
		t.Run(string(w), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHub(t, Options{})
				withoutEpoll(h)
				var streams []*servedConn
				for range 20 {
					streams = append(streams, serveTakenOver(t, h, requestOf("alice"), w))
				}
				inWheels := func() (n int) {
					synctest.Wait()
					for _, s := range h.sweepers {
						n += s.wheel.n
					}
					return n
				}
				want(t, "in the wheels at first", inWheels(), len(streams))
				began := time.Now()
				for i, v := range streams[:15] {
					if i%2 == 0 {
						h.DisconnectHere(Filter{IDs: []string{v.ID()}})
					} else {
						v.goAway()
					}
				}
				want(t, "in the wheels after 15 have ended", inWheels(), 5)
				h.EndStreams()
				want(t, "in the wheels after all have ended", inWheels(), 0)
				want(t, "time that has passed", time.Since(began), 0)
			})
		})
	}
}

// A connection with many pending events is written one batch at a time.
func TestSweeperYieldsBetweenBatches(t *testing.T) {
	h := New(Options{})
	useStore(t, h, NewMemory())
	defer h.Close()
	for range 20 {
		publish(t, h, strings.Repeat("x", batchBytes/2), user("busy"))
	}
	s := newSweeper(h) // without a goroutine
	c := Conn{hub: h, identity: Identity{User: "busy"}, settings: defaultSettings, sweeper: s, queue: s, id: newID()}
	h.mu.Lock()
	h.attach(&c)
	h.setCursor(&c, Earliest, false)
	h.mu.Unlock()
	c.socket = newSocket(discardConn{}, idleTCP())
	defer h.EndStreams()
	defer c.takeTurn() // so that it is not queued again
	for n := uint64(1); n <= 10; n++ {
		c.takeTurn()
		s.serve(&c, new(batch))
		if got, _ := c.Sent(); got > 2*n {
			t.Fatalf("events written in %d turns: got %d, want at most %d", n, got, 2*n)
		}
		want(t, "it is queued again", len(s.ready), 1)
		s.ready = s.ready[:0]
	}
}

// TestPublisherWaitsForASweeperThatIsBehind: a publisher waits for the end of a long sweep, but
// only if several events waited for most connections that the sweep has served, and not for long.
func TestPublisherWaitsForASweeperThatIsBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		withoutEpoll(h)
		h.sweepers = h.sweepers[:1] // so that one sweep serves all
		served := serveTakenOver(t, h, requestOf("served", "news"), bySweeper)
		last := serveTakenOver(t, h, requestOf("last", "news"), bySweeper)
		synctest.Wait()
		small := Event{Data: []byte("small"), Targets: []Target{topic("news")}}
		large := Event{Data: []byte(strings.Repeat("x", batchBytes/4)), Targets: []Target{topic("news")}}
		for name, sweep := range map[string]struct {
			events []Event // that the sweep writes to each
			takes  time.Duration
			waits  time.Duration
		}{
			"few bytes":         {[]Event{small, small}, time.Second, 0},
			"many bytes":        {[]Event{small, large}, 2*longSweep + 3*minPause - 1, 3 * minPause},
			"a very long sweep": {[]Event{small, large}, time.Second, maxGiveWay},
			"one event":         {[]Event{large}, time.Second, 0}, // no other waited
			"a short sweep":     {[]Event{small, large}, 2*longSweep - 1, 0},
		} {
			t.Log(name)
			writes := 0
			block := func() int {
				if writes++; writes == 2 { // to the other connection
					time.Sleep(sweep.takes)
				}
				return batchBytes
			}
			served.socket.maxWrite, last.socket.maxWrite = block, block
			if _, err := h.Publish(t.Context(), sweep.events...); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * longSweep)
			began := time.Now()
			publish(t, h, "for nobody", user("bob"))
			want(t, "time that the publisher waited", time.Since(began), sweep.waits)
			time.Sleep(time.Minute) // the sweep ends
			synctest.Wait()
		}
	})
}

// TestPublisherWaitsBeforeEventsAreEvicted: a publisher waits for the end of a long sweep also if
// each connection waits for few bytes, but a quarter of the history was published meanwhile.
func TestPublisherWaitsBeforeEventsAreEvicted(t *testing.T) {
	const sweep = 50 * time.Millisecond
	for name, bounds := range map[string]Options{"count": {MaxEvents: 40}, "size": {MaxBytes: 40 << 10}} {
		for events, waits := range map[int]time.Duration{2: 0, 15: sweep - 2*longSweep} {
			t.Run(fmt.Sprint(name, ", ", events), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					h := newHub(t, bounds)
					withoutEpoll(h)
					h.sweepers = h.sweepers[:1] // so that one sweep serves all
					serveTakenOver(t, h, requestOf("alice"), bySweeper)
					long := serveTakenOver(t, h, requestOf("bob"), bySweeper)
					synctest.Wait()
					long.socket.maxWrite = func() int { time.Sleep(sweep - 1); return batchBytes }
					publish(t, h, "a long sweep begins", user("bob"))
					synctest.Wait()
					publish(t, h, "waits for the next one", user("alice"))
					for range events {
						publish(t, h, strings.Repeat("x", 1000), user("carol"))
					}
					publish(t, h, "makes the next one long, too", user("bob"))
					time.Sleep(sweep + 2*longSweep)
					began := time.Now()
					publish(t, h, "x", user("carol"))
					want(t, "time that the publisher waited", time.Since(began), waits)
					time.Sleep(time.Second)
				})
			})
		}
	}
}

// A publisher does not wait for a long sweep because few connections were behind in the sweep before.
func TestPublisherDoesNotWaitForTheSweepBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		withoutEpoll(h)
		v := serveTakenOver(t, h, requestOf("alice"), bySweeper)
		synctest.Wait()
		large := Event{Data: []byte(strings.Repeat("x", batchBytes/4)), Targets: []Target{{}}}
		if _, err := h.Publish(t.Context(), large, large); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		v.socket.maxWrite = func() int { time.Sleep(time.Second); return batchBytes }
		publish(t, h, "small")
		time.Sleep(2 * longSweep)
		began := time.Now()
		publish(t, h, "for nobody", user("bob"))
		want(t, "time that the publisher waited", time.Since(began), 0)
	})
}

// TestPromise5SlowClientsDoNotHoldPublishers: a sweeper is not behind because clients take nothing.
func TestPromise5SlowClientsDoNotHoldPublishers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		withoutEpoll(h)
		v := serveTakenOver(t, h, requestOf("alice"), bySweeper)
		synctest.Wait()
		defer v.stall()()
		large := Event{Data: []byte(strings.Repeat("x", batchBytes/4)), Targets: []Target{{}}}
		if _, err := h.Publish(t.Context(), large, large, large); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		want(t, "the sweeper is behind", v.sweeper.behind.Load(), false)
	})
}
