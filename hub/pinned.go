package hub

import (
	"container/list"
	"time"
	"unsafe"
)

// held knows the events in the middle of which streams are stuck. Such an event
// stays in memory after it was evicted. What they take together is bounded by the
// size of the history: beyond it, streams are let go. It is guarded by Hub.mu.
type pinned struct {
	events  map[*byte]*pinnedEvent // by where their bytes are
	evicted list.List              // of those that were evicted, in that order
	bytes   int64                  // of evicted
}

type pinnedEvent struct {
	key   *byte // of held.events
	bytes int64
	place *list.Element      // in held.evicted; nil: history still has it
	conns map[*Conn]struct{} // stuck in it
}

// hold notes that c is stuck in an event. retained: history still has it.
func (h *pinned) pin(c *Conn, f frame, retained bool) {
	key := unsafe.SliceData(f.bytes)
	e := h.events[key]
	if e == nil {
		e = &pinnedEvent{key: key, bytes: int64(cap(f.bytes)), conns: make(map[*Conn]struct{})}
		if h.events == nil {
			h.events = make(map[*byte]*pinnedEvent)
		}
		h.events[key] = e
		if !retained {
			h.count(e)
		}
	}
	e.conns[c] = struct{}{}
	c.pinnedEvent = key
}

// release notes that c is not stuck any more.
func (h *pinned) unpin(c *Conn) {
	e := h.events[c.pinnedEvent]
	if e == nil {
		return
	}
	delete(e.conns, c)
	h.forgetIfUnused(e)
	c.pinnedEvent = nil
}

// free forgets an event in which nobody is stuck any more.
func (h *pinned) forgetIfUnused(e *pinnedEvent) {
	if len(e.conns) > 0 {
		return
	}
	delete(h.events, e.key)
	if e.place != nil {
		h.evicted.Remove(e.place)
		h.bytes -= e.bytes
	}
}

// evict notes that the history no longer has an event.
func (h *pinned) noteEvicted(f frame) {
	if len(h.events) == 0 {
		return
	}
	if e := h.events[unsafe.SliceData(f.bytes)]; e != nil && e.place == nil {
		h.count(e)
	}
}

// evictAll is evict for all that is held, since a new history begins.
func (h *pinned) noteAllEvicted() {
	for _, e := range h.events {
		if e.place == nil {
			h.count(e)
		}
	}
}

func (h *pinned) count(e *pinnedEvent) {
	e.place = h.evicted.PushBack(e)
	h.bytes += e.bytes
}

// victim takes an open connection out of the event that was evicted first, and returns
// nil if there is none. Without connections the event does not count any more.
func (h *pinned) victim() *Conn {
	for first := h.evicted.Front(); first != nil; first = h.evicted.Front() {
		e := first.Value.(*pinnedEvent)
		for c := range e.conns {
			delete(e.conns, c)
			h.forgetIfUnused(e)
			if c.reason == "" {
				return c
			}
		}
	}
	return nil
}

// stick notes that c is stuck in an event, as long as there is more of it to write.
func (c *Conn) pin(it item) {
	h := c.hub
	h.lockQueued()
	retained := c.cursorHistory == h.history && it.seq >= h.history.oldest
	h.pinned.pin(c, it.frame, retained)
	crowded := h.pinned.bytes > h.history.opts.MaxBytes
	h.unlockQueued()
	c.socket.midEvent = true
	if crowded {
		h.signalWaker()
	}
}

func (c *Conn) unpin() {
	if !c.socket.midEvent {
		return
	}
	c.socket.midEvent = false
	c.slowest.Add(int64(time.Since(c.written))) // since then the event was being written
	c.hub.lockQueued()
	c.hub.pinned.unpin(c)
	c.hub.unlockQueued()
}

// letGo ends a stream that is stuck in an evicted event, if all of them together
// hold more than they may. It reports whether there may be another.
func (h *Hub) releaseEvicted() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.pinned.bytes <= h.history.opts.MaxBytes {
		return false
	}
	c := h.pinned.victim()
	if c == nil {
		return false
	}
	h.detach(c, Timeout)
	if c.aborter != nil {
		c.aborter.Abort()
	}
	return true
}
