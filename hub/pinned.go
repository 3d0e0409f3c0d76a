package hub

import (
	"container/list"
	"time"
	"unsafe"
)

// pinned knows the events that streams have stalled in, or may have: the socket was full in
// the middle of the event, or a [Sink] is writing a large one. Such a stream pins the event:
// it keeps the bytes in memory, even after the history has evicted the event. The size of
// the history bounds how many bytes evicted events may take together: beyond it, streams end
// with the reason [Timeout].
//
// The caller of each method holds Hub.mu for writing.
type pinned struct {
	events  map[*byte]*pinnedEvent // by the address of their bytes
	evicted list.List              // events that were evicted, in the order of eviction
	bytes   int64                  // of evicted
}

// pinnedEvent is an event that at least one stream pins.
type pinnedEvent struct {
	key   *byte // in pinned.events
	bytes int64
	place *list.Element      // in pinned.evicted; nil: the history still has it
	conns map[*Conn]struct{} // that pin it
}

// pin notes that c pins an event. c must not have pinned another one. retained:
// the history still has the event. An event that is already known was counted when the
// history evicted it. The caller holds Hub.mu for writing.
func (p *pinned) pin(c *Conn, f frame, retained bool) {
	key := unsafe.SliceData(f.bytes)
	e := p.events[key]
	if e == nil {
		e = &pinnedEvent{key: key, bytes: int64(cap(f.bytes)), conns: make(map[*Conn]struct{})}
		if p.events == nil {
			p.events = make(map[*byte]*pinnedEvent)
		}
		p.events[key] = e
		if !retained {
			p.count(e)
		}
	}
	e.conns[c] = struct{}{}
	c.pinnedEvent = key
}

// unpin notes that c pins its event no longer. It does nothing if c has pinned none. The
// caller holds Hub.mu for writing.
func (p *pinned) unpin(c *Conn) {
	e := p.events[c.pinnedEvent]
	if e == nil {
		return
	}
	delete(e.conns, c)
	p.forgetIfUnused(e)
	c.pinnedEvent = nil
}

// forgetIfUnused forgets an event that no stream pins any more. The caller holds Hub.mu for
// writing.
func (p *pinned) forgetIfUnused(e *pinnedEvent) {
	if len(e.conns) > 0 {
		return
	}
	delete(p.events, e.key)
	if e.place != nil {
		p.evicted.Remove(e.place)
		p.bytes -= e.bytes
	}
}

// noteEvicted notes that the history has evicted an event, or replaced it by a newer one of
// its slot, or that the history has ended. It counts the event if a stream pins it. key is
// the address of its bytes, or nil. The caller holds Hub.mu for writing.
func (p *pinned) noteEvicted(key *byte) {
	if len(p.events) == 0 {
		return
	}
	if e := p.events[key]; e != nil && e.place == nil {
		p.count(e)
	}
}

// count adds an event to those that are evicted, and its bytes to theirs. It must not be
// called twice for an event. The caller holds Hub.mu for writing.
func (p *pinned) count(e *pinnedEvent) {
	e.place = p.evicted.PushBack(e)
	p.bytes += e.bytes
}

// victim returns a connection that pins the event that was evicted first, and unpins it;
// nil: there is none. The caller ends the connection, which may have ended already. The
// caller holds Hub.mu for writing.
func (p *pinned) victim() *Conn {
	if first := p.evicted.Front(); first != nil {
		e := first.Value.(*pinnedEvent)
		for c := range e.conns { // at least one
			delete(e.conns, c)
			p.forgetIfUnused(e)
			return c
		}
	}
	return nil
}

// pin notes that c has stalled in an event, or may stall in it now ([pinned]). c must not
// have pinned another one. partial: c.cursor already counts the event as sent. If evicted
// events now take too much memory, the waker ends streams. The caller has the turn of c
// ([Conn.turn]), and calls unpin after the event is written. The caller must not hold Hub.mu.
func (c *Conn) pin(it item, partial bool) {
	h := c.hub
	h.lockQueued()
	retained := c.cursorHistory == h.history && h.history.retains(it)
	h.pinned.pin(c, it.frame, retained)
	c.partial = partial
	crowded := h.pinned.bytes > h.history.opts.MaxBytes
	h.unlockQueued()
	if crowded {
		h.signalWaker()
	}
}

// unpin notes that c has sent the event that it has pinned, or is about to close. The caller
// has the turn of c ([Conn.turn]). The caller must not hold Hub.mu.
func (c *Conn) unpin() {
	c.hub.lockQueued()
	c.hub.pinned.unpin(c)
	c.partial = false
	c.hub.unlockQueued()
}

// pinUnsent pins the event that the socket was full in the middle of: c.cursor counts it,
// but a part of it is unsent. The caller has the turn of c ([Conn.turn]). The caller must not
// hold Hub.mu.
func (c *Conn) pinUnsent(it item) {
	c.pin(it, true)
	c.socket.midEvent = true
}

// unpinUnsent notes that c has sent the rest of the event that pinUnsent has pinned, or is
// about to close. It does nothing if there is no such event. The caller has the turn of c
// ([Conn.turn]). The caller must not hold Hub.mu.
func (c *Conn) unpinUnsent() {
	if !c.socket.midEvent {
		return
	}
	c.socket.midEvent = false
	c.slowest.Add(int64(time.Since(c.written))) // the write of the event began then
	c.unpin()
}

// releaseEvicted ends one stream that pins an evicted event ([pinned]), if such events take
// more memory than the history may. It returns true if it found one: then call it again. It
// aborts the stream's write at once, and so does not wait for closeGrace. A stream that has
// ended already keeps its closeGrace, and is not counted any more. Only the waker calls it.
// The caller must not hold Hub.mu.
func (h *Hub) releaseEvicted() bool {
	aborter, found := h.endVictim()
	if aborter != nil {
		aborter.Abort()
	}
	return found
}

// endVictim does the work of releaseEvicted, except that it returns the stream's aborter
// instead of calling it; nil: there is none. Only releaseEvicted calls it. The caller must
// not hold Hub.mu.
func (h *Hub) endVictim() (aborter Aborter, found bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.pinned.bytes <= h.history.opts.MaxBytes {
		return nil, false
	}
	c := h.pinned.victim()
	switch {
	case c == nil:
		return nil, false
	case c.reason != "":
		return nil, true
	}
	h.detach(c, Timeout)
	return c.aborter, true
}
