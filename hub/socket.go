package hub

import (
	"cmp"
	"errors"
	"net"
	"os"
	"time"
)

// SendBuffer is how many bytes the kernel may buffer for a slow client over HTTP/1.1. What
// it buffers can be neither replaced nor taken back. Linux counts its own overhead too, and
// reports twice this value.
const SendBuffer = 128 << 10

// socket is a connection that was taken over from the HTTP server. Only the goroutine that
// has the turn of its Conn ([Conn.turn]) uses it. Any goroutine may call Abort.
type socket struct {
	conn     net.Conn     // to write to: tcp, or TLS above it
	tcp      *net.TCPConn // the connection below
	fd       int          // of tcp; -1: tryWrite does not use it
	unsent   []byte       // the rest of the last write
	midEvent bool         // unsent is a part of an event
	isFinal  bool         // the stream ends after unsent
}

// Abort implements [Aborter]. A deadline in the past ends a write, also one of TLS, and
// setting it does not wait for that write.
func (s *socket) Abort() { _ = s.conn.SetWriteDeadline(time.Unix(1, 0)) }

// pieceSize is how many bytes a client must take within its timeout to stay connected.
const pieceSize = 16 << 10

// writePiece writes a piece of what is unsent, and waits for the client to take it. It
// returns how many bytes the client took. Its error is os.ErrDeadlineExceeded if the client
// took nothing for the timeout, or if Abort was called. Any other error says that the
// client is gone. The caller has the turn ([Conn.turn]). The caller must not hold a lock.
func (s *socket) writePiece(timeout time.Duration) (n int, err error) {
	deadline := time.Now().Add(timeout)
	if err := s.conn.SetWriteDeadline(deadline); err != nil {
		return 0, err
	}
	n, err = s.conn.Write(s.unsent[:min(len(s.unsent), pieceSize)])
	s.unsent = s.unsent[n:]
	if n > 0 && errors.Is(err, os.ErrDeadlineExceeded) && s.conn == net.Conn(s.tcp) && !time.Now().Before(deadline) {
		err = nil // the client took a part, and the write was not aborted
	}
	if err != nil {
		return n, err
	}
	return n, s.conn.SetWriteDeadline(time.Time{})
}

