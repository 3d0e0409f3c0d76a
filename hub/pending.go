package hub

import (
	"context"
	"io"
	"net"
	"time"
)

// Pending is a connection that [Hub.Connect] has admitted and that nobody serves
// yet. The hub holds its place and its cursor. Exactly one of [Pending.Open],
// [Pending.TakeOver] and [Pending.Cancel] must be called, once. The methods of
// [Conn] may be called before and after that, by any goroutine.
type Pending struct{ *Conn }

// Open begins the stream to w on the calling goroutine. It writes everything that is due by
// now, and returns the stream. The caller must then call [Stream.Serve] or
// [Stream.ServeDetached], on any goroutine. Until the stream has ended, nobody else may write to w.
//
// Open and Serve are two calls because a goroutine keeps the largest stack that it ever
// needed: Open may run in [Hub.OnLargeStack], and Serve needs a smaller stack.
func (p Pending) Open(w Sink) Stream { return Stream{p.Conn, p.open(w)} }

// TakeOver makes the hub write to a connection that the HTTP server has given up after it
// sent the header of a chunked HTTP/1.1 response, and returns. The hub writes to conn. tcp
// is the TCP connection below conn, or conn itself. From now on the hub owns both and
// closes them: the caller must not use them. No goroutine waits for them while the client
// keeps up.
func (p Pending) TakeOver(conn net.Conn, tcp *net.TCPConn) { p.takeOver(newSocket(conn, tcp)) }

// Cancel ends the connection with the reason [Gone]. It is for a caller that can call
// neither Open nor TakeOver, because the response has failed. It must not be called after
// one of them.
func (p Pending) Cancel() { p.reportClosed(p.hub.finish(p.Conn, Gone)) }

// Greet writes the first block, sse.connected, to w, if the block is already known, so that
// it goes out with the header of the response. It may be called once, before Open or
// TakeOver, which write the block if Greet did not. Greet does not report an error of w:
// the next write fails, too.
func (p Pending) Greet(w io.Writer) {
	position, ok := p.greeting()
	if !ok {
		return
	}
	n, err := w.Write(p.appendOpening(nil, noGap, position))
	p.countBytes(n)
	if err == nil { // otherwise the next write fails, too
		p.written = time.Now()
	}
}

// greeting returns the position in the first block, and whether it is known: false means
// that the block depends on the first look-up. The caller has called Connect, and not yet
// Open or TakeOver. The caller must not hold Hub.mu.
func (c *Conn) greeting() (Position, bool) {
	h := c.hub
	h.mu.RLock()
	defer h.mu.RUnlock()
	if c.gap != noGap || c.stateEnd > 0 || c.reason != "" || c.cursorHistory != h.history {
		return Position{}, false
	}
	return c.firstPosition(lookup{from: c.startCursor, fromTag: c.cursorHistory.position(c.startCursor).Tag}, nil), true
}

// Stream is a stream that [Pending.Open] has begun. [Stream.Serve] or [Stream.ServeDetached] must
// be called on it, once.
type Stream struct {
	conn  *Conn
	ended Reason // not empty: the stream ended while it was opened
}

// Serve continues the stream on the calling goroutine until the stream ends. When ctx ends,
// the client is gone. It returns why the connection has ended. Then nothing writes to the
// sink any more. It must be called once.
func (s Stream) Serve(ctx context.Context) Reason {
	if s.ended != "" {
		return s.ended
	}
	return s.conn.serve(ctx)
}

// ServeDetached continues the stream without a goroutine of its own, and returns. The hub writes to
// w from now on, and not to the sink of [Pending.Open]. When ctx ends, the client is gone. When the
// stream ends, the hub calls ended, once, with the reason; nothing writes to w any more then. It may
// call ended before ServeDetached returns, on the calling goroutine. Otherwise [Hub.Close] waits for
// ended. A panic of w ends the process.
func (s Stream) ServeDetached(ctx context.Context, w Sink, ended func(Reason)) {
	if s.ended != "" {
		ended(s.ended)
		return
	}
	s.conn.serveDetached(ctx, w, ended)
}
