package hub

import (
	"context"
	"io"
	"net"
	"sync"
	"time"
)

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

func (f *fakeSocket) LocalAddr() net.Addr { return nil }

func (f *fakeSocket) RemoteAddr() net.Addr { return nil }

func (f *fakeSocket) SetDeadline(time.Time) error { return nil }

func (f *fakeSocket) SetReadDeadline(time.Time) error { return nil }

func (f *fakeSocket) Close() error { return nil }

// untilClosed is a context that ends with the channel.
func untilClosed(gone chan struct{}) context.Context { return endedBy{context.Background(), gone} }

type endedBy struct {
	context.Context
	gone chan struct{}
}

func (e endedBy) Done() <-chan struct{} { return e.gone }
