package hub

import (
	"errors"
	"io"
	"net"
	"os"
	"time"
)

// socket is a connection that was taken over from the HTTP server. It is used by
// whoever has the turn of its Conn, but for Cut.
type socket struct {
	conn  net.Conn     // to write to: tcp itself, or TLS above it
	tcp   *net.TCPConn // the connection below
	fd    int          // of tcp, or -1 where try does not use it
	rest  []byte       // what is left of the last write
	stuck bool         // in an event: rest is a part of it
	last  bool         // the stream ends with rest
}

// Cut implements Cutter. Setting a deadline does not wait for a write, of TLS
// neither.
func (s *socket) Cut() { _ = s.conn.SetWriteDeadline(time.Unix(1, 0)) }

// piece is how much a client must take within its timeout not to be dropped.
const piece = 16 << 10

// drain writes a piece of the rest, and waits for the client to take it. An error
// says that it has gone or, if os.ErrDeadlineExceeded, that it took nothing for the
// timeout.
func (s *socket) drain(timeout time.Duration) (n int, err error) {
	deadline := time.Now().Add(timeout)
	if err := s.conn.SetWriteDeadline(deadline); err != nil {
		return 0, err
	}
	n, err = s.conn.Write(s.rest[:min(len(s.rest), piece)])
	s.rest = s.rest[n:]
	if n > 0 && errors.Is(err, os.ErrDeadlineExceeded) && s.conn == net.Conn(s.tcp) && !time.Now().Before(deadline) {
		err = nil // it did take something, and was not cut off
	}
	if err != nil {
		return n, err
	}
	return n, s.conn.SetWriteDeadline(time.Time{})
}

// Greet writes the first block to w, if it is known by now, so that it goes out with the
// header of the response. It may be called once, before Open or TakeOver, which write the
// block if Greet did not.
func (c *Conn) Greet(w io.Writer) {
	p, ok := c.greets()
	if !ok {
		return
	}
	n, err := w.Write(c.appendOpening(nil, noGap, p))
	c.count(n)
	if err == nil { // else the next write fails, too
		c.written = time.Now()
	}
}

// greets is the position that the first block tells, unless that depends on what is
// found after it.
func (c *Conn) greets() (Position, bool) {
	h := c.hub
	h.mu.RLock()
	defer h.mu.RUnlock()
	if c.gap != noGap || c.state > 0 || c.reason != "" || c.placed != h.history {
		return Position{}, false
	}
	return c.begins(look{from: c.start, begins: c.placed.position(c.start).Tag}, nil), true
}

// TakeOver makes c write to a connection that the HTTP server has given up after
// it sent the header of a response in chunks, and returns. conn is what to write
// to and tcp the connection below, which may be the same. From now on both are
// the hub's, and no goroutine waits for them.
func (c *Conn) TakeOver(conn net.Conn, tcp *net.TCPConn) { c.takeOver(newSocket(conn, tcp)) }

func (c *Conn) takeOver(s *socket) {
	h := c.hub
	c.socket = s
	h.lock()
	c.cutBy(s)
	closing := h.closing
	if !closing {
		h.taken.Add(1)
	}
	h.unlock()
	if closing { // and with it the sweepers, so that c says goodbye by itself
		c.drain()
		return
	}
	c.sweeper = h.anySweeper()
	c.queue = c.sweeper
	h.departures.watch(c)

	if !c.written.IsZero() && c.start == c.first {
		c.sweeper.requeue(c)
		return
	}
	// The first turn is taken here, beside the sweepers, since much may be replayed.
	b := batches.Get().(*batch)
	defer b.release()
	c.run(b)
}

// run uses the turn for one batch. What is left is for a goroutine.
func (c *Conn) run(b *batch) {
	switch c.step(b) {
	case full, more:
		c.hub.writers.Go(c.drain)
	case done:
		// The sweeper gives the turn back, because it keeps the alarms.
		c.sweeper.requeue(c)
	}
}

