package hub

import (
	"context"
	"io"
	"time"
)

// Sink is how Serve reaches a client.
type Sink interface {
	// Write takes all of p, or fails. It fails when the client takes nothing for
	// Settings.Timeout, and keeps no reference to p.
	io.Writer

	// Flush sends what Write took on its way.
	Flush() error

	// Cut makes a Write or Flush that is under way fail. Unlike the others it is
	// called from any goroutine, also while they run. It does not wait.
	Cut()
}

// look is what a connection learns in one look-up.
type look struct {
	cursor uint64 // looked up to here
	from   uint64 // where it began; past the old cursor if there was a gap
	more   bool   // the batch was full
	gap    gapReason
	reason Reason // not empty: the connection has ended
	nudge  uint64 // the client's position should not be before this
}

// look finds what is to be sent to c next, and puts it into b.
func (h *Hub) look(c *Conn, b *batch) look {
	now := time.Now()
	h.mu.RLock()
	if h.history.stale(now) {
		h.mu.RUnlock()
		h.mu.Lock()
		h.history.evict(now)
		h.mu.Unlock()
		h.mu.RLock()
	}
	defer h.mu.RUnlock()
	hi := h.history
	l := look{from: c.cursor.Load(), reason: c.reason, nudge: h.nudge}
	l.cursor = l.from
	last := hi.head
	if c.reason != "" {
		last = c.limit
	}
	switch {
	case c.placed == hi:
		if hi.lost(c.seats, l.from) {
			l.gap, l.from = gapEvicted, max(l.from, hi.oldest-1)
		}
	case c.reason != "": // the history that it ended in is gone
		return l
	default:
		l.from, l.gap = hi.resume(Position{c.epoch, l.from}, c.seats)
		c.placed, c.epoch, c.first = hi, hi.epoch, hi.head
	}
	l.cursor = hi.since(c.seats, l.from, max(last, l.from), now, b)
	l.more = l.cursor < last
	return l
}

// Serve sends the stream until it ends, or until ctx does, which says that the
// client is gone.
func (c *Conn) Serve(ctx context.Context, w Sink) Reason {
	c.setSink(w)
	defer c.setSink(nil)
	s := stream{Conn: c, w: w, sent: c.cursor.Load()}
	alarm := time.NewTimer(0)
	defer alarm.Stop()
	for {
		if reason := s.catchUp(); reason != "" {
			return reason
		}
		alarm.Reset(time.Until(s.nextAlarm()))
		select {
		case <-c.wake:
		case <-alarm.C:
		case <-ctx.Done():
			return c.hub.finish(c, Gone)
		}
	}
}

// stream is the state of Serve.
type stream struct {
	*Conn
	w     Sink
	sent  uint64    // the last id that the client was given
	wrote time.Time // when it last got anything; zero before the first block
}

// catchUp writes all that is between the cursor and the head, and whatever else
// is due: replay, live events, gaps, heartbeats and the end are decided here,
// after one look-up. It returns why the connection has ended, or "".
func (s *stream) catchUp() Reason {
	b := batches.Get().(*batch)
	defer b.release()
	for {
		now := time.Now()
		if !s.end.IsZero() && !now.Before(s.end) {
			s.hub.finish(s.Conn, s.endsBy)
		}
		l := s.hub.look(s.Conn, b)
		if l.reason != "" && !l.reason.told() {
			return l.reason
		}
		s.compose(b, l, now)
		if err := s.send(b, l.more); err != nil {
			if time.Since(now) >= s.settings.Timeout {
				return s.hub.finish(s.Conn, Timeout)
			}
			return s.hub.finish(s.Conn, Gone)
		}
		s.cursor.Store(l.cursor)
		if !l.more {
			return l.reason
		}
		b.reset()
	}
}

// compose puts control blocks around the events that were found.
func (s *stream) compose(b *batch, l look, now time.Time) {
	gap := l.gap
	first := s.wrote.IsZero()
	if first {
		if s.gap != noGap {
			gap = s.gap
		}
		b.buf = s.appendOpening(b.buf, gap)
	}
	if gap != noGap {
		b.buf = appendGap(b.buf, gap, Position{s.epoch, l.from})
		s.hub.stats.gaps[gap].Add(1)
		s.sent = l.from
	}
	if n := len(b.items); n > 0 {
		s.sent = b.items[n-1].seq
	}
	silent := len(b.buf)+len(b.items) == 0 && now.Sub(s.wrote) >= s.settings.Heartbeat
	switch {
	case l.more:
	case l.reason != "":
		b.tail = appendClosing(b.tail, l.reason, between(s.settings.RetryMin, s.settings.RetryMax))
	case l.cursor > s.sent && (silent || s.sent < l.nudge):
		b.tail = appendID(b.tail, Position{s.epoch, l.cursor})
		s.sent = l.cursor
	case silent:
		b.tail = append(b.tail, ":\n"...)
	}
}

// send writes the batch and counts it.
func (s *stream) send(b *batch, more bool) error {
	if !b.pending() {
		return nil
	}
	n, err := b.writeTo(s.w)
	if err == nil && !more {
		err = s.w.Flush()
	}
	st := &s.hub.stats
	s.bytes.Add(uint64(n))
	st.bytes.Add(uint64(n))
	if err != nil {
		return err
	}
	s.wrote = time.Now()
	s.events.Add(uint64(len(b.items)))
	st.deliveries.Add(uint64(len(b.items)))
	for _, it := range b.items {
		if it.seq <= s.first {
			st.replayed.Add(1)
		} else {
			st.latency.observe(s.wrote.UnixNano() - it.at)
		}
	}
	return nil
}

// nextAlarm is when there is something to do though nobody wakes the writer.
func (s *stream) nextAlarm() time.Time {
	beat := s.wrote.Add(s.settings.Heartbeat)
	if !s.end.IsZero() && s.end.Before(beat) {
		return s.end
	}
	return beat
}

// setSink says where to cut, should the connection end while a write is stuck.
func (c *Conn) setSink(w Sink) {
	c.hub.mu.Lock()
	defer c.hub.mu.Unlock()
	c.sink = w
	if w == nil && c.cut != nil {
		c.cut.Stop()
	}
}

// finish ends c for the reason, unless it has ended for another already, and
// returns the one that holds.
func (h *Hub) finish(c *Conn, reason Reason) Reason {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.detach(c, reason)
	return c.reason
}
