package hub

import (
	"math"
	"time"
)

// lookup is the result of one look-up for a connection.
type lookup struct {
	cursor            uint64 // everything up to here was looked at
	from              uint64 // the look-up began here: at the old cursor, or past it after a gap
	cursorTag         Tag    // of cursor
	fromTag           Tag    // of from
	more              bool   // the batch is full: there may be more events
	gap               gapReason
	reason            Reason // not empty: the connection has ended
	graceOver         bool   // closeGrace has passed since it ended
	earlyHeartbeatSeq uint64 // a client with an older position is sent its position now
}

// mustClose reports whether the connection must be closed without another block: the end is
// not graceful, or closeGrace is over.
func (l lookup) mustClose() bool { return l.reason != "" && (!l.reason.isGraceful() || l.graceOver) }

// lookUp finds the next events for c and puts them into b. It also decides about "evicted"
// gaps, because the history moves on while a client is slow, and moves the cursor to a new
// history. It does not look past a command that is being executed. A replay may wait for
// one of h.replaySlots. lookUp does not change c.cursor: the caller stores l.cursor, or
// calls account.
//
// The caller has the turn of c ([Conn.turn]). The caller must not hold Hub.mu.
func (h *Hub) lookUp(c *Conn, now time.Time, b *batch) lookup {
	if c.cursor.Load() < c.replayEnd { // a replay
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
		// The command may become an event for c.
		last = h.pendingCommand - 1
	}
	if c.reason != "" {
		last = c.limit
	}
	switch {
	case c.cursorHistory == hi:
		lost := hi.lastLostTo(c.subscriptions)
		if c.written.IsZero() { // c is sent the current state: older states are not lost to it
			c.knownLost = max(c.knownLost, min(c.stateEnd, lost))
		}
		if lost > max(l.from, c.knownLost) {
			l.gap, l.from, c.knownLost = gapEvicted, max(l.from, hi.oldest-1), lost
		}
	case c.reason != "", c.history != hi: // the history that c ended in is gone, or c has yet to subscribe in the new one
		b.resetItems()
		return l
	default:
		l.from, l.gap = hi.resume(Position{Epoch: c.epoch, Seq: l.from}, c.subscriptions)
		c.cursorHistory, c.epoch, c.startCursor, c.replayEnd, c.knownLost, c.stateEnd = hi, hi.epoch, l.from, hi.head, hi.lastLostTo(c.subscriptions), 0
		c.skipped.Store(0)
	}
	l.cursor = hi.since(c.subscriptions, l.from, max(last, l.from), c.stateEnd, now, b)
	b.late = len(b.items) > 0 && hi.isQuarterAfter(b.items[0].seq)
	if b.skipped > c.skipped.Load() {
		c.skipped.Store(b.skipped)
	}
	l.cursorTag, l.fromTag = hi.position(l.cursor).Tag, hi.position(l.from).Tag
	l.more = l.cursor < last
	return l
}

// compose looks up and puts into b everything that is written next: replay, live events,
// gaps, heartbeats and the end are all decided here. If the result says mustClose, the
// caller writes nothing and closes c. If b has no blocks, it stores l.cursor. Otherwise it
// writes b, and calls account after the write. It must not call compose again before that,
// because c already counts as told of a gap. If b is final, the caller then ends c with
// l.reason, because a poll that has its answer has not ended yet.
//
// The caller has the turn of c ([Conn.turn]). The caller must not hold Hub.mu.
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
	sent := c.sentPosition
	if n := len(b.items); n > 0 {
		sent = b.items[n-1].seq
	}
	// The first block of a state has no position (firstPosition). If the state turns out to be
	// empty, the position is sent now.
	emptyState := !first && c.stateEnd > sent && c.events.Load() == 0
	silent := len(b.before)+len(b.items) == 0 && now.Sub(c.written) >= c.settings.Heartbeat
	if c.poll && !l.more && l.reason == "" && (len(b.items) > 0 || c.events.Load() > 0 || silent) {
		// c ends after the write: so the write may take Settings.Timeout, and not only closeGrace.
		l.reason = Polled
	}
	switch {
	case l.more:
	case l.reason == Polled:
		if l.cursor > sent {
			b.after = appendID(b.after, Position{c.epoch, l.cursor, l.cursorTag})
			b.moved = true
		}
		b.final = true
	case l.reason != "":
		b.after = appendClosing(b.after, l.reason, between(c.settings.RetryMin, c.settings.RetryMax))
		b.final = true
	case l.cursor > sent && (silent || emptyState || sent < l.earlyHeartbeatSeq):
		b.after = appendID(b.after, Position{c.epoch, l.cursor, l.cursorTag})
		b.moved = true
	case silent:
		b.after = append(b.after, ":\n"...)
	}
	return l
}

