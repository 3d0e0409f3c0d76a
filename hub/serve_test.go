package hub

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// Serve returns at once when its context ends, but never during a write: after Serve nothing
// writes to the sink.
func TestServeEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, writing := range []bool{false, true} {
			h := newHub(t, Options{})
			w := newTestSink()
			ctx, cancel := context.WithCancel(t.Context())
			opened := connect(t, h, requestOf("alice")).Open(w)
			ended := make(chan Reason, 1)
			go func() { ended <- opened.Serve(ctx) }()
			synctest.Wait()
			stalled := make(chan struct{})
			if writing {
				w.mu.Lock()
				w.stalled = stalled
				w.mu.Unlock()
				publish(t, h, "x")
				synctest.Wait()
			}
			cancel()
			synctest.Wait()
			if want(t, "Serve has returned", len(ended) == 1, !writing); writing {
				close(stalled)
				synctest.Wait()
			}
			want(t, "reason", <-ended, Gone)
			w.mu.Lock()
			writes := w.writes
			w.mu.Unlock()
			publish(t, h, "y")
			time.Sleep(time.Minute)
			want(t, "writes after Serve", w.writes-writes, 0)
			want(t, "closed", h.Stats().Closed["gone"], 1)
		}
	})
}
