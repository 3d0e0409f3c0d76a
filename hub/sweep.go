package hub

import (
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ea766355/caddy-sse/internal/netyield"
)

// sweeper writes to the sockets that were taken over, one after the other, and never
// blocks on any of them. There are as many sweepers as CPUs. Each has its own connections,
// and one goroutine, which runs [sweeper.run].
type sweeper struct {
	hub    *Hub
	signal chan struct{} // one slot; filled: ready is not empty

	mu    sync.Mutex
	ready []*Conn

	began  atomic.Int64 // start of the current sweep, in Unix nanoseconds; 0: no sweep runs
	behind atomic.Bool  // most connections that this sweep has served were behind

	// Used by run alone.
	sweep []*Conn
	wheel wheel
}

// newSweeper returns a sweeper of h. The caller starts run on a goroutine.
func newSweeper(h *Hub) *sweeper {
	return &sweeper{hub: h, signal: make(chan struct{}, 1)}
}

// push implements [queue]: it puts c at the end of the list that run serves. The state of c
// must already be [turnQueued], so that c is in the list once. Any goroutine may call it,
// with Hub.mu or without.
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

// requeue puts c at the end of the queue again. The caller has the turn of c ([Conn.turn])
// and gives it up: afterwards it must not use what the turn protects.
func (s *sweeper) requeue(c *Conn) {
	c.turn.Store(turnQueued)
	s.push(c)
}

// run serves the connections that are queued, and wakes those whose alarm is due. It is the
// goroutine of the sweeper: New starts it, once. It returns when h.stopped is closed.
func (s *sweeper) run() {
	tick := time.NewTimer(wheelTick)
	defer tick.Stop()
	ticking := true
	yielder := netyield.Yielder{Even: true}
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
		s.behind.Store(false)
		if len(s.sweep) > 0 {
			s.began.Store(time.Now().UnixNano())
		}
		b := batches.Get().(*batch)
		yielder.Begin()
		lead := 0 // number of connections that were behind, less the others
		for _, c := range s.sweep {
			c.takeTurn()
			if s.serve(c, b) {
				lead++
			} else {
				lead--
			}
			s.behind.Store(lead > 0)
			yielder.Step()
		}
		s.began.Store(0)
		clear(s.sweep)
		b.release()
		if s.wheel.n > 0 && !ticking {
			tick.Reset(time.Until(s.wheel.next()))
			ticking = true
		}
	}
}

// serve gives c its turn. It writes once, without blocking. Then it puts c into the queue
// again, or hands c to a goroutine that may block, or gives the turn back. b is scratch. It
// reports whether c was behind although its client takes everything: several events waited,
// of more than an eighth of a batch, or one while a quarter of the history was published. Only
// the goroutine of the sweeper calls it, after it has taken the turn.
func (s *sweeper) serve(c *Conn, b *batch) (behind bool) {
	if c.socket == nil { // c ended while another goroutine had the turn
		s.wheel.remove(c)
		return false
	}
	switch c.step(b) {
	case stepBlocked:
		s.hub.writers.Go(c.writeBlocking)
		return false
	case stepMore:
		s.requeue(c) // behind the connections that wait
		return true
	case stepClosed:
		s.wheel.remove(c)
		return false
	}
	behind = b.late || len(b.items) > 1 && b.size > batchBytes/8
	if !c.alarmed {
		s.wheel.add(c, c.nextAlarm())
	}
	if !c.releaseTurn() {
		s.requeue(c) // behind the connections that wait
	}
	return behind
}

// wheel keeps the alarms of many connections with one timer. A connection is in at most one
// slot. If its slot comes before its alarm is due, it is put into a later slot. Only the
// goroutine of the sweeper calls the methods.
type wheel struct {
	slots [256][]*Conn
	began time.Time // when the wheel was last empty; ticks count from here, by the monotonic clock
	now   int64     // slots up to this tick are empty
	n     int       // number of connections in slots
	spare []*Conn
}

// wheelTick is the precision of alarms: an alarm is late by at most this.
const wheelTick = 100 * time.Millisecond

// ticks returns how many whole ticks t is after the time when the wheel began.
func (w *wheel) ticks(t time.Time) int64 { return int64(t.Sub(w.began) / wheelTick) }

// next returns when the next slot is due. It has no meaning for an empty wheel.
func (w *wheel) next() time.Time { return w.began.Add(time.Duration(w.now+1) * wheelTick) }

// add puts c into the slot of its alarm, or into the last slot if the alarm is later. c
// must not be in the wheel (Conn.alarmed). The caller is the goroutine of the sweeper, and
// has the turn of c.
func (w *wheel) add(c *Conn, at time.Time) {
	now := time.Now()
	if w.n == 0 {
		w.began, w.now = now, 0
	}
	// The end of a login is a wall clock time, and the wall clock may have been set since
	// the wheel began. So only the time from now until then counts.
	at = now.Add(at.Sub(now))
	tick := min(max(w.ticks(at)+1, w.now+1), w.now+int64(len(w.slots))-1)
	c.wheelSlot = int(tick % int64(len(w.slots)))
	slot := &w.slots[c.wheelSlot]
	c.wheelPlace = len(*slot)
	*slot = append(*slot, c)
	c.alarmed = true
	w.n++
}

// remove takes c out of its slot, if it is in one. The last connection in the slot takes
// its place. Only the goroutine of the sweeper calls it.
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

// takeDue empties the slots up to now and returns their connections, which the caller
// wakes. The result is valid until the next call; the caller clears it, so that it keeps no
// connection in memory. Only the goroutine of the sweeper calls it.
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
		*slot = nil // otherwise every slot would grow to the size of the largest
	}
	return w.spare
}

const (
	// longSweep is how long a sweep may take before publishers give it the CPU.
	longSweep = 10 * time.Millisecond

	// maxGiveWay is how long a publisher waits for writers at most.
	maxGiveWay = 50 * time.Millisecond
)

// yieldToWriters yields the CPU if a sweep takes long. If the sweeper is behind, it also waits
// for the end of the sweep. If the pool that writes the other streams is behind, it waits until
// the pool is not. If events were published faster than they are written, the history would in
// the end drop events that clients lack. A slow client makes neither of them behind. Any
// goroutine may call it. The caller must not hold a lock.
func (h *Hub) yieldToWriters(now time.Time) {
	for _, s := range h.sweepers {
		began := s.began.Load()
		if began == 0 || now.UnixNano()-began < int64(longSweep) {
			continue
		}
		runtime.Gosched()
		for s.behind.Load() && s.began.Load() == began && time.Since(now) < maxGiveWay {
			time.Sleep(minPause)
		}
		break
	}
	for h.stacks.isBehind() && time.Since(now) < maxGiveWay {
		time.Sleep(minPause)
	}
}

// randomSweeper returns a sweeper for a new connection. Any goroutine may call it.
func (h *Hub) randomSweeper() *sweeper { return h.sweepers[rand.N(len(h.sweepers))] }
