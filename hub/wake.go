package hub

import (
	"cmp"
	"runtime"
	"slices"
	"time"
)

// notify tells whoever waits that the history has changed, and the waker that
// there are dirty lanes. mu is held.
func (h *Hub) notify() {
	if h.waiting.Load() > 0 {
		close(h.changed)
		h.changed = make(chan struct{})
	}
	h.wake()
}

// wake wakes the waker.
func (h *Hub) wake() {
	select {
	case h.signal <- struct{}{}:
	default:
	}
}

// append adds one record and marks the lanes of those it is for. mu is held.
func (h *Hub) append(enc encoded, now time.Time) {
	e := h.history.append(enc, now)
	for _, l := range e.lanes {
		h.mark(l)
	}
	if enc.event == nil && enc.command == nil {
		h.mark(h.history.all) // a hole concerns everybody
	}
	h.nudgeBytes += e.cost
	quarter := h.history.head-h.nudge >= uint64(h.history.opts.MaxEvents+3)/4 || h.nudgeBytes >= h.history.opts.MaxBytes/4
	if quarter && now.Sub(h.nudged) >= nudgeEvery {
		h.nudge, h.nudgeBytes, h.nudged = h.history.head, 0, now
		h.mark(h.history.all)
	}
}

func (h *Hub) mark(l *lane) {
	if !l.dirty && len(l.conns) > 0 {
		l.dirty = true
		h.dirty = append(h.dirty, l)
	}
}

// wakeListeners wakes the listeners of dirty lanes. It runs beside the
// publishers, so that publishing to many costs no more than publishing to one;
// what is published meanwhile is woken for in one go.
func (h *Hub) wakeListeners() {
	conns := make([]*Conn, 0, listenersAtOnce)
	for {
		select {
		case <-h.done:
			return
		case <-h.signal:
		}
		for l := h.nextDirty(); l != nil; l = h.nextDirty() {
			h.eachListener(l, conns, (*Conn).poke)
		}
		for h.letGo() {
		}
	}
}

// nextDirty takes a lane off the list of dirty ones.
func (h *Hub) nextDirty() *lane {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := len(h.dirty) - 1
	if n < 0 {
		return nil
	}
	l := h.dirty[n]
	h.dirty[n] = nil
	h.dirty = h.dirty[:n]
	l.dirty = false
	return l
}

// listenersAtOnce is how many listeners are copied under one lock.
const listenersAtOnce = 4096

// eachListener calls f, without the lock, with all connections that listen to the
// lane all the time. buf is used for copies. It goes from the end to the beginning:
// when a listener leaves, the last one takes its place, and may be met twice, but
// never be left out.
func (h *Hub) eachListener(l *lane, buf []*Conn, f func(*Conn)) {
	for n := -1; n != 0; {
		h.mu.RLock()
		end := len(l.conns)
		if n >= 0 {
			end = min(n, end)
		}
		n = max(0, end-listenersAtOnce)
		buf = buf[:0]
		for _, listener := range l.conns[n:end] {
			buf = append(buf, listener.Conn)
		}
		h.mu.RUnlock()
		for _, c := range buf {
			f(c)
		}
		clear(buf)
	}
}

// audience counts the connections that listen to one of the targets.
func (h *Hub) audience(targets []Target) int {
	lanes, total := h.lanesWithListeners(targets)
	if len(lanes) == 1 {
		return lanes[0].listeners
	}
	slices.SortFunc(lanes, func(a, b laneSize) int { return cmp.Compare(b.listeners, a.listeners) })
	if len(lanes) == 0 {
		return 0
	}
	counted := make(map[*Conn]struct{}, lanes[0].listeners)
	buf := make([]*Conn, 0, min(lanes[0].listeners, listenersAtOnce))
	for _, l := range lanes {
		if len(counted) >= total {
			break // the rest would be counted again
		}
		h.eachListener(l.lane, buf, func(c *Conn) { counted[c] = struct{}{} })
		runtime.Gosched() // this may take long
	}
	return len(counted)
}

// laneSize is a lane with how many listeners it has.
type laneSize struct {
	lane      *lane
	listeners int
}

// lanesWithListeners returns the lanes of the targets that have listeners, and how
// many connections there are.
func (h *Hub) lanesWithListeners(targets []Target) (sizes []laneSize, connections int) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	var few [4]*lane
	found := few[:0]
	if h.leaving != nil {
		found = h.leaving.lanesFor(targets, found)
	}
	for _, l := range h.history.lanesFor(targets, found) {
		sizes = append(sizes, laneSize{l, len(l.conns)})
	}
	return sizes, h.listeners(Target{})
}