// drain has the turn while the socket is full, or there is more than one batch to
// write. It has a batch only while it does not wait.
func (c *Conn) drain() {
	var pacer pacer
	defer pacer.end()
	for {
		for len(c.socket.rest) > 0 {
			n, err := c.socket.drain(c.settings.Timeout)
			c.count(n)
			if err != nil {
				c.hang(c.hub.finish(c, reasonOf(err)))
				c.leaveSweeper()
				return
			}
			c.expire(time.Now()) // which cuts it off, if it does not come to the end soon
		}
		b := batches.Get().(*batch)
		began := time.Now()
		state := c.step(b)
		b.release()
		switch state {
		case full:
			continue
		case more:
			pacer.pause(c, time.Since(began))
			continue
		case done:
			c.sweeper.requeue(c)
		case ended:
			c.leaveSweeper()
		}
		return
	}
}

// leaveSweeper has the sweeper forget the alarm of a connection that has ended.
func (c *Conn) leaveSweeper() {
	if c.sweeper != nil {
		c.sweeper.requeue(c)
	}
}

// What a step came to.
type stepped uint8

const (
	done  stepped = iota // nothing is left
	more                 // there is another batch
	full                 // the socket takes no more
	ended                // the stream has ended, and the socket is closed
)

// step writes, without waiting, what is left of the last batch, or one batch of
// what is between the cursor and the head, and whatever else is due.
func (c *Conn) step(b *batch) stepped {
	s := c.socket
	if len(s.rest) > 0 {
		n, err := s.try(s.rest)
		c.count(n)
		s.rest = s.rest[n:]
		if err != nil {
			return c.hang(c.hub.finish(c, reasonOf(err)))
		}
		if len(s.rest) > 0 {
			return full
		}
	}
	s.rest = nil
	c.unstick()
	if s.last {
		return c.hang(c.reasonNow())
	}
	l := c.compose(time.Now(), b)
	if l.closes() {
		return c.hang(l.reason)
	}
	if !b.pending() {
		c.cursor.Store(l.cursor)
		return c.next(l)
	}
	p, from, to := b.wire()
	n, err := s.try(p)
	c.count(n)
	if err != nil {
		return c.hang(c.hub.finish(c, reasonOf(err)))
	}
	c.advance(b, l, p, n, from, to)
	switch {
	case len(s.rest) > 0:
		return full
	case s.last:
		return c.hang(c.reasonNow())
	}
	return c.next(l)
}

func (c *Conn) next(l look) stepped {
	if l.more {
		return more
	}
	return done
}

// advance moves the cursor over n bytes of p. What was begun is finished first:
// an event, which stays where it is, or a control block, of which there is a copy.
func (c *Conn) advance(b *batch, l look, p []byte, n, from, to int) {
	s := c.socket
	switch {
	case n < from:
		s.rest = append([]byte(nil), p[n:from]...)
		c.wrote(b, l, 0, false)
	case n < to:
		at := from
		for i, it := range b.items {
			size := len(it.frame.bytes)
			if n < at+size {
				s.rest = it.frame.bytes[n-at:]
				c.wrote(b, l, i+1, false)
				c.stick(it)
				return
			}
			at += size
		}
	default:
		if n < len(p) {
			s.rest = append([]byte(nil), p[n:]...)
		}
		s.last = b.final
		c.wrote(b, l, len(b.items), true)
	}
}

// reasonOf is why a connection ends whose write has failed. The kernel, too, may
// have found that the client acknowledges nothing.
func reasonOf(err error) Reason {
	if timeout, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](err); ok && timeout.Timeout() {
		return Timeout
	}
	return Gone
}

// reasonNow is why c has ended.
func (c *Conn) reasonNow() Reason {
	c.hub.mu.RLock()
	defer c.hub.mu.RUnlock()
	return c.reason
}

// hang closes the socket. Nobody has the turn to write any more.
func (c *Conn) hang(reason Reason) stepped {
	c.setCutter(nil)
	if c.socket.stuck {
		c.cursor.Add(^uint64(0)) // the client has only a part of that event
	}
	c.unstick()
	c.hub.departures.forget(c)
	c.socket.close()
	c.socket = nil
	c.closed(reason)
	if c.sweeper != nil { // otherwise Close waits for nobody any more
		c.hub.taken.Done()
	}
	return ended
}
