package hub

import (
	"math"
	"time"
)

// look is what a connection learns in one look-up.
type look struct {
	cursor uint64 // looked up to here
	from   uint64 // where it began; past the old cursor if there was a gap
	tag    Tag    // of cursor
	begins Tag    // of from
	more   bool   // the batch was full
	gap    gapReason
	reason Reason // not empty: the connection has ended
	over   bool   // the grace period of an ended connection is over
	nudge  uint64 // the client's position should not be before this
}

// closes reports whether the connection is to be closed without another block.
func (l look) closes() bool { return l.reason != "" && (!l.reason.told() || l.over) }

// look finds what is to be sent to c next, and puts it into b.
func (h *Hub) look(c *Conn, now time.Time, b *batch) look {
	if c.cursor.Load() < c.first { // it replays
		h.looking <- struct{}{}
		defer func() { <-h.looking }()
	}
	h.mu.RLock()
	for h.history.stale(now) {
		h.mu.RUnlock()
		h.trim(now)
		h.mu.RLock()
	}
	defer h.mu.RUnlock()
	hi := h.history
	l := look{from: c.cursor.Load(), reason: c.reason, over: c.late, nudge: h.nudge}
	l.cursor = l.from
	last := hi.head
	if h.command != 0 {
		// It may become an event for c.
		last = h.command - 1
	}
	if c.reason != "" {
		last = c.limit
	}
	switch {
	case c.placed == hi:
		lost := hi.lost(c.seats)
		if c.written.IsZero() { // it is sent the state of now: nothing of an earlier one is lost to it
			c.lost = max(c.lost, min(c.state, lost))
		}
		if lost > max(l.from, c.lost) {
			l.gap, l.from, c.lost = gapEvicted, max(l.from, hi.oldest-1), lost
		}
	case c.reason != "", c.history != hi: // the history that it ended in is gone, or it has yet to move over
		b.found()
		return l
	default:
		l.from, l.gap = hi.resume(Position{Epoch: c.epoch, Seq: l.from}, c.seats)
		c.placed, c.epoch, c.start, c.first, c.lost, c.state = hi, hi.epoch, l.from, hi.head, hi.lost(c.seats), 0
		c.skipped.Store(0)
	}
	l.cursor = hi.since(c.seats, l.from, max(last, l.from), c.state, now, b)
	if b.skipped > c.skipped.Load() {
		c.skipped.Store(b.skipped)
	}
	l.tag, l.begins = hi.position(l.cursor).Tag, hi.position(l.from).Tag
	l.more = l.cursor < last
	return l
}

// compose puts into b what is to be written next: replay, live events, gaps,
// heartbeats and the end are all decided here, after one look-up. Whoever calls
// it has the connection's turn, and calls wrote afterwards.
func (c *Conn) compose(now time.Time, b *batch) look {
	b.clear()
	c.expire(now)
	l := c.hub.look(c, now, b)
	first := c.written.IsZero()
	gap := l.gap
	if first {
		if c.gap != noGap {
			gap = c.gap
		}
		b.before = c.appendOpening(b.before, gap, c.begins(l, b))
	}
	if gap != noGap {
		b.before = appendGap(b.before, gap, Position{c.epoch, l.from, l.begins})
		c.hub.stats.gaps[gap].Add(1)
		c.told = l.from
	}
	told := c.told
	if n := len(b.items); n > 0 {
		told = b.items[n-1].seq
	}
	silent := len(b.before)+len(b.items) == 0 && now.Sub(c.written) >= c.settings.Heartbeat
	if c.poll && !l.more && l.reason == "" && (len(b.items) > 0 || c.events.Load() > 0 || silent) {
		l.reason = c.hub.finish(c, Polled)
	}
	switch {
	case l.more:
	case l.reason == Polled:
		if l.cursor > told {
			b.after = appendID(b.after, Position{c.epoch, l.cursor, l.tag})
			b.moved = true
		}
		b.final = true
	case l.reason != "":
		b.after = appendClosing(b.after, l.reason, between(c.settings.RetryMin, c.settings.RetryMax))
		b.final = true
	case l.cursor > told && (silent || told < l.nudge):
		b.after = appendID(b.after, Position{c.epoch, l.cursor, l.tag})
		b.moved = true
	case silent:
		b.after = append(b.after, ":\n"...)
	}
	return l
}

// begins is the position that the first block gives to the client. It has none before
// the state: a client that is cut off in between asks for the state again.
func (c *Conn) begins(l look, b *batch) Position {
	switch {
	case c.state <= l.from:
		p := Position{c.epoch, l.from, l.begins}
		if p.Tag == (Tag{}) {
			p.Tag = c.given // the history no longer knows it
		}
		return p
	case len(b.items) > 0 || l.more:
		return Position{}
	}
	c.told = l.cursor // there is no state
	return Position{c.epoch, l.cursor, l.tag}
}

// wrote counts what the client was given: what is before the first n events, and
// those. all says that nothing was left out.
func (c *Conn) wrote(b *batch, l look, n int, all bool) {
	c.written = time.Now()
	st := &c.hub.stats
	oldest := int64(math.MaxInt64)
	for _, it := range b.items[:n] {
		c.told = it.seq
		oldest = min(oldest, it.accepted)
		if it.seq <= c.first {
			st.replayed.Add(1)
		} else {
			st.latency.observe(monotonic(c.written) - it.accepted)
		}
	}
	if late := monotonic(c.written) - max(oldest, monotonic(c.since)); n > 0 && late > c.slowest.Load() {
		c.slowest.Store(late)
	}
	c.events.Add(uint64(n))
	st.deliveries.Add(uint64(n))
	if b.moved && all {
		c.told = l.cursor
	}
	if all {
		c.cursor.Store(l.cursor)
	} else {
		c.cursor.Store(max(l.from, c.told))
	}
}

// count adds to the bytes written.
func (c *Conn) count(n int) {
	c.bytes.Add(uint64(n))
	c.hub.stats.bytes.Add(uint64(n))
}

// nextAlarm is when there is something to do though nobody wakes the writer.
func (c *Conn) nextAlarm() time.Time {
	beat := c.written.Add(c.settings.Heartbeat)
	if !c.end.IsZero() && c.end.Before(beat) {
		return c.end
	}
	return beat
}

// expire ends c if its time is over.
func (c *Conn) expire(now time.Time) {
	if !c.end.IsZero() && !now.Before(c.end) {
		c.hub.finish(c, c.endsBy)
	}
}

// finish ends c for the reason, unless it has ended for another already, and
// returns the one that holds.
func (h *Hub) finish(c *Conn, reason Reason) Reason {
	h.lock()
	defer h.unlock()
	h.detach(c, reason)
	return c.reason
}
