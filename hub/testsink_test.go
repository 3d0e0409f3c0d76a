package hub

import (
	"bytes"
	"errors"
	"os"
	"sync"
	"time"
)

// testSink is a Sink that keeps what it was sent. Tests let it stall, break and abort.
type testSink struct {
	breakAt int           // the connection breaks after this many bytes; 0: never
	timeout time.Duration // the write deadline, like Settings.Timeout
	aborted chan struct{}

	mu            sync.Mutex
	taken         []byte
	last          *byte // address of the bytes of the last Write
	writes        int
	aborts        int
	ignoredAborts int           // number of aborts that come before the write that they are for
	flushed       int           // number of bytes of taken that are flushed
	chunked       bool          // taken is HTTP/1.1 chunks
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
	if w.chunked { // the address of the content of the chunk
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

// Abort ends the current write, but no later one.
func (w *testSink) Abort() {
	w.mu.Lock()
	w.aborts++
	ignored := w.aborts <= w.ignoredAborts
	w.mu.Unlock()
	if ignored {
		return
	}
	select {
	case w.aborted <- struct{}{}:
	default:
	}
}

// stall makes the client take nothing until resume is called.
func (w *testSink) stall() (resume func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	resumed := make(chan struct{})
	w.stalled = resumed
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.stalled = nil
		close(resumed)
	}
}

// received returns what was written and flushed.
func (w *testSink) received() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.body(w.taken[:w.flushed])
}

// allBytes returns what was written, flushed or not.
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
