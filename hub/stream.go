package hub

import (
	"math"
	"time"
)

// look is what a connection learns in one look-up.
type lookup struct {
	cursor            uint64 // looked up to here
	from              uint64 // where it began; past the old cursor if there was a gap
	cursorTag         Tag    // of cursor
	fromTag           Tag    // of from
	more              bool   // the batch was full
	gap               gapReason
	reason            Reason // not empty: the connection has ended
	graceOver         bool   // the grace period of an ended connection is over
	earlyHeartbeatSeq uint64 // the client's position should not be before this
}

// closes reports whether the connection is to be closed without another block.
func (l lookup) mustClose() bool { return l.reason != "" && (!l.reason.isGraceful() || l.graceOver) }

// look finds what is to be sent to c next, and puts it into b.
func (h *Hub) lookUp(c *Conn, now time.Time, b *batch) lookup {
	if c.cursor.Load() < c.replayEnd { // it replays
		h.replaySlots <- struct{}{}
		defer func() { <-h.replaySlots }()
	}
	h.mu.RLock()
	for h.history.isStale(now) {
		h.mu.RUnlock()
		h.trim(now)
		h.mu.RLock()
	}
	defer h.mu.RUnlock()
	hi := h.history
	l := lookup{from: c.cursor.Load(), reason: c.reason, graceOver: c.graceOver, earlyHeartbeatSeq: h.earlyHeartbeatSeq}
	l.cursor = l.from
	last := hi.head
	if h.pendingCommand != 0 {
		// It may become an event for c.
		last = h.pendingCommand - 1
	}
	if c.reason != "" {
		last = c.limit
	}
	switch {
	case c.cursorHistory == hi:
		lost := hi.lastLostTo(c.subscriptions)
		if c.written.IsZero() { // it is sent the state of now: nothing of an earlier one is lost to it
			c.knownLost = max(c.knownLost, min(c.stateEnd, lost))
		}
		if lost > max(l.from, c.knownLost) {
			l.gap, l.from, c.knownLost = gapEvicted, max(l.from, hi.oldest-1), lost
		}
	case c.reason != "", c.history != hi: // the history that it ended in is gone, or it has yet to move over
		b.resetItems()
		return l
	default:
		l.from, l.gap = hi.resume(Position{Epoch: c.epoch, Seq: l.from}, c.subscriptions)
		c.cursorHistory, c.epoch, c.startCursor, c.replayEnd, c.knownLost, c.stateEnd = hi, hi.epoch, l.from, hi.head, hi.lastLostTo(c.subscriptions), 0
		c.skipped.Store(0)
	}
	l.cursor = hi.since(c.subscriptions, l.from, max(last, l.from), c.stateEnd, now, b)
	if b.skipped > c.skipped.Load() {
		c.skipped.Store(b.skipped)
	}
	l.cursorTag, l.fromTag = hi.position(l.cursor).Tag, hi.position(l.from).Tag
	l.more = l.cursor < last
	return l
}

// compose puts into b what is to be written next: replay, live events, gaps,
// heartbeats and the end are all decided here, after one look-up. Whoever calls
// it has the connection's turn, and calls wrote afterwards.
func (c *Conn) compose(now time.Time, b *batch) lookup {
	b.resetBlocks()
	c.expire(now)
	l := c.hub.lookUp(c, now, b)
	first := c.written.IsZero()
	gap := l.gap
	if first {
		if c.gap != noGap {
			gap = c.gap
		}
		b.before = c.appendOpening(b.before, gap, c.firstPosition(l, b))
	}
	if gap != noGap {
		b.before = appendGap(b.before, gap, Position{c.epoch, l.from, l.fromTag})
		c.hub.stats.gaps[gap].Add(1)
		c.sentPosition = l.from
	}
	told := c.sentPosition
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
			b.after = appendID(b.after, Position{c.epoch, l.cursor, l.cursorTag})
			b.moved = true
		}
		b.final = true
	case l.reason != "":
		b.after = appendClosing(b.after, l.reason, between(c.settings.RetryMin, c.settings.RetryMax))
		b.final = true
	case l.cursor > told && (silent || told < l.earlyHeartbeatSeq):
		b.after = appendID(b.after, Position{c.epoch, l.cursor, l.cursorTag})
		b.moved = true
	case silent:
		b.after = append(b.after, ":\n"...)
	}
	return l
}

// begins is the position that the first block gives to the client. It has none before
// the state: a client that is cut off in between asks for the state again.
func (c *Conn) firstPosition(l lookup, b *batch) Position {
	switch {
	case c.stateEnd <= l.from:
		p := Position{c.epoch, l.from, l.fromTag}
		if p.Tag == (Tag{}) {
			p.Tag = c.clientTag // the history no longer knows it
		}
		return p
	case len(b.items) > 0 || l.more:
		return Position{}
	}
	c.sentPosition = l.cursor // there is no state
	return Position{c.epoch, l.cursor, l.cursorTag}
}

// wrote counts what the client was given: what is before the first n events, and
// those. all says that nothing was left out.
func (c *Conn) account(b *batch, l lookup, n int, all bool) {
	c.written = time.Now()
	st := &c.hub.stats
	oldest := int64(math.MaxInt64)
	for _, it := range b.items[:n] {
		c.sentPosition = it.seq
		oldest = min(oldest, it.accepted)
		if it.seq <= c.replayEnd {
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
		c.sentPosition = l.cursor
	}
	if all {
		c.cursor.Store(l.cursor)
	} else {
		c.cursor.Store(max(l.from, c.sentPosition))
	}
}

// count adds to the bytes written.
func (c *Conn) countBytes(n int) {
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
	h.lockQueued()
	defer h.unlockQueued()
	h.detach(c, reason)
	return c.reason
}
