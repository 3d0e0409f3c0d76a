package hub

import (
	"bytes"
	"errors"
	"os"
	"sync"
	"time"
)

// A wire is a Sink and what came out at the client's end.
type testSink struct {
	breakAt int           // bytes after which the connection breaks; 0: it never does
	timeout time.Duration // as Settings.Timeout; 0: a minute
	aborted chan struct{}

	mu            sync.Mutex
	taken         []byte
	last          *byte // where the bytes of the last Write began
	writes        int
	aborts        int
	ignoredAborts int           // as many cuts come too early for the write that they are for
	flushed       int           // how much of got has been flushed
	chunked       bool          // got is chunks
	stalled       chan struct{} // not nil: the client takes nothing until it is closed
}

var errBroken = errors.New("connection reset by peer")

func newTestSink() *testSink { return &testSink{aborted: make(chan struct{}), timeout: time.Minute} }

func (w *testSink) Write(p []byte) (int, error) {
	w.mu.Lock()
	stalled := w.stalled
	w.mu.Unlock()
	if stalled != nil {
		select {
		case <-stalled:
		case <-w.aborted:
			return 0, os.ErrDeadlineExceeded
		case <-time.After(w.timeout):
			return 0, os.ErrDeadlineExceeded
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.writes++
	w.last = &p[0]
	if w.chunked { // what is in the chunk
		w.last = &p[min(bytes.IndexByte(p, '\n')+1, len(p)-1)]
	}
	if w.breakAt > 0 && len(w.taken)+len(p) > w.breakAt {
		n := w.breakAt - len(w.taken)
		w.taken = append(w.taken, p[:n]...)
		return n, errBroken
	}
	w.taken = append(w.taken, p...)
	return len(p), nil
}

func (w *testSink) Flush() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.flushed = len(w.taken)
	return nil
}

// Abort ends the write that is under way, and no later one.
func (w *testSink) Abort() {
	w.mu.Lock()
	w.aborts++
	deaf := w.aborts <= w.ignoredAborts
	w.mu.Unlock()
	if deaf {
		return
	}
	select {
	case w.aborted <- struct{}{}:
	default:
	}
}

// stall makes the client take no bytes any more until the returned func is called.
func (w *testSink) stall() (resume func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	gate := make(chan struct{})
	w.stalled = gate
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.stalled = nil
		close(gate)
	}
}

// received is what the client has been sent and flushed so far.
func (w *testSink) received() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.body(w.taken[:w.flushed])
}

// all is every byte that was taken, flushed or not.
func (w *testSink) allBytes() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.body(w.taken)
}

func (w *testSink) body(p []byte) string {
	if w.chunked {
		return dechunk(p)
	}
	return string(p)
}
