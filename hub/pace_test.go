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

// Each replay sleeps the longer, the more there are, so that all together leave
// some of the CPUs to others.
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
				// Time stands still but for the sleeps.
				used, slept := batches*cost, time.Since(began)
				all := float64(used) / float64(used+slept) * float64(replays)
				if most := float64(runtime.GOMAXPROCS(0)) * replayShare / 100; all > 1.05*most {
					t.Errorf("%d replays use %.2f CPUs, want at most %.2f", replays, all, most)
				}
				want(t, "replays that are left", h.replays.Load(), int64(replays-1))
			})
		})
	}
}

// A stream that is to be closed is not kept by the sleep of its replay: one of
// thousands sleeps for seconds.
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
					t.Errorf("it slept for %v (closed: %t)", slept, closed)
				}
			})
		})
	}
}

// A replay of more than one batch is known as one while it lasts, and so leaves time
// to others, on each way of writing.
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
	begun := func(t *testing.T, h *Hub) {
		t.Helper()
		eventually(t, "the replay is known", func() bool { return h.replays.Load() == 1 })
	}
	over := func(t *testing.T, h *Hub) {
		t.Helper()
		eventually(t, "the replay is over", func() bool { return h.replays.Load() == 0 })
	}
	overEachTransport(t, func(t *testing.T, kind writerKind) {
		h := prepare(t)
		p := dial(t, h, requestOf("alice").at(Earliest), kind)
		begun(t, h) // and the client reads nothing, so it is not over
		p.readUntil(t, fmt.Sprint("data: ", events-1, " "))
		over(t, h)
		dial(t, h, requestOf("alice").at(Earliest), kind).Close() // one that leaves in the middle
		over(t, h)
	})
	t.Run("served", func(t *testing.T) {
		h := prepare(t)
		w := &gate{testSink: newTestSink(), after: 3, open: make(chan struct{})}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			connect(t, h, requestOf("alice").at(Earliest)).stream(ctx, w)
		}()
		begun(t, h)
		close(w.open)
		over(t, h)
		cancel()
		<-ended
		want(t, "whole", strings.Contains(w.allBytes(), fmt.Sprint("data: ", events-1, " ")), true)
	})
}

// gate is a client that takes some writes, and then waits.
type gate struct {
	*testSink
	after int
	open  chan struct{}
}

func (g *gate) Write(p []byte) (int, error) {
	if g.after--; g.after < 0 {
		<-g.open
	}
	return g.testSink.Write(p)
}

// However many replays there are, a publisher does not wait for all of them to look
// up what is next: only some may do so at a time.
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
	h.replaySlots <- struct{}{} // so that one place is taken while the others come
	h.mu.Lock()
	for i, c := range conns {
		serving.Go(func() {
			b := new(batch)
			h.lookUp(c, time.Now(), b)
			opened[i].Store(true)
			Pending{c}.Cancel()
		})
	}
	eventually(t, "all replays to be waiting", func() bool {
		return strings.Count(stacks(), "hub.(*Hub).lookUp(") == replays
	})
	want(t, "wait for the lock", strings.Count(stacks(), "(*RWMutex).RLock"), runtime.GOMAXPROCS(0)-1)
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
