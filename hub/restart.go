package hub

import "runtime"

// restart begins a history in which nothing before oldest is known. Connections go on
// with their cursors once moveOver has run. mu is held.
func (h *Hub) restart(epoch string, oldest uint64) {
	h.pinned.noteAllEvicted()
	h.oldHistory = h.history
	h.history = newHistory(h.oldHistory.opts, epoch, oldest, &h.pinned)
	h.earlyHeartbeatSeq, h.earlyHeartbeatBytes = h.history.head, 0
	clear(h.dirty)
	h.dirty = h.dirty[:0]
	h.notifyChange()
}

// seatsAtOnce is about how many seats are changed under one lock.
const subscriptionsAtOnce = 250

// moveOver gives the connections of the last history their seats in this one, and wakes
// them. Only who calls it fills the history, so there is nothing for them meanwhile.
func (h *Hub) moveConns() {
	for h.moveSomeConns() {
		runtime.Gosched() // others wait for the lock
	}
}

// moveSome moves some, and reports whether there may be others.
func (h *Hub) moveSomeConns() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.oldHistory == nil {
		return false
	}
	for seats := 0; seats < subscriptionsAtOnce; {
		n := len(h.oldHistory.all.subscribers)
		if n == 0 {
			h.oldHistory = nil
			return false
		}
		c := h.oldHistory.all.subscribers[n-1].Conn
		seats += len(c.subscriptions)
		c.unsubscribeAll()
		c.subscribeAll(h.history)
		c.wake()
	}
	return true
}

// lanesOf are the lanes of a target: in the history that connections leave, and in
// the one that they have. Either may be nil. They come in this order, so that who goes
// through both misses no connection that moves meanwhile. mu is held.
func (h *Hub) lanesOf(t Target) (lanes [2]*lane) {
	if h.oldHistory != nil {
		lanes[0] = h.oldHistory.lanes[t]
	}
	lanes[1] = h.history.lanes[t]
	return lanes
}

// listeners counts the connections that listen to a target. mu is held.
func (h *Hub) countSubscribers(t Target) (n int) {
	for _, l := range h.lanesOf(t) {
		if l != nil {
			n += len(l.subscribers)
		}
	}
	return n
}

// connection returns the one with this id, or nil. mu is held.
func (h *Hub) connection(id string) *Conn {
	for _, l := range h.lanesOf(Target{Connection, id}) {
		if l != nil && len(l.subscribers) > 0 {
			return l.subscribers[0].Conn
		}
	}
	return nil
}
