package hub

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
)

// visit is a connection that is being served.
type servedConn struct {
	Pending
	*testSink
	socket *fakeSocket // of one that was taken over
	cancel context.CancelFunc
	ended  chan struct{}
	reason Reason // once ended is closed
}

// open connects and serves until the test ends or leave is called.
func open(t testing.TB, h *Hub, r Request) *servedConn {
	t.Helper()
	c, err := h.Connect(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return serve(t, c, newTestSink())
}

// stream is all of a stream to w.
func (p Pending) stream(ctx context.Context, w Sink) Reason { return p.Open(w).Serve(ctx) }

func serve(t testing.TB, c Pending, w *testSink) *servedConn {
	ctx, cancel := context.WithCancel(context.Background())
	w.timeout = c.settings.Timeout
	v := &servedConn{Pending: c, testSink: w, cancel: cancel, ended: make(chan struct{})}
	if way := writerKindOf(t); way != byGoroutine {
		v.takeOver(ctx, way)
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

// leave ends the visit as a client that goes away.
func (v *servedConn) goAway() Reason {
	v.cancel()
	return v.wait()
}

// ending is why the visit has ended, as it must have by now.
func (v *servedConn) endedBy(t testing.TB) Reason {
	t.Helper()
	synctest.Wait()
	select {
	case <-v.ended:
	default:
		t.Fatal("the stream goes on")
	}
	return v.reason
}

func (v *servedConn) wait() Reason {
	<-v.ended
	return v.reason
}

// client is a new one that has read the stream so far.
func (v *servedConn) client(t testing.TB) *client {
	t.Helper()
	return (&client{t: t}).read(v.received())
}

// reports makes v end when its connection does.
func (v *servedConn) endOnClosed() {
	settings := *v.settings
	settings.Closed = func(_ *Conn, reason Reason) {
		v.reason = reason
		close(v.ended)
	}
	v.settings = &settings
}

// takeOver serves v by a connection that was taken over.
func (v *servedConn) takeOver(ctx context.Context, w writerKind) {
	v.endOnClosed()
	v.chunked = true
	tcp := new(net.TCPConn)
	if w == bySweeper {
		tcp = idleTCP()
	}
	v.socket = &fakeSocket{testSink: v.testSink, ctx: ctx, ended: v.ended}
	v.TakeOver(v.socket, tcp)
}

// takeOverWhole takes c over, sends it what there is, and leaves the farewell out.
func takeOverWhole(t testing.TB, c Pending, w *testSink, kind writerKind) string {
	t.Helper()
	v := &servedConn{Pending: c, testSink: w, ended: make(chan struct{})}
	if (kind == overTCP || kind == overTLS) && !inBubble() {
		v.endOnClosed()
		near, conn, tcp := connPair(t, kind)
		v.TakeOver(conn, tcp)
		c.hub.finish(c.Conn, Disconnected)
		got, err := io.ReadAll(near)
		if err != nil {
			t.Error(err)
		}
		if err := near.Close(); err != nil {
			t.Error(err)
		}
		w.taken, w.chunked = got, true
		if w.breakAt > 0 {
			w.taken = got[:min(w.breakAt, len(got))]
		}
	} else {
		v.takeOver(context.Background(), kind)
		c.hub.finish(c.Conn, Disconnected)
	}
	<-v.ended
	all := w.allBytes()
	if i := strings.LastIndex(all, "retry: "); strings.Contains(all[max(i, 0):], "event: sse.closing\ndata: {\"reason\":\"disconnected\"") && strings.HasSuffix(all, "\n\n") {
		return all[:i]
	}
	return all
}
