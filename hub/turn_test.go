package hub

import (
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// countingQueue counts how often a connection is queued at the same time.
type countingQueue struct {
	ready chan *Conn
	n     atomic.Int32
	most  atomic.Int32
}

func (w *countingQueue) push(c *Conn) {
	if n := w.n.Add(1); n > w.most.Load() {
		w.most.Store(n)
	}
	w.ready <- c
}

// A writer sees all news from before its look-up, and only one writer at a time has the turn.
func TestTurnLosesNoNews(t *testing.T) {
	const wakers, each = 4, 5000
	w := &countingQueue{ready: make(chan *Conn, 1)}
	c := &Conn{queue: w}
	var news, seen, writers atomic.Int64
	write := func() {
		if writers.Add(1) != 1 {
			t.Error("writers with the turn: got 2, want 1")
		}
		seen.Store(news.Load())
		if rand.N(2) == 0 {
			runtime.Gosched() // so that news comes before the turn is given back
		}
		writers.Add(-1)
	}
	done := make(chan struct{})
	var writing sync.WaitGroup
	writing.Go(func() {
		for { // the connection begins with its turn taken
			write()
			if !c.releaseTurn() {
				if rand.N(2) == 0 { // like requeue
					c.turn.Store(turnQueued)
					w.push(c)
				} else {
					c.takeTurn()
					continue
				}
			}
			select {
			case <-w.ready:
				w.n.Add(-1)
				c.takeTurn()
			case <-done:
				return
			}
		}
	})
	var waking sync.WaitGroup
	for range wakers {
		waking.Go(func() {
			for range each {
				news.Add(1)
				c.wake()
				if rand.N(8) == 0 {
					runtime.Gosched()
				}
			}
		})
	}
	waking.Wait()
	eventually(t, "all news is seen", func() bool { return seen.Load() == wakers*each })
	for range 3000 { // single news, without later news that could hide a loss
		n := news.Add(1)
		c.wake()
		for began := time.Now(); seen.Load() < n; runtime.Gosched() {
			if time.Since(began) > time.Minute {
				t.Fatalf("news seen: got %d, want %d", seen.Load(), n)
			}
		}
	}
	eventually(t, "the turn is given back", func() bool { return c.turn.Load() == turnIdle })
	want(t, "entries of the connection in the queue at a time", w.most.Load(), 1)
	close(done)
	writing.Wait()
}

// A connection that has ended keeps its turn, so that it is not queued again.
func TestWakeAfterTheEnd(t *testing.T) {
	h := newHub(t, Options{})
	p := dial(t, h, requestOf("alice"), overTCP)
	p.Close()
	p.wait()
	for range 3 {
		p.wake()
	}
	want(t, "turn", p.turn.Load() == turnTaken || p.turn.Load() == turnTakenAndNews, true)
	for _, s := range h.sweepers {
		s.mu.Lock()
		want(t, "queued", len(s.ready), 0)
		s.mu.Unlock()
	}
}
