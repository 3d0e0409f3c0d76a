package hub

import (
	"cmp"
	"runtime"
	"slices"
	"time"
)

// notify tells whoever waits that the history has changed, and the waker that
// there are dirty lanes. mu is held.
func (h *Hub) notifyChange() {
	if h.waiters.Load() > 0 {
		close(h.changed)
		h.changed = make(chan struct{})
	}
	h.signalWaker()
}

// wake wakes the waker.
func (h *Hub) signalWaker() {
	select {
	case h.wakerSignal <- struct{}{}:
	default:
	}
}

// append adds one record and marks the lanes of those it is for. mu is held.
func (h *Hub) append(enc encoded, now time.Time) {
	e := h.history.append(enc, now)
	for _, l := range e.lanes {
		h.markDirty(l)
	}
	if enc.event == nil && enc.command == nil {
		h.markDirty(h.history.all) // a hole concerns everybody
	}
	h.earlyHeartbeatBytes += e.cost
	quarter := h.history.head-h.earlyHeartbeatSeq >= uint64(h.history.opts.MaxEvents+3)/4 || h.earlyHeartbeatBytes >= h.history.opts.MaxBytes/4
	if quarter && now.Sub(h.earlyHeartbeatTime) >= earlyHeartbeatEvery {
		h.earlyHeartbeatSeq, h.earlyHeartbeatBytes, h.earlyHeartbeatTime = h.history.head, 0, now
		h.markDirty(h.history.all)
	}
}

func (h *Hub) markDirty(l *lane) {
	if !l.dirty && len(l.subscribers) > 0 {
		l.dirty = true
		h.dirty = append(h.dirty, l)
	}
}

// wakeListeners wakes the listeners of dirty lanes. It runs beside the
// publishers, so that publishing to many costs no more than publishing to one;
// what is published meanwhile is woken for in one go.
func (h *Hub) wakeSubscribers() {
	conns := make([]*Conn, 0, subscribersAtOnce)
	for {
		select {
		case <-h.done:
			return
		case <-h.wakerSignal:
		}
		for l := h.nextDirty(); l != nil; l = h.nextDirty() {
			h.eachSubscriber(l, conns, (*Conn).wake)
		}
		for h.releaseEvicted() {
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
const subscribersAtOnce = 4096

// eachListener calls f, without the lock, with all connections that listen to the
// lane all the time. buf is used for copies. It goes from the end to the beginning:
// when a listener leaves, the last one takes its place, and may be met twice, but
// never be left out.
func (h *Hub) eachSubscriber(l *lane, buf []*Conn, f func(*Conn)) {
	for n := -1; n != 0; {
		h.mu.RLock()
		end := len(l.subscribers)
		if n >= 0 {
			end = min(n, end)
		}
		n = max(0, end-subscribersAtOnce)
		buf = buf[:0]
		for _, listener := range l.subscribers[n:end] {
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
func (h *Hub) countReceivers(targets []Target) int {
	lanes, total := h.lanesWithSubscribers(targets)
	if len(lanes) == 1 {
		return lanes[0].subscribers
	}
	slices.SortFunc(lanes, func(a, b laneSize) int { return cmp.Compare(b.subscribers, a.subscribers) })
	if len(lanes) == 0 {
		return 0
	}
	counted := make(map[*Conn]struct{}, lanes[0].subscribers)
	buf := make([]*Conn, 0, min(lanes[0].subscribers, subscribersAtOnce))
	for _, l := range lanes {
		if len(counted) >= total {
			break // the rest would be counted again
		}
		h.eachSubscriber(l.lane, buf, func(c *Conn) { counted[c] = struct{}{} })
		runtime.Gosched() // this may take long
	}
	return len(counted)
}

// laneSize is a lane with how many listeners it has.
type laneSize struct {
	lane        *lane
	subscribers int
}

// lanesWithListeners returns the lanes of the targets that have listeners, and how
// many connections there are.
func (h *Hub) lanesWithSubscribers(targets []Target) (sizes []laneSize, connections int) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	var few [4]*lane
	found := few[:0]
	if h.oldHistory != nil {
		found = h.oldHistory.lanesFor(targets, found)
	}
	for _, l := range h.history.lanesFor(targets, found) {
		sizes = append(sizes, laneSize{l, len(l.subscribers)})
	}
	return sizes, h.countSubscribers(Target{})
}
