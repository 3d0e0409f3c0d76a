package hub

import (
	"errors"
	"net"
	"os"
	"time"
)

// socket is a connection that was taken over from the HTTP server. It is used by
// whoever has the turn of its Conn, but for Cut.
type socket struct {
	conn     net.Conn     // to write to: tcp itself, or TLS above it
	tcp      *net.TCPConn // the connection below
	fd       int          // of tcp, or -1 where try does not use it
	unsent   []byte       // what is left of the last write
	midEvent bool         // in an event: rest is a part of it
	isFinal  bool         // the stream ends with rest
}

// Abort implements Cutter. Setting a deadline does not wait for a write, of TLS
// neither.
func (s *socket) Abort() { _ = s.conn.SetWriteDeadline(time.Unix(1, 0)) }

// piece is how much a client must take within its timeout not to be dropped.
const pieceSize = 16 << 10

// drain writes a piece of the rest, and waits for the client to take it. An error
// says that it has gone or, if os.ErrDeadlineExceeded, that it took nothing for the
// timeout.
func (s *socket) writePiece(timeout time.Duration) (n int, err error) {
	deadline := time.Now().Add(timeout)
	if err := s.conn.SetWriteDeadline(deadline); err != nil {
		return 0, err
	}
	n, err = s.conn.Write(s.unsent[:min(len(s.unsent), pieceSize)])
	s.unsent = s.unsent[n:]
	if n > 0 && errors.Is(err, os.ErrDeadlineExceeded) && s.conn == net.Conn(s.tcp) && !time.Now().Before(deadline) {
		err = nil // it did take something, and was not cut off
	}
	if err != nil {
		return n, err
	}
	return n, s.conn.SetWriteDeadline(time.Time{})
}

func (c *Conn) takeOver(s *socket) {
	h := c.hub
	c.socket = s
	h.lockQueued()
	c.setAborterLocked(s)
	closing := h.isClosing
	if !closing {
		h.takenOver.Add(1)
	}
	h.unlockQueued()
	if closing { // and with it the sweepers, so that c says goodbye by itself
		c.writeBlocking()
		return
	}
	c.sweeper = h.randomSweeper()
	c.queue = c.sweeper
	h.departures.watch(c)

	if !c.written.IsZero() && c.startCursor == c.replayEnd {
		c.sweeper.requeue(c)
		return
	}
	// The first turn is taken here, beside the sweepers, since much may be replayed.
	b := batches.Get().(*batch)
	defer b.release()
	c.firstStep(b)
}

// run uses the turn for one batch. What is left is for a goroutine.
func (c *Conn) firstStep(b *batch) {
	switch c.step(b) {
	case stepBlocked, stepMore:
		c.hub.writers.Go(c.writeBlocking)
	case stepIdle:
		// The sweeper gives the turn back, because it keeps the alarms.
		c.sweeper.requeue(c)
	}
}

// drain has the turn while the socket is full, or there is more than one batch to
// write. It has a batch only while it does not wait.
func (c *Conn) writeBlocking() {
	var pacer pacer
	defer pacer.end()
	for {
		for len(c.socket.unsent) > 0 {
			n, err := c.socket.writePiece(c.settings.Timeout)
			c.countBytes(n)
			if err != nil {
				c.closeSocket(c.hub.finish(c, reasonForError(err)))
				c.removeAlarm()
				return
			}
			c.expire(time.Now()) // which cuts it off, if it does not come to the end soon
		}
		b := batches.Get().(*batch)
		began := time.Now()
		state := c.step(b)
		b.release()
		switch state {
		case stepBlocked:
			continue
		case stepMore:
			pacer.pause(c, time.Since(began))
			continue
		case stepIdle:
			c.sweeper.requeue(c)
		case stepClosed:
			c.removeAlarm()
		}
		return
	}
}

// leaveSweeper has the sweeper forget the alarm of a connection that has ended.
func (c *Conn) removeAlarm() {
	if c.sweeper != nil {
		c.sweeper.requeue(c)
	}
}

// What a step came to.
type stepResult uint8

const (
	stepIdle    stepResult = iota // nothing is left
	stepMore                      // there is another batch
	stepBlocked                   // the socket takes no more
	stepClosed                    // the stream has ended, and the socket is closed
)

// step writes, without waiting, what is left of the last batch, or one batch of
// what is between the cursor and the head, and whatever else is due.
func (c *Conn) step(b *batch) stepResult {
	s := c.socket
	if len(s.unsent) > 0 {
		n, err := s.tryWrite(s.unsent)
		c.countBytes(n)
		s.unsent = s.unsent[n:]
		if err != nil {
			return c.closeSocket(c.hub.finish(c, reasonForError(err)))
		}
		if len(s.unsent) > 0 {
			return stepBlocked
		}
	}
	s.unsent = nil
	c.unpin()
	if s.isFinal {
		return c.closeSocket(c.currentReason())
	}
	l := c.compose(time.Now(), b)
	if l.mustClose() {
		return c.closeSocket(l.reason)
	}
	if !b.hasBlocks() {
		c.cursor.Store(l.cursor)
		return c.resultOf(l)
	}
	p, from, to := b.chunks()
	n, err := s.tryWrite(p)
	c.countBytes(n)
	if err != nil {
		return c.closeSocket(c.hub.finish(c, reasonForError(err)))
	}
	c.advance(b, l, p, n, from, to)
	switch {
	case len(s.unsent) > 0:
		return stepBlocked
	case s.isFinal:
		return c.closeSocket(c.currentReason())
	}
	return c.resultOf(l)
}

func (c *Conn) resultOf(l lookup) stepResult {
	if l.more {
		return stepMore
	}
	return stepIdle
}

// advance moves the cursor over n bytes of p. What was begun is finished first:
// an event, which stays where it is, or a control block, of which there is a copy.
func (c *Conn) advance(b *batch, l lookup, p []byte, n, from, to int) {
	s := c.socket
	switch {
	case n < from:
		s.unsent = append([]byte(nil), p[n:from]...)
		c.account(b, l, 0, false)
	case n < to:
		at := from
		for i, it := range b.items {
			size := len(it.frame.bytes)
			if n < at+size {
				s.unsent = it.frame.bytes[n-at:]
				c.account(b, l, i+1, false)
				c.pin(it)
				return
			}
			at += size
		}
	default:
		if n < len(p) {
			s.unsent = append([]byte(nil), p[n:]...)
		}
		s.isFinal = b.final
		c.account(b, l, len(b.items), true)
	}
}

// reasonOf is why a connection ends whose write has failed. The kernel, too, may
// have found that the client acknowledges nothing.
func reasonForError(err error) Reason {
	if timeout, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](err); ok && timeout.Timeout() {
		return Timeout
	}
	return Gone
}

// reasonNow is why c has ended.
func (c *Conn) currentReason() Reason {
	c.hub.mu.RLock()
	defer c.hub.mu.RUnlock()
	return c.reason
}

// hang closes the socket. Nobody has the turn to write any more.
func (c *Conn) closeSocket(reason Reason) stepResult {
	c.setAborter(nil)
	if c.socket.midEvent {
		c.cursor.Add(^uint64(0)) // the client has only a part of that event
	}
	c.unpin()
	c.hub.departures.forget(c)
	c.socket.close()
	c.socket = nil
	c.reportClosed(reason)
	if c.sweeper != nil { // otherwise Close waits for nobody any more
		c.hub.takenOver.Done()
	}
	return stepClosed
}
