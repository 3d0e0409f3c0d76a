package hub

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A stream ends at once when its context ends, but never during a write: after its end nothing
// writes to the sink.
func TestServeEndsWithItsContext(t *testing.T) {
	for name, serve := range map[string]func(s Stream, ctx context.Context, w Sink, ended func(Reason)){
		"Serve":         func(s Stream, ctx context.Context, _ Sink, ended func(Reason)) { ended(s.Serve(ctx)) },
		"ServeDetached": Stream.ServeDetached,
	} {
		for _, writing := range []bool{false, true} {
			t.Run(fmt.Sprint(name, " during a write: ", writing), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					h := newHub(t, Options{})
					w := newTestSink()
					ctx, cancel := context.WithCancel(t.Context())
					opened := connect(t, h, requestOf("alice")).Open(w)
					ended := make(chan Reason, 1)
					go serve(opened, ctx, w, func(reason Reason) { ended <- reason })
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
					if want(t, "the stream has ended", len(ended) == 1, !writing); writing {
						close(stalled)
						synctest.Wait()
					}
					want(t, "reason", <-ended, Gone)
					w.mu.Lock()
					writes := w.writes
					w.mu.Unlock()
					publish(t, h, "y")
					time.Sleep(time.Minute)
					want(t, "writes after the end", w.writes-writes, 0)
					want(t, "closed", h.Stats().Closed["gone"], 1)
				})
			})
		}
	}
}

// Close waits for detached streams. A stream that is detached after Close has begun ends before
// ServeDetached returns.
func TestCloseWaitsForDetachedStreams(t *testing.T) {
	for _, closes := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			h := newHub(t, Options{})
			w := newTestSink()
			opened := connect(t, h, requestOf("alice")).Open(w)
			var reason Reason
			detach := func() { opened.ServeDetached(t.Context(), w, func(r Reason) { reason = r }) }
			if closes {
				detach()
				_ = h.Close()
			} else {
				h.mu.Lock()
				h.isClosing = true
				h.mu.Unlock()
				detach()
			}
			want(t, "reason", reason, HubClosed)
			want(t, "the client is told", strings.Contains(w.received(), "event: sse.closing"), true)
		})
	}
}

// A detached stream is written to the sink that ServeDetached was given, and that is aborted.
func TestServeDetachedChangesTheSink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		first, second := newTestSink(), newTestSink()
		opened := connect(t, h, requestOf("alice")).Open(first)
		publish(t, h, "x")
		ended := make(chan Reason, 1)
		opened.ServeDetached(t.Context(), second, func(r Reason) { ended <- r })
		synctest.Wait()
		want(t, "the first sink has the event", strings.Contains(first.allBytes(), "data: x"), false)
		want(t, "the second sink has the event", strings.Contains(second.received(), "data: x"), true)
		second.stall()
		publish(t, h, "y")
		synctest.Wait()
		h.DisconnectHere(Filter{})
		want(t, "reason", <-ended, Disconnected)
		want(t, "aborts of the first sink", first.aborts, 0)
		want(t, "the second sink was aborted", second.aborts > 0, true)
	})
}
