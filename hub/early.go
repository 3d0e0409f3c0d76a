package hub

import "time"

// The steps of an early heartbeat. If all connections were written to at once, an event for one
// of 18,000 would wait for 0.4 s.
const (
	earlyAtOnce = 64  // connections that a step wakes, at least
	earlySteps  = 200 // steps of a heartbeat, at most
	earlyPause  = 10 * time.Millisecond
)

// earlyHeartbeat wakes all connections for an early heartbeat, in steps. Only the waker calls the
// methods. The caller must not hold Hub.mu.
type earlyHeartbeat struct {
	hub    *Hub
	timer  *time.Timer // of the next step
	began  time.Time   // Hub.earlyHeartbeatTime of the heartbeat
	next   int         // see someSubscribers; 0: all are woken
	atOnce int         // connections in a step
}

// begin begins a heartbeat if one is due. conns is scratch.
func (e *earlyHeartbeat) begin(conns []*Conn) {
	h := e.hub
	h.mu.RLock()
	due, connections := h.earlyHeartbeatTime, len(h.history.all.subscribers)
	h.mu.RUnlock()
	if due.Equal(e.began) {
		return
	}
	e.began, e.next, e.atOnce = due, -1, max(earlyAtOnce, (connections+earlySteps-1)/earlySteps)
	e.wakeSome(conns)
}

// wakeSome is a step of the heartbeat. It does nothing if all connections are woken. conns is
// scratch.
func (e *earlyHeartbeat) wakeSome(conns []*Conn) {
	if e.next == 0 {
		return
	}
	h := e.hub
	h.mu.RLock()
	all := h.history.all
	h.mu.RUnlock()
	e.next = h.someSubscribers(all, e.next, e.atOnce, conns, (*Conn).wake)
	if e.next > 0 {
		e.timer.Reset(earlyPause)
	}
}
