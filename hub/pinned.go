package hub

import (
	"container/list"
	"time"
	"unsafe"
)

// pinned knows the events that streams have stalled in. A stalled stream keeps the bytes
// of its event in memory, even after the history has evicted the event. The size of the
// history bounds how many bytes such events may take together: beyond it, streams end
// with the reason [Timeout]. It is guarded by Hub.mu.
type pinned struct {
	events  map[*byte]*pinnedEvent // by the address of their bytes
	evicted list.List              // events that were evicted, in the order of eviction
	bytes   int64                  // of evicted
}

type pinnedEvent struct {
	key   *byte // in pinned.events
	bytes int64
	place *list.Element      // in pinned.evicted; nil: the history still has it
	conns map[*Conn]struct{} // that have stalled in it
}

// pin notes that c has stalled in an event. retained: the history still has the event.
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

// unpin notes that c does not stall any more.
func (h *pinned) unpin(c *Conn) {
	e := h.events[c.pinnedEvent]
	if e == nil {
		return
	}
	delete(e.conns, c)
	h.forgetIfUnused(e)
	c.pinnedEvent = nil
}

// forgetIfUnused forgets an event that no stream stalls in any more.
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

// noteEvicted notes that the history has evicted an event.
func (h *pinned) noteEvicted(f frame) {
	if len(h.events) == 0 {
		return
	}
	if e := h.events[unsafe.SliceData(f.bytes)]; e != nil && e.place == nil {
		h.count(e)
	}
}

// noteAllEvicted notes that the history has ended with all its events.
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

// victim returns an open connection that stalls in the event that was evicted first, and
// unpins it; nil: there is none.
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

// pin notes that c has stalled in an event, of which a part is unsent.
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
	c.slowest.Add(int64(time.Since(c.written))) // the write of the event began then
	c.hub.lockQueued()
	c.hub.pinned.unpin(c)
	c.hub.unlockQueued()
}

// releaseEvicted ends one stream that pins an evicted event, if such events take more
// memory than the history may. It reports whether it ended one.
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