// takeOver implements [Pending.TakeOver]. The caller made c with Connect, and so has the
// turn ([Conn.turn]). takeOver gives the turn up. It must be called once, and not after
// open. The caller must not hold Hub.mu.
func (c *Conn) takeOver(s *socket) {
	h := c.hub
	c.socket = s
	h.lockQueued()
	c.setAborterLocked(s)
	isKept := h.keepLocked(c)
	h.unlockQueued()
	if !isKept { // the sweepers end: c writes its end here
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
	// The first turn is taken here and not by a sweeper, because the replay may be large.
	b := batches.Get().(*batch)
	defer b.release()
	c.firstStep(b)
}

// keepLocked counts c as taken over, so that Close waits for it. It returns false if Close has begun:
// then it ends c, and the caller writes the end. The caller holds Hub.mu for writing.
func (h *Hub) keepLocked(c *Conn) bool {
	if h.isClosing {
		h.detach(c, cmp.Or(h.endReason, HubClosed)) // Close may not have come to c yet
		return false
	}
	h.takenOver.Add(1)
	return true
}

// firstStep writes one batch. A goroutine writes the rest, if there is one. Only takeOver
// calls it, with the turn of c ([Conn.turn]), which firstStep gives up.
func (c *Conn) firstStep(b *batch) {
	switch c.step(b) {
	case stepBlocked, stepMore:
		c.hub.writers.Go(c.writeBlocking)
	case stepIdle:
		// The sweeper releases the turn, because it also sets the alarm.
		c.sweeper.requeue(c)
	}
}

// writeBlocking writes while the socket is full or there is more than one batch, and then
// gives c back to its sweeper or closes it. It blocks, so it runs on a goroutine of its
// own; only at the end of the hub takeOver calls it directly. It holds a batch only while
// it does not wait for the client. The caller has the turn of c ([Conn.turn]) and gives it
// up. The caller must not hold a lock.
func (c *Conn) writeBlocking() {
	var pacer pacer
	defer pacer.end()
	defer c.expireOnTime()()
	for {
		for len(c.socket.unsent) > 0 {
			pacer.end() // a client that is waited for takes no CPU from other replays
			n, err := c.socket.writePiece(c.settings.Timeout)
			c.countBytes(n)
			if err != nil {
				c.closeSocket(c.hub.finish(c, reasonForError(err)))
				c.removeAlarm()
				return
			}
			c.expire(time.Now()) // if c ends, closeGrace bounds the rest of the write
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

// removeAlarm makes the sweeper forget the alarm of a connection that has ended. The caller
// has the turn of c ([Conn.turn]) and gives it up. It must not be called on the goroutine
// of the sweeper, which calls wheel.remove.
func (c *Conn) removeAlarm() {
	if c.sweeper != nil {
		c.sweeper.requeue(c)
	}
}

// stepResult is the result of Conn.step.
type stepResult uint8

const (
	stepIdle    stepResult = iota // everything is written
	stepMore                      // there is another batch
	stepBlocked                   // the socket is full
	stepClosed                    // the stream has ended, and the socket is closed
)

// step writes without blocking: first what is unsent, or else one batch of what is between
// the cursor and the head, and what else is due. After stepBlocked, writeBlocking must go
// on. After stepClosed the socket is closed, and step must not be called again. b is
// scratch. The caller has the turn of c ([Conn.turn]). The caller must not hold Hub.mu.
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
	c.unpinUnsent()
	if s.isFinal {
		return c.closeFinal()
	}
	l := c.compose(time.Now(), b)
	if l.mustClose() {
		return c.closeSocket(l.reason)
	}
	if !b.hasBlocks() && !b.final {
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
		return c.closeFinal()
	}
	return c.resultOf(l)
}

// resultOf returns the result of a step that has written everything that its look-up l
// found.
func (c *Conn) resultOf(l lookup) stepResult {
	if l.more {
		return stepMore
	}
	return stepIdle
}

// advance accounts for a write of n bytes of p, the chunks of b. Its events are p[from:to].
// The rest of the block that the write has begun becomes unsent: an event is referred to,
// and is pinned ([pinned]); a control block is copied. What comes after that block is
// looked up again. The caller has the turn of c ([Conn.turn]). The caller must not hold
// Hub.mu.
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
				c.pinUnsent(it)
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

// reasonForError returns why a connection ends whose write has failed: [Timeout] or [Gone].
// The kernel may report a timeout too, when the client acknowledges nothing.
func reasonForError(err error) Reason {
	if timeout, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](err); ok && timeout.Timeout() {
		return Timeout
	}
	return Gone
}

// closeFinal closes the socket after its last block. If c is a poll that has its answer, it
// has not ended yet, and ends here with the reason [Polled]. The result is stepClosed. It
// must be called once. The caller has the turn of c ([Conn.turn]). The caller must not hold
// Hub.mu.
func (c *Conn) closeFinal() stepResult { return c.closeSocket(c.hub.finish(c, Polled)) }

// closeSocket closes the socket and reports the end of c. Nobody writes to c any more. c
// has ended for this reason. The result is stepClosed. It must be called once. The caller
// has the turn of c ([Conn.turn]). The caller must not hold Hub.mu.
func (c *Conn) closeSocket(reason Reason) stepResult {
	c.setAborter(nil)
	if c.socket.midEvent {
		c.cursor.Add(^uint64(0)) // minus 1: the client has only a part of that event
	}
	c.unpinUnsent()
	c.hub.departures.forget(c)
	c.socket.close()
	c.socket = nil
	c.reportClosed(reason)
	if c.sweeper != nil { // otherwise keepLocked did not count it
		c.hub.takenOver.Done()
	}
	return stepClosed
}