// firstPosition returns the position in the first block. It is zero before a state
// (Request.State): a client that loses the connection in between asks for the state again.
// b may be nil if c asks for no state. The caller has the turn of c ([Conn.turn]).
func (c *Conn) firstPosition(l lookup, b *batch) Position {
	switch {
	case c.stateEnd <= l.from:
		p := Position{c.epoch, l.from, l.fromTag}
		if p.Tag == (Tag{}) {
			p.Tag = c.clientTag // the history does not know the tag any more
		}
		return p
	case len(b.items) > 0 || l.more:
		return Position{}
	}
	c.sentPosition = l.cursor // the state is empty
	return Position{c.epoch, l.cursor, l.cursorTag}
}

// account moves the cursor and counts, after a write: the client was sent b.before and the
// first n items. all says that it was sent the rest as well. It must be called once for
// each batch of which something may be written, before the next look-up. The caller has the
// turn of c ([Conn.turn]).
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
			if it.trace != nil {
				it.trace.noteWrite(monotonic(c.written))
			}
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

// countBytes adds to the bytes written to c, and by the hub. Any goroutine may call it.
func (c *Conn) countBytes(n int) {
	c.bytes.Add(uint64(n))
	c.hub.stats.bytes.Add(uint64(n))
}

// nextAlarm returns when c has to be woken even if there is no news: for a heartbeat, or
// for its end. The caller has the turn of c ([Conn.turn]).
func (c *Conn) nextAlarm() time.Time {
	beat := c.written.Add(c.settings.Heartbeat)
	if !c.end.IsZero() && c.end.Before(beat) {
		return c.end
	}
	return beat
}

// expire ends c if it has reached its maximum lifetime, or its login has expired. Any
// goroutine may call it. The caller must not hold Hub.mu.
func (c *Conn) expire(now time.Time) {
	if !c.end.IsZero() && !now.Before(c.end) {
		c.hub.finish(c, c.endsBy)
	}
}

// expireOnTime calls expire at the end of c, until stop is called. It is for a goroutine that
// may be waiting at that moment: what is published while it waits on is not for c any more. It
// makes no timer if c has no end. Any goroutine may call both.
func (c *Conn) expireOnTime() (stop func() bool) {
	if c.end.IsZero() {
		return func() bool { return true }
	}
	var alarm *time.Timer
	alarm = time.AfterFunc(math.MaxInt64, func() {
		now := time.Now()
		if c.expire(now); now.Before(c.end) { // the clock was set back
			alarm.Reset(c.end.Sub(now))
		}
	})
	alarm.Reset(time.Until(c.end))
	return alarm.Stop
}

// finish ends c for the reason, unless it has already ended. It returns the reason why c
// has ended, which may be an earlier one. Any goroutine may call it. The caller must not
// hold Hub.mu.
func (h *Hub) finish(c *Conn, reason Reason) Reason {
	h.lockQueued()
	defer h.unlockQueued()
	h.detach(c, reason)
	return c.reason
}
