package caddysse

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"runtime/debug"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/quic-go/quic-go/http3"
	"go.uber.org/zap"

	"github.com/ea766355/caddy-sse/hub"
)

// sink is a response as the hub sees it.
type sink struct {
	conn    *hub.Conn
	closed  func(*hub.Conn, hub.Reason)
	reason  hub.Reason // not empty: the stream has ended
	restore func()     // gives the response its own timeout back

	w      http.ResponseWriter
	broken bool          // a write has failed
	tcp    *net.TCPConn  // that the request came by, if it is known
	quic   *http3.Server // that the request came to, if it came by HTTP/3

	mu   sync.Mutex // guards ctrl, which must not be used after the handler has returned
	ctrl *http.ResponseController
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
func (h *Handler) begin(w http.ResponseWriter, r *http.Request, conn *hub.Conn) *sink {
	s := newSink(w, r, h.settings.Timeout)
	s.conn, s.closed = conn, h.settings.Closed
	s.reason = conn.Open(s)
	return s
}

// serve goes on with the stream until it ends.
func (s *sink) serve(ctx context.Context) {
	defer s.release()
	if s.reason == "" {
		s.reason = s.conn.Serve(ctx, s)
	}
	s.closed(s.conn, s.reason)
	if s.broken {
		// To return would end the response as if it were complete; and over HTTP/3
		// that end would wait, behind what the client does not take.
		panic(http.ErrAbortHandler)
	}
}

// maxChunk is how much a client must take within its timeout not to be dropped.
const maxChunk = 16 << 10

// newSink lets Caddy's writer for idle timeouts watch over each write, with our
// timeout in place of the server's: the one next to the connection wins. The
// server's limit on the time of a whole response is lifted, as a stream has no
// such time.
func newSink(w http.ResponseWriter, r *http.Request, timeout time.Duration) *sink {
	_, idle := caddyhttp.IdleTimeoutsFromContext(r.Context())
	s := &sink{w: w, restore: func() {}}
	s.quic, _ = r.Context().Value(http3.ServerContextKey).(*http3.Server)
	if c, ok := r.Context().Value(connKey{}).(net.Conn); ok {
		s.tcp = tcpOf(c)
	}
	if idle != nil {
		idle.Deadline.HardDeadline = time.Time{}
		s.restore = idle.Override(timeout, 0, maxChunk)
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
	return s
}

// release is called before the handler returns.
func (s *sink) release() {
	s.mu.Lock()
	s.ctrl = nil
	s.mu.Unlock()
	s.restore()
}

// disconnect ends more than the stream, when the process is about to end: Caddy
// waits for what a client does not take, or for the client to go. Every other
// stream of the connection has been told to come back, two seconds ago.
func (s *sink) disconnect() {
	if s.tcp != nil {
		_ = s.tcp.Close() // HTTP/2 cannot reset a stream of which a frame is stuck
	}
	if s.quic != nil {
		// Close waits for handlers, so this does not wait for it; the process ends.
		go s.quic.Close()
	}
}

func (s *sink) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	s.broken = s.broken || err != nil
	return n, err
}

func (s *sink) Flush() error {
	err := http.NewResponseController(s.w).Flush()
	s.broken = s.broken || err != nil
	return err
}

func (s *sink) Cut() {
	if caddy.Exiting() {
		s.disconnect()
	}
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
