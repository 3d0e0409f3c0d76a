package hub

import "runtime"

// restart begins a history in which nothing before oldest is known. No connection may be
// left in h.oldHistory. The caller then unlocks and calls moveConns, so that connections
// continue with their cursors. Only the feed's goroutine calls it. The caller holds Hub.mu
// for writing.
func (h *Hub) restart(epoch string, oldest uint64) {
	h.oldHistory = h.history
	h.history = newHistory(h.oldHistory.opts, epoch, oldest, &h.pinned)
	h.earlyHeartbeatSeq, h.earlyHeartbeatBytes = h.history.head, 0
	clear(h.dirty)
	h.dirty = h.dirty[:0]
	h.notifyChange()
}

// subscriptionsAtOnce is about how many subscriptions change while Hub.mu is held once.
const subscriptionsAtOnce = 250

// moveConns subscribes the connections of the old history in the new one, and wakes them.
// It does nothing if there is no old one. No event is published meanwhile, because only the
// caller fills the history. Only the feed's goroutine calls it. The caller must not hold
// Hub.mu.
func (h *Hub) moveConns() {
	for h.moveSomeConns() {
		runtime.Gosched() // other goroutines wait for the lock
	}
}

// moveSomeConns moves some connections. It returns true if there may be more: then call it
// again. Only moveConns calls it. The caller must not hold Hub.mu.
func (h *Hub) moveSomeConns() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.oldHistory == nil {
		return false
	}
	h.moves++
	for moved := 0; moved < subscriptionsAtOnce; {
		n := len(h.oldHistory.all.subscribers)
		if n == 0 {
			h.oldHistory = nil
			h.signalWaker() // the events that they pin are evicted now
			return false
		}
		c := h.oldHistory.all.subscribers[n-1].Conn
		moved += len(c.subscriptions)
		h.pinned.noteEvicted(c.pinnedEvent)
		c.unsubscribeAll()
		c.subscribeAll(h.history)
		c.wake()
	}
	return true
}

// betweenMoves calls f, again and again until no connection has moved to a new history
// during the call. f looks for connections in the lanes that have subscribers when it begins
// ([Hub.lanesOf]), and would miss those that move to another lane. Any goroutine may call
// it. The caller must not hold Hub.mu.
func (h *Hub) betweenMoves(f func()) {
	for still := false; !still; {
		var before uint64
		h.check(func() bool { before = h.moves; return true })
		f()
		still = h.check(func() bool { return h.moves == before })
	}
}

// lanesOf returns the lanes of a target in the old history and in the new one. Either may
// be nil. A caller must go through them in this order: so it misses no connection that
// moves meanwhile. The caller holds Hub.mu.
func (h *Hub) lanesOf(t Target) (lanes [2]*lane) {
	if h.oldHistory != nil {
		lanes[0] = h.oldHistory.lanes[t]
	}
	lanes[1] = h.history.lanes[t]
	return lanes
}

// countSubscribers counts the connections that subscribe to a target. The caller holds
// Hub.mu.
func (h *Hub) countSubscribers(t Target) (n int) {
	for _, l := range h.lanesOf(t) {
		if l != nil {
			n += len(l.subscribers)
		}
	}
	return n
}

// connection returns the connection with this id; nil: none is open. The caller holds
// Hub.mu.
func (h *Hub) connection(id string) *Conn {
	for _, l := range h.lanesOf(Target{Connection, id}) {
		if l != nil && len(l.subscribers) > 0 {
			return l.subscribers[0].Conn
		}
	}
	return nil
}
