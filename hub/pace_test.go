package hub

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A replay sleeps longer if there are more replays, so that all replays together leave CPU time to
// others.
func TestReplaysLeaveTimeToOthers(t *testing.T) {
	for _, replays := range []int{1, 10, 500} {
		t.Run(fmt.Sprint(replays), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const batches, cost = 1000, 50 * time.Microsecond
				h := new(Hub)
				h.replays.Add(int64(replays - 1))
				var p pacer
				began := time.Now()
				for range batches {
					p.pause(&Conn{hub: h}, cost)
				}
				p.end()
				// In the bubble, only the sleeps take time.
				used, slept := batches*cost, time.Since(began)
				all := float64(used) / float64(used+slept) * float64(replays)
				if most := float64(runtime.GOMAXPROCS(0)) * replayShare / 100; all > 1.05*most {
					t.Errorf("CPUs that %d replays use: got %.2f, want at most %.2f", replays, all, most)
				}
				want(t, "replays after the end of one", h.replays.Load(), int64(replays-1))
			})
		})
	}
}

// A stream that must be closed does not wait for the sleep of its replay, which is seconds if
// there are thousands of replays.
func TestReplaySleepsNoLongerThanItsStream(t *testing.T) {
	for name, end := range map[string]func(c *Conn){
		"gone":    func(c *Conn) { c.reason = Gone },
		"cut off": func(c *Conn) { c.reason, c.graceOver = Shutdown, true },
		"goes on": func(*Conn) {},
		"close":   func(c *Conn) { c.reason = Shutdown },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := new(Hub)
				h.replays.Add(5000)
				c := &Conn{hub: h}
				time.AfterFunc(time.Second, func() {
					h.mu.Lock()
					defer h.mu.Unlock()
					end(c)
				})
				var p pacer
				began := time.Now()
				p.pause(c, maxBatchCost)
				slept := time.Since(began)
				if closed := c.mustClose(); closed != (slept < time.Second+2*pauseSlice) || slept < time.Second {
					t.Errorf("sleep: got %v, want about a second if the stream must be closed (it must: %t) and more otherwise", slept, closed)
				}
			})
		})
	}
}

// A replay of more than one batch counts as a replay until its end, and is paced, with each
// writer. It does not count while its client stalls.
func TestReplayIsPaced(t *testing.T) {
	const events = 200
	prepare := func(t *testing.T) *Hub {
		h := newHub(t, Options{})
		for i := range events {
			publish(t, h, fmt.Sprint(i, " ", strings.Repeat("x", batchBytes)))
		}
		want(t, "replays before", h.replays.Load(), 0)
		return h
	}
	waitForEnd := func(t *testing.T, h *Hub) {
		t.Helper()
		eventually(t, "the replay is over", func() bool { return h.replays.Load() == 0 })
	}
	overEachTransport(t, func(t *testing.T, kind writerKind) {
		h := prepare(t)
		p := dial(t, h, requestOf("alice").at(Earliest), kind)
		eventually(t, "the client, which reads nothing, is waited for", func() bool {
			h.mu.RLock()
			defer h.mu.RUnlock()
			return len(h.pinned.events) == 1
		})
		waitForEnd(t, h)    // while it stalls, it slows no other replay
		h.replays.Add(1000) // a pause is long
		var reading sync.WaitGroup
		reading.Go(func() { p.readUntil(t, fmt.Sprint("data: ", events-1, " ")) })
		eventually(t, "the replay is counted again", func() bool { return h.replays.Load() == 1001 })
		h.replays.Add(-1000)
		reading.Wait()
		waitForEnd(t, h)
		leaves := dial(t, h, requestOf("alice").at(Earliest), kind) // during the replay
		leaves.Close()
		leaves.wait()
		waitForEnd(t, h)
	})
	t.Run("served", func(t *testing.T) {
		h := prepare(t)
		w := &gatedSink{testSink: newTestSink(), after: 3, open: make(chan struct{})}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			connect(t, h, requestOf("alice").at(Earliest)).stream(ctx, w)
		}()
		eventually(t, "the client is waited for", func() bool { return w.blocks.Load() })
		waitForEnd(t, h)    // while it stalls, it slows no other replay
		h.replays.Add(1000) // a pause is long
		close(w.open)
		eventually(t, "the replay is counted again", func() bool { return h.replays.Load() == 1001 })
		h.replays.Add(-1000)
		waitForEnd(t, h)
		eventually(t, "the stream has the last event", func() bool {
			return strings.Contains(w.allBytes(), fmt.Sprint("data: ", events-1, " "))
		})
		cancel()
		<-ended
	})
}

// gatedSink is a client that takes some writes, and then blocks until open is closed.
type gatedSink struct {
	*testSink
	after  int
	open   chan struct{}
	blocks atomic.Bool
}

func (g *gatedSink) Write(p []byte) (int, error) {
	if g.after--; g.after < 0 {
		g.blocks.Store(true)
		<-g.open
	}
	return g.testSink.Write(p)
}

// A publisher does not wait for the look-ups of all replays, because only some replays look up at
// the same time.
func TestPublisherWaitsForFewReplays(t *testing.T) {
	h := newHub(t, Options{})
	for i := range 50 {
		publish(t, h, fmt.Sprint(i))
	}
	const replays = 50
	var conns []*Conn
	for range replays {
		conns = append(conns, connect(t, h, requestOf("alice").at(Earliest)).Conn)
	}
	var serving sync.WaitGroup
	defer serving.Wait()
	opened := make([]atomic.Bool, replays)
	h.replaySlots <- struct{}{} // one slot is in use while the replays begin
	h.mu.Lock()
	for i, c := range conns {
		serving.Go(func() {
			b := new(batch)
			h.lookUp(c, time.Now(), b)
			opened[i].Store(true)
			Pending{c}.Cancel()
		})
	}
	forLock := 0
	eventually(t, "all replays to be waiting", func() bool {
		all := stacks()
		forLock = strings.Count(all, "(*RWMutex).RLock")
		forSlot := strings.Count(all, "[chan send")
		return forLock+forSlot == replays
	})
	want(t, "replays that wait for the lock", forLock, runtime.GOMAXPROCS(0)-1)
	h.mu.Unlock()
	<-h.replaySlots
	eventually(t, "all replays to go on", func() bool {
		for i := range opened {
			if !opened[i].Load() {
				return false
			}
		}
		return true
	})
}
