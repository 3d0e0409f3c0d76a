package caddysse

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"runtime/debug"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/ea766355/caddy-sse/hub"
)

// sink is a response as the hub sees it.
type sink struct {
	stream  hub.Stream
	restore func() // gives the response its own timeout back

	w      http.ResponseWriter
	guard  *time.Timer // cuts a write off of which the client takes nothing
	limit  time.Duration
	broken bool // a write has failed
	logger *zap.Logger
	tcp    *net.TCPConn // that the request came by, if it came by HTTP/2 and it is known

	mu    sync.Mutex               // guards what follows
	ctrl  *http.ResponseController // nil when the handler has returned: it must not be used then
	acked uint64                   // by the client, when that was last looked at
	still time.Time                // since when it is the same
}

// aside runs f on a goroutine of its own and waits for it, since a goroutine that
// stays keeps as large a stack as it ever needed. A panic of f is the caller's.
func aside(f func()) {
	failed := make(chan any)
	go func() {
		defer func() {
			failure := recover()
			if failure != nil && failure != http.ErrAbortHandler {
				failure = fmt.Sprintf("%v\n\n%s", failure, debug.Stack())
			}
			failed <- failure
		}()
		f()
	}()
	if failure := <-failed; failure != nil {
		panic(failure)
	}
}

// begin begins a stream on the normal path, where the handler's goroutine is the
// writer.
func (h *Handler) begin(w http.ResponseWriter, r *http.Request, conn hub.Pending) *sink {
	s := newSink(w, r, h.settings.Timeout)
	s.logger = h.logger
	s.stream = conn.Open(s)
	return s
}

// serve goes on with the stream until it ends.
func (s *sink) serve(ctx context.Context) {
	defer s.release()
	s.stream.Serve(ctx)
	s.abort()
}

// abort does not return if a write has failed.
func (s *sink) abort() {
	if s.broken {
		if serversEnd.Load() {
			if stream := quicStreamOf(s.w); stream != nil {
				stream.abandon()
			}
		}
		// To return would end the response as if it were complete; and over HTTP/3
		// that end would wait, behind what the client does not take.
		panic(http.ErrAbortHandler)
	}
}

// maxChunk is how much a client must take within its timeout not to be dropped.
const maxChunk = 16 << 10

// noDeadline takes the place of the controller by which Caddy's writer for idle timeouts
// sets and clears a deadline for each write and each flush. Over HTTP/2 every change of
// a deadline is a message to the connection's goroutine, and a new timer.
var noDeadline = http.NewResponseController(undated{})

type undated struct{ http.ResponseWriter }

func (undated) SetWriteDeadline(time.Time) error { return nil }

// newSink puts a guard of our own over each write, in place of Caddy's writer for idle
// timeouts. The server's limit on the time of a whole response is lifted, as a stream
// has no such time.
func newSink(w http.ResponseWriter, r *http.Request, timeout time.Duration) *sink {
	_, idle := caddyhttp.IdleTimeoutsFromContext(r.Context())
	s := &sink{w: w, limit: timeout, restore: func() {}, ctrl: http.NewResponseController(w)}
	if c, ok := r.Context().Value(connKey{}).(net.Conn); ok && r.ProtoMajor == 2 {
		s.tcp = tcpOf(c)
	}
	if idle != nil {
		idle.Deadline.HardDeadline = time.Time{}
		restore := idle.Override(timeout, 0, maxChunk)
		s.ctrl, idle.Ctrl = idle.Ctrl, noDeadline
		ctrl := s.ctrl
		s.restore = func() {
			idle.Ctrl = ctrl
			restore()
		}
	}
	s.guard = time.AfterFunc(math.MaxInt64, s.Abort)
	// Not every writer has deadlines to clear; those that have none need nothing.
	_ = s.ctrl.SetWriteDeadline(time.Time{})
	return s
}

// release is called before the handler returns.
func (s *sink) release() {
	s.guard.Stop()
	s.mu.Lock()
	s.ctrl = nil
	s.mu.Unlock()
	s.restore()
}

func (s *sink) Write(p []byte) (n int, err error) {
	defer s.guard.Stop()
	for n < len(p) && err == nil {
		s.guard.Reset(s.limit)
		var took int
		took, err = s.w.Write(p[n:min(len(p), n+maxChunk)])
		n += took
	}
	s.broken = s.broken || err != nil
	return n, err
}

func (s *sink) Flush() error {
	s.guard.Reset(s.limit)
	err := http.NewResponseController(s.w).Flush()
	s.guard.Stop()
	if errors.Is(err, http.ErrNotSupported) { // hidden by a writer that seemed to
		s.logger.Error("a handler before sse has a response writer that cannot flush: keep it away from the path of sse",
			zap.String("writer", fmt.Sprintf("%T", s.w)), zap.Error(err))
	}
	s.broken = s.broken || err != nil
	return err
}

// Abort resets the stream, and leaves others of its connection alone.
func (s *sink) Abort() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctrl == nil {
		return
	}
	// It fails where a writer has no deadlines: nothing can cut off its writes.
	_ = s.ctrl.SetWriteDeadline(time.Unix(1, 0))
	if s.tcp != nil && serversEnd.Load() && s.stuck(time.Now()) {
		_ = s.tcp.Close()
	}
}

// stuckAfter is how long a connection may take nothing at all, when the server ends.
const stuckAfter = time.Second

// stuck tells whether the client takes nothing of the connection, so that not even a
// reset can be written. All of its streams stand still then. mu is held.
func (s *sink) stuck(now time.Time) bool {
	if acked := acknowledged(s.tcp); s.still.IsZero() || acked != s.acked {
		s.acked, s.still = acked, now
	}
	return now.Sub(s.still) >= stuckAfter
}
