package hub

import (
	"context"
	"io"
	"net"
	"sync"
	"time"
)

// fakeSocket is a socket that writes to a testSink. Without a deadline its writes do not
// block, like those of a sweeper. With a deadline they block, like those of a goroutine.
type fakeSocket struct {
	*testSink
	ctx   context.Context // ends when the client leaves
	ended chan struct{}

	mu       sync.Mutex
	blocking bool
	times    []time.Time // of all writes
	maxWrite func() int  // how many bytes a non-blocking write takes; nil: all
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

// untilClosed returns a context that ends when the channel is closed.
func untilClosed(closed chan struct{}) context.Context { return endedBy{context.Background(), closed} }

type endedBy struct {
	context.Context
	closed chan struct{}
}

func (e endedBy) Done() <-chan struct{} { return e.closed }
