package hub

import (
	"context"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
)

// servedConn is a connection that is served.
type servedConn struct {
	Pending
	*testSink
	socket *fakeSocket // nil: the hub does not write to a socket
	cancel context.CancelFunc
	ended  chan struct{}
	reason Reason // valid once ended is closed
}

// open connects and serves until goAway is called or the test ends.
func open(t testing.TB, h *Hub, r Request) *servedConn {
	t.Helper()
	c, err := h.Connect(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return serve(t, c, newTestSink())
}

// stream serves a whole stream to w.
func (p Pending) stream(ctx context.Context, w Sink) Reason { return p.Open(w).Serve(ctx) }

// serve serves c until goAway is called or the test ends.
func serve(t testing.TB, c Pending, w *testSink) *servedConn {
	ctx, cancel := context.WithCancel(context.Background())
	w.timeout = c.settings.Timeout
	v := &servedConn{Pending: c, testSink: w, cancel: cancel, ended: make(chan struct{})}
	if kind := writerKindOf(t); kind != byGoroutine {
		v.takeOver(ctx, kind)
		t.Cleanup(func() { v.goAway() })
		return v
	}
	go func() {
		defer close(v.ended)
		v.reason = c.stream(ctx, w)
	}()
	t.Cleanup(func() { v.goAway() })
	return v
}

// goAway ends the connection like a client that leaves, and returns the reason.
func (v *servedConn) goAway() Reason {
	v.cancel()
	return v.wait()
}

// endReason returns why the connection has ended. The test fails if it has not.
func (v *servedConn) endReason(t testing.TB) Reason {
	t.Helper()
	synctest.Wait()
	select {
	case <-v.ended:
	default:
		t.Fatal("the stream: got still open, want ended")
	}
	return v.reason
}

// wait waits for the end and returns its reason.
func (v *servedConn) wait() Reason {
	<-v.ended
	return v.reason
}

// client returns a new client that has read the stream so far.
func (v *servedConn) client(t testing.TB) *client {
	t.Helper()
	return (&client{t: t}).read(v.received())
}

// endOnClosed closes v.ended when the hub reports that the connection has ended.
func (v *servedConn) endOnClosed() {
	settings := *v.settings
	settings.Closed = func(_ *Conn, reason Reason) {
		v.reason = reason
		close(v.ended)
	}
	v.settings = &settings
}

// takeOver lets the hub take over a fake socket, or the sink.
func (v *servedConn) takeOver(ctx context.Context, w writerKind) {
	if w == byPool {
		go func() {
			v.Open(v.testSink).ServeDetached(ctx, v.testSink, func(reason Reason) {
				v.reason = reason
				close(v.ended)
			})
		}()
		return
	}
	v.endOnClosed()
	v.chunked = true
	tcp := new(net.TCPConn)
	if w == bySweeper {
		tcp = idleTCP()
	}
	v.socket = &fakeSocket{testSink: v.testSink, ctx: ctx, ended: v.ended}
	v.TakeOver(v.socket, tcp)
}

// awaitPending waits until the stream was sent what is pending up to the head, or has ended. After its
// end only closeGrace would be left for that, which may be too short on a busy machine.
func (v *servedConn) awaitPending(t testing.TB, head uint64) {
	t.Helper()
	eventually(t, "the stream has what is pending", func() bool {
		select {
		case <-v.ended:
			return true
		default:
		}
		_, sent := v.Sent()
		return sent > 0 && v.cursor.Load() >= head
	})
}

// takeOverWhole lets the hub take c over, reads what is pending, and leaves out sse.closing.
func takeOverWhole(t testing.TB, c Pending, w *testSink, kind writerKind) string {
	t.Helper()
	v := &servedConn{Pending: c, testSink: w, ended: make(chan struct{})}
	if (kind == overTCP || kind == overTLS) && !inBubble() {
		v.endOnClosed()
		clientEnd, conn, tcp := connPair(t, kind)
		head := c.hub.Stats().Head.Seq
		var got []byte
		var err error
		var reading sync.WaitGroup
		reading.Go(func() { got, err = io.ReadAll(clientEnd) })
		v.TakeOver(conn, tcp)
		v.awaitPending(t, head)
		c.hub.finish(c.Conn, Disconnected)
		if reading.Wait(); err != nil {
			t.Error(err)
		}
		if err := clientEnd.Close(); err != nil {
			t.Error(err)
		}
		w.taken, w.chunked = got, true
		if w.breakAt > 0 {
			w.taken = got[:min(w.breakAt, len(got))]
		}
	} else {
		head := c.hub.Stats().Head.Seq
		v.takeOver(context.Background(), kind)
		if !inBubble() {
			v.awaitPending(t, head)
		}
		c.hub.finish(c.Conn, Disconnected)
	}
	<-v.ended
	all := w.allBytes()
	if i := strings.LastIndex(all, "retry: "); strings.Contains(all[max(i, 0):], "event: sse.closing\ndata: {\"reason\":\"disconnected\"") && strings.HasSuffix(all, "\n\n") {
		return all[:i]
	}
	return all
}
