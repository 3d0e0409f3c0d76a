package hub

import (
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// sweeper writes for the connections that were taken over, one after the other
// and without waiting for any. There are as many as CPUs, each with its own
// connections.
type sweeper struct {
	hub    *Hub
	signal chan struct{} // one slot: ready is not empty

	mu    sync.Mutex
	ready []*Conn

	began atomic.Int64 // when the sweep that runs began, in Unix nanoseconds; 0: none runs

	// Used by run alone.
	sweep []*Conn
	wheel wheel
}

// pauseEvery is how long connections are served before others have the CPU.
const yieldEvery = 500 * time.Microsecond

func newSweeper(h *Hub) *sweeper {
	return &sweeper{hub: h, signal: make(chan struct{}, 1)}
}

// push implements queue.
func (s *sweeper) push(c *Conn) {
	s.mu.Lock()
	s.ready = append(s.ready, c)
	first := len(s.ready) == 1
	s.mu.Unlock()
	if first {
		select {
		case s.signal <- struct{}{}:
		default:
		}
	}
}

// requeue passes the turn on to the sweeper, with whatever news there is.
func (s *sweeper) requeue(c *Conn) {
	c.turn.Store(turnQueued)
	s.push(c)
}

// run sweeps whenever there is news for somebody, and keeps the alarms.
func (s *sweeper) run() {
	tick := time.NewTimer(wheelTick)
	defer tick.Stop()
	ticking := true
	b := new(batch)
	var p netYielder
	defer p.close()
	for {
		select {
		case <-s.hub.stopped:
			return
		case <-s.signal:
		case <-tick.C:
			ticking = false
			due := s.wheel.takeDue(time.Now())
			for _, c := range due {
				c.wake()
			}
			clear(due)
		}
		s.mu.Lock()
		s.ready, s.sweep = s.sweep[:0], s.ready
		s.mu.Unlock()
		paused := time.Now()
		if len(s.sweep) > 0 {
			s.began.Store(paused.UnixNano())
		}
		for _, c := range s.sweep {
			c.takeTurn()
			s.serve(c, b)
			if time.Since(paused) >= yieldEvery {
				p.yield()
				paused = time.Now()
			}
		}
		s.began.Store(0)
		clear(s.sweep)
		b.reset()
		if s.wheel.n > 0 && !ticking {
			tick.Reset(time.Until(s.wheel.next()))
			ticking = true
		}
	}
}

// serve gives c its turn.
func (s *sweeper) serve(c *Conn, b *batch) {
	if c.socket == nil { // it ended while a goroutine had the turn
		s.wheel.remove(c)
		return
	}
	switch c.step(b) {
	case stepBlocked:
		s.hub.writers.Go(c.writeBlocking)
		return
	case stepMore:
		s.requeue(c) // behind the others, which may have waited for as long
		return
	case stepClosed:
		s.wheel.remove(c)
		return
	}
	if !c.alarmed {
		s.wheel.add(c, c.nextAlarm())
	}
	if !c.releaseTurn() {
		s.requeue(c) // behind the others, who may have waited for as long
	}
}

// wheel keeps the alarms of many connections with one timer. Each connection is
// in one slot at most, and knows where. One that is found before its time goes
// into another slot. It is used by one goroutine.
type wheel struct {
	slots [256][]*Conn
	began time.Time // when it was last empty; it counts ticks from there, so that no clock that is set disturbs it
	now   int64     // the tick up to which slots were emptied
	n     int       // connections in slots
	spare []*Conn
}

// wheelTick is how late an alarm may be.
const wheelTick = 100 * time.Millisecond

func (w *wheel) ticks(t time.Time) int64 { return int64(t.Sub(w.began) / wheelTick) }

// next is when the next slot is due.
func (w *wheel) next() time.Time { return w.began.Add(time.Duration(w.now+1) * wheelTick) }

// add puts c where its alarm is due, or as far ahead as the wheel goes.
func (w *wheel) add(c *Conn, at time.Time) {
	now := time.Now()
	if w.n == 0 {
		w.began, w.now = now, 0
	}
	// The end of a login is a time of the wall clock, which may have been set since the
	// wheel began. How long it is from now on is known.
	at = now.Add(at.Sub(now))
	tick := min(max(w.ticks(at)+1, w.now+1), w.now+int64(len(w.slots))-1)
	c.wheelSlot = int(tick % int64(len(w.slots)))
	slot := &w.slots[c.wheelSlot]
	c.wheelPlace = len(*slot)
	*slot = append(*slot, c)
	c.alarmed = true
	w.n++
}

// remove takes c out of its slot, if it is in one. The last one takes its place.
func (w *wheel) remove(c *Conn) {
	if !c.alarmed {
		return
	}
	slot := &w.slots[c.wheelSlot]
	n := len(*slot) - 1
	last := (*slot)[n]
	(*slot)[c.wheelPlace], last.wheelPlace = last, c.wheelPlace
	(*slot)[n] = nil
	*slot = (*slot)[:n]
	c.alarmed = false
	w.n--
}

// due empties the slots up to now. What it returns is to be cleared, and valid until
// the next call.
func (w *wheel) takeDue(now time.Time) []*Conn {
	w.spare = w.spare[:0]
	for until := w.ticks(now); w.now < until && w.n > 0; {
		w.now++
		slot := &w.slots[w.now%int64(len(w.slots))]
		for _, c := range *slot {
			c.alarmed = false
			w.spare = append(w.spare, c)
		}
		w.n -= len(*slot)
		*slot = nil // or each would come to be as long as the longest
	}
	return w.spare
}

// sweepsWell is how long a sweep may take before publishers let it go on.
const longSweep = 10 * time.Millisecond

// letSweep yields if a sweep takes long: what is published faster than it can be
// written only waits longer.
func (h *Hub) yieldToSweepers(now time.Time) {
	for _, s := range h.sweepers {
		if began := s.began.Load(); began != 0 && now.UnixNano()-began > int64(longSweep) {
			runtime.Gosched()
			return
		}
	}
}

// anySweeper spreads the connections.
func (h *Hub) randomSweeper() *sweeper { return h.sweepers[rand.N(len(h.sweepers))] }
