package hub

import (
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// waiting counts how often a connection waits.
type waiting struct {
	ready chan *Conn
	n     atomic.Int32
	most  atomic.Int32
}

func (w *waiting) push(c *Conn) {
	if n := w.n.Add(1); n > w.most.Load() {
		w.most.Store(n)
	}
	w.ready <- c
}

// News that is told before a writer looks is seen by it, and one writer at a time
// has the turn.
func TestTurnLosesNoNews(t *testing.T) {
	const wakers, each = 4, 5000
	w := &waiting{ready: make(chan *Conn, 1)}
	c := &Conn{queue: w}
	var news, seen, writers atomic.Int64
	write := func() {
		if writers.Add(1) != 1 {
			t.Error("two have the turn")
		}
		seen.Store(news.Load())
		if rand.N(2) == 0 {
			runtime.Gosched() // so that news comes before the turn is given back
		}
		writers.Add(-1)
	}
	over := make(chan struct{})
	var writing sync.WaitGroup
	writing.Go(func() {
		for { // it has the turn at first
			write()
			if !c.releaseTurn() {
				if rand.N(2) == 0 { // as by requeue
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
			case <-over:
				return
			}
		}
	})
	var poking sync.WaitGroup
	for range wakers {
		poking.Go(func() {
			for range each {
				news.Add(1)
				c.wake()
				if rand.N(8) == 0 {
					runtime.Gosched()
				}
			}
		})
	}
	poking.Wait()
	eventually(t, "all news is seen", func() bool { return seen.Load() == wakers*each })
	for range 3000 { // and each alone, with nothing after it that would cover for it
		n := news.Add(1)
		c.wake()
		for began := time.Now(); seen.Load() < n; runtime.Gosched() {
			if time.Since(began) > 5*time.Second {
				t.Fatal("news is lost")
			}
		}
	}
	eventually(t, "the turn is given back", func() bool { return c.turn.Load() == turnIdle })
	want(t, "waits in the queue at a time", w.most.Load(), 1)
	close(over)
	writing.Wait()
}

// A connection that has ended keeps the turn, so that nobody queues it again.
func TestPokeAfterTheEnd(t *testing.T) {
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
