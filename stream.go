package caddysse

import (
	"net/http"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/ea766355/caddy-sse/hub"
)

// sink is a response as the hub sees it.
type sink struct {
	w http.ResponseWriter

	mu   sync.Mutex // guards ctrl, which must not be used after the handler has returned
	ctrl *http.ResponseController
}

// maxChunk is how much a client must take within its timeout not to be dropped.
const maxChunk = 16 << 10

// newSink lets Caddy's writer for idle timeouts watch over each write, with our
// timeout in place of the server's: the one next to the connection wins. The
// server's limit on the time of a whole response is lifted, as a stream has no
// such time. done must be called before the handler returns.
func newSink(w http.ResponseWriter, r *http.Request, timeout time.Duration) (s *sink, done func()) {
	_, idle := caddyhttp.IdleTimeoutsFromContext(r.Context())
	s = &sink{w: w}
	restore := func() {}
	if idle != nil {
		idle.Deadline.HardDeadline = time.Time{}
		restore = idle.Override(timeout, 0, maxChunk)
	} else {
		idle = &caddyhttp.IdleTimeoutWriter{
			ResponseWriterWrapper: &caddyhttp.ResponseWriterWrapper{ResponseWriter: w},
			Ctrl:                  http.NewResponseController(w),
			Deadline:              caddyhttp.IdleDeadline{Timeout: timeout},
			MaxChunk:              maxChunk,
			Logger:                zap.NewNop(),
			ClearBetweenWrites:    r.ProtoMajor == 2,
		}
		s.w = idle
	}
	s.ctrl = idle.Ctrl
	// Not every writer has deadlines to clear; those that have none need nothing.
	_ = s.ctrl.SetWriteDeadline(time.Time{})
	return s, func() {
		s.mu.Lock()
		s.ctrl = nil
		s.mu.Unlock()
		restore()
	}
}

func (s *sink) Write(p []byte) (int, error) { return s.w.Write(p) }

func (s *sink) Flush() error { return http.NewResponseController(s.w).Flush() }

func (s *sink) Cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctrl != nil {
		// If it fails, the write has its own timeout still.
		_ = s.ctrl.SetWriteDeadline(time.Unix(1, 0))
	}
}

// opened and closed report through the newest config: a stream outlives the one
// that opened it.
func opened(hubName string, conn *hub.Conn) {
	if a := running.Load(); a != nil {
		a.report("stream opened", "sse_connected", hubName, conn)
	}
}

func closed(hubName string) func(*hub.Conn, hub.Reason) {
	return func(conn *hub.Conn, reason hub.Reason) {
		a := running.Load()
		if a == nil {
			return
		}
		events, bytes := conn.Sent()
		a.report("stream closed", "sse_disconnected", hubName, conn,
			zap.String("reason", string(reason)),
			zap.Duration("duration", time.Since(conn.Info().Since)),
			zap.Uint64("events", events),
			zap.Uint64("bytes", bytes),
		)
	}
}
