package hub

import (
	"cmp"
	"runtime"
	"slices"
	"time"
)

// notifyChange wakes the goroutines in await, and the waker ([Hub.wakeSubscribers]). It
// does not block. It must be called after each change that may be awaited (new records, a
// new history, an open store, the end of the hub), before the unlock. The caller holds
// Hub.mu for writing.
func (h *Hub) notifyChange() {
	if h.waiters.Load() > 0 {
		close(h.changed)
		h.changed = make(chan struct{})
	}
	h.signalWaker()
}

// signalWaker makes wakeSubscribers look for work. It does not block. Any goroutine may
// call it, with Hub.mu or without.
func (h *Hub) signalWaker() {
	select {
	case h.wakerSignal <- struct{}{}:
	default:
	}
}

// append adds one record to the history and marks the lanes of its targets as dirty
// ([lane]). When a quarter of the history is new, it also begins an early heartbeat
// (Hub.earlyHeartbeatSeq), for which the waker wakes all connections. Only deliver calls it,
// and then notifyChange. The caller holds Hub.mu for writing.
func (h *Hub) append(enc encoded, now time.Time) {
	e := h.history.append(enc, now)
	if enc.event != nil && enc.event.Trace != "" {
		h.startTrace(e, enc.event, now)
	}
	for _, l := range e.lanes {
		h.markDirty(l)
	}
	if enc.event == nil && enc.command == nil {
		h.markDirty(h.history.all) // a hole concerns all connections
	}
	h.earlyHeartbeatBytes += e.cost
	quarter := h.history.head-h.earlyHeartbeatSeq >= uint64(h.history.opts.MaxEvents+3)/4 || h.earlyHeartbeatBytes >= h.history.opts.MaxBytes/4
	if quarter && now.Sub(h.earlyHeartbeatTime) >= earlyHeartbeatEvery {
		h.earlyHeartbeatSeq, h.earlyHeartbeatBytes, h.earlyHeartbeatTime = h.history.head, 0, now
	}
}

// markDirty puts a lane with subscribers on the list of dirty lanes ([lane]), unless it is
// there already. The caller then calls notifyChange, so that the waker looks at the list.
// The caller holds Hub.mu for writing.
func (h *Hub) markDirty(l *lane) {
	if !l.dirty && len(l.subscribers) > 0 {
		l.dirty = true
		h.dirty = append(h.dirty, l)
	}
}

// wakeSubscribers is the waker. It wakes the subscribers of dirty lanes ([lane]), and a part of
// all connections during an early heartbeat. Then it ends streams while evicted events that they
// have stalled in take too much memory ([pinned]). It runs on a goroutine of its own, which New
// starts, so that a publish costs the same for one subscriber and for many. Events that are
// published meanwhile share one wake-up. It returns when h.done is closed.
func (h *Hub) wakeSubscribers() {
	conns := make([]*Conn, 0, subscribersAtOnce)
	early := earlyHeartbeat{hub: h, timer: time.NewTimer(0)}
	defer early.timer.Stop()
	for {
		select {
		case <-h.done:
			return
		case <-h.wakerSignal:
		case <-early.timer.C:
			early.wakeSome(conns)
		}
		early.begin(conns)
		for l := h.nextDirty(); l != nil; l = h.nextDirty() {
			h.eachSubscriber(l, conns, (*Conn).wake)
		}
		for h.releaseEvicted() {
		}
	}
}

// nextDirty removes a lane from the list of dirty lanes ([lane]) and returns it; nil: none
// is left. It takes the last one: the order does not matter. Only the waker calls it. The
// caller must not hold Hub.mu.
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

// subscribersAtOnce is how many subscribers are copied while Hub.mu is held once.
const subscribersAtOnce = 4096

// eachSubscriber calls f with every connection that subscribes to the lane during the whole
// call. It may call f twice with one connection, and may miss one that subscribes
// meanwhile. The loop goes from the end to the beginning: when a subscriber leaves, the
// last one takes its index, and so is never missed. f is called without the lock. buf is
// scratch, or nil.
//
// Any goroutine may call it. The caller must not hold Hub.mu.
func (h *Hub) eachSubscriber(l *lane, buf []*Conn, f func(*Conn)) {
	for n := -1; n != 0; {
		n = h.someSubscribers(l, n, subscribersAtOnce, buf, f)
	}
}

// someSubscribers is a step of eachSubscriber: it calls f with up to atMost subscribers before
// the index n, or the last ones if n is -1. It returns the index for the next step.
func (h *Hub) someSubscribers(l *lane, n, atMost int, buf []*Conn, f func(*Conn)) int {
	h.mu.RLock()
	end := len(l.subscribers)
	if n >= 0 {
		end = min(n, end)
	}
	n = max(0, end-atMost)
	buf = buf[:0]
	for _, s := range l.subscribers[n:end] {
		buf = append(buf, s.Conn)
	}
	h.mu.RUnlock()
	for _, c := range buf {
		f(c)
	}
	clear(buf)
	return n
}

// countReceivers counts the connections of this node that an event for the targets is for,
// each once. Connections that begin or end meanwhile may be counted or not. Any goroutine
// may call it. The caller must not hold Hub.mu.
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
			break // all connections are counted
		}
		h.eachSubscriber(l.lane, buf, func(c *Conn) { counted[c] = struct{}{} })
		runtime.Gosched() // the loop may take long
	}
	return len(counted)
}

// laneSize is a lane with the number of its subscribers.
type laneSize struct {
	lane        *lane
	subscribers int
}

// lanesWithSubscribers returns the lanes of the targets that have subscribers, with the
// number of subscribers, and the number of all connections. While connections move to a new
// history, lanes of the old one come first: see [Hub.lanesOf] for why. Any goroutine may
// call it. The caller must not hold Hub.mu.
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
