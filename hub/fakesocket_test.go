package hub

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httputil"
	"strings"
	"sync"
	"testing"
	"time"
)

// dechunk reads chunks [RFC 9112 7.1] with the reader of the standard library. The
// last one may be cut off; nothing but the end follows the final one.
func dechunk(p []byte) string {
	r := bytes.NewReader(p)
	b := bufio.NewReader(r)
	body, err := io.ReadAll(httputil.NewChunkedReader(b))
	rest, _ := io.ReadAll(b)
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
	case err != nil:
		panic(fmt.Sprintf("chunks: %v: %q", err, p))
	case len(p) > 0 && !strings.HasPrefix("\r\n", string(rest)):
		panic(fmt.Sprintf("after the final chunk: %q", rest))
	}
	return string(body)
}

// final reports whether the stream has a final chunk.
func final(p []byte) bool { return bytes.HasSuffix(p, []byte("\r\n0\r\n\r\n")) }

// far is the server's end of a wire. It takes what the wire takes: without a
// deadline as a socket that does not wait, with one as one that does.
type fakeSocket struct {
	*testSink
	ctx   context.Context // ends when the client leaves
	ended chan struct{}

	mu       sync.Mutex
	blocking bool
	times    []time.Time // of writes
	maxWrite func() int  // of a write that does not wait; nil: any number
}

func (f *fakeSocket) Read([]byte) (int, error) {
	select {
	case <-f.ctx.Done():
	case <-f.ended:
	}
	return 0, io.EOF
}

func (f *fakeSocket) Write(p []byte) (n int, err error) {
	f.mu.Lock()
	waits := f.blocking
	f.mu.Unlock()
	f.testSink.mu.Lock()
	stalled := f.stalled != nil
	f.testSink.mu.Unlock()
	if !waits {
		if stalled {
			return 0, nil
		}
		if f.maxWrite != nil {
			p = p[:min(len(p), f.maxWrite())]
		}
		if len(p) == 0 {
			return 0, nil
		}
	}
	n, err = f.testSink.Write(p)
	_ = f.Flush()
	f.mu.Lock()
	f.times = append(f.times, time.Now())
	f.mu.Unlock()
	return n, err
}

func (f *fakeSocket) SetWriteDeadline(t time.Time) error {
	if t.Unix() == 1 {
		f.Abort()
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.blocking = !t.IsZero()
	return nil
}

func (f *fakeSocket) LocalAddr() net.Addr             { return nil }
func (f *fakeSocket) RemoteAddr() net.Addr            { return nil }
func (f *fakeSocket) SetDeadline(time.Time) error     { return nil }
func (f *fakeSocket) SetReadDeadline(time.Time) error { return nil }
func (f *fakeSocket) Close() error                    { return nil }

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
func (v *servedConn) takeOver(ctx context.Context, w way) {
	v.endOnClosed()
	v.chunked = true
	tcp := new(net.TCPConn)
	if w == tried {
		tcp = idleTCP()
	}
	v.socket = &fakeSocket{testSink: v.testSink, ctx: ctx, ended: v.ended}
	v.TakeOver(v.socket, tcp)
}

// takeOverWhole takes c over, sends it what there is, and leaves the farewell out.
func takeOverWhole(t testing.TB, c Pending, w *testSink, kind way) string {
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

// untilClosed is a context that ends with the channel.
func untilClosed(gone chan struct{}) context.Context { return endedBy{context.Background(), gone} }

type endedBy struct {
	context.Context
	gone chan struct{}
}

func (e endedBy) Done() <-chan struct{} { return e.gone }
