package caddysse

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/quic-go/quic-go/http3"
	"go.uber.org/zap"

	"github.com/ea766355/caddy-sse/hub"
)

// sink is the [hub.Sink] of a stream that is written through the response.
type sink struct {
	stream         hub.Stream
	restoreTimeout func() // restores the response's own timeout

	w           http.ResponseWriter
	guard       writeGuard
	writeFailed bool
	logger      *zap.Logger
	tcp         *net.TCPConn // the connection of a request over HTTP/2, nil if unknown

	mu         sync.Mutex               // guards the fields below
	ctrl       *http.ResponseController // nil after the handler has returned, when it must not be used
	acked      uint64                   // bytes that the client had acknowledged at the last look
	stillSince time.Time                // when acked last changed
}

// startStream sends the header, and hands the stream over to the hub if it can. Else
// it returns the sink that writes through w.
func (h *Handler) startStream(w http.ResponseWriter, r *http.Request, conn hub.Pending, req hub.Request, chain []any) (*sink, error) {
	started := false
	defer func() {
		if !started { // the response is refused, or another handler's code panicked
			conn.Cancel()
		}
	}()
	reports.opened(h.Hub, conn.Conn)
	h.app.handleLateStream(h.Hub)
	h.warnOfHTTP3(req.Protocol)
	setAckTimeout(r.Context(), h.settings.Timeout)
	takesConnection := chain != nil && r.ProtoMajor == 1
	if takesConnection {
		// After the take-over the server reads no other request from the connection.
		w.Header().Set("Connection", "close")
	}
	w.WriteHeader(http.StatusOK)
	if name := bufferingType(w); name != "" {
		return nil, h.answerCannotStream(w, r,
			fmt.Errorf("%s of a handler before sse buffers the response: keep that handler away from the path of sse", name))
	}
	var nc net.Conn
	var tcp *net.TCPConn
	if takesConnection {
		conn.Greet(w)
		nc, tcp = takeConnection(chain, r)
	}
	started = true
	if nc != nil {
		conn.TakeOver(nc, tcp)
		return nil, nil
	}
	s := h.openSink(w, r, conn)
	if s.detach(chain, r) {
		return nil, nil
	}
	return s, nil
}

// openSink begins a stream that the handler's goroutine writes through the response.
func (h *Handler) openSink(w http.ResponseWriter, r *http.Request, conn hub.Pending) *sink {
	if c, ok := r.Context().Value(connKey{}).(net.Conn); ok && r.ProtoMajor == 1 {
		if tcp := tcpOf(c); tcp != nil {
			_ = tcp.SetWriteBuffer(hub.SendBuffer) // if it fails, the kernel buffers more
		}
	}
	s := newSink(w, r, h.settings.Timeout)
	s.logger = h.logger
	s.stream = conn.Open(s)
	return s
}

// serve writes the stream until it ends.
func (s *sink) serve(ctx context.Context) {
	defer s.release()
	s.stream.Serve(ctx)
	s.abortIfFailed()
}

// detach takes the stream from an HTTP/3 server, after openSink. Then the hub writes to the stream,
// and no goroutine waits for it. It returns false if the stream must go on through the response.
func (s *sink) detach(chain []any, r *http.Request) bool {
	// The writers decide at the first write whether they compress the response.
	if len(chain) == 0 || s.writeFailed || s.w.Header().Get("Content-Encoding") != "" {
		return false
	}
	innermost, ok := chain[len(chain)-1].(http3.HTTPStreamer)
	if !ok {
		return false
	}
	s.release()
	dropIdleTimeouts(r)
	taken := takeQUICStream(innermost, s.guard.timeout)
	s.stream.ServeDetached(taken.stream.Context(), taken, taken.close)
	return true
}

// abortIfFailed aborts the response if a write has failed, and does not return then.
func (s *sink) abortIfFailed() {
	if s.writeFailed {
		if w, ok := innermostWriter(s.w).(http3.HTTPStreamer); ok {
			stream := takeQUICStream(w, 0)
			stream.failed = true
			stream.close(hub.Gone)
		}
		// A normal return would mark the response as complete. Over HTTP/3 the stream is reset
		// already.
		panic(http.ErrAbortHandler)
	}
}

// maxChunk is how many bytes a client must read within its timeout. Otherwise it is
// dropped.
const maxChunk = 16 << 10

// noDeadline replaces the controller of Caddy's writer for idle timeouts. That writer sets
// and clears a deadline for each write and each flush. Over HTTP/2 each change of a
// deadline is a message to the connection's goroutine, and a new timer.
var noDeadline = http.NewResponseController(withoutDeadline{})

type withoutDeadline struct{ http.ResponseWriter }

func (withoutDeadline) SetReadDeadline(time.Time) error  { return nil }
func (withoutDeadline) SetWriteDeadline(time.Time) error { return nil }

// newSink puts each write under the given timeout, with one timer of its own in place of
// Caddy's writer for idle timeouts. The server's limit on the time of a whole response is
// removed, because a stream has no such limit.
func newSink(w http.ResponseWriter, r *http.Request, timeout time.Duration) *sink {
	_, idle := caddyhttp.IdleTimeoutsFromContext(r.Context())
	s := &sink{w: w, restoreTimeout: func() {}, ctrl: http.NewResponseController(w)}
	if c, ok := r.Context().Value(connKey{}).(net.Conn); ok && r.ProtoMajor == 2 {
		s.tcp = tcpOf(c)
	}
	if idle != nil {
		idle.Deadline.HardDeadline = time.Time{}
		restore := idle.Override(timeout, 0, maxChunk)
		s.ctrl, idle.Ctrl = idle.Ctrl, noDeadline
		ctrl := s.ctrl
		s.restoreTimeout = func() {
			// After a write has failed, the stream is closed and nothing more is written. Over
			// HTTP/2 a deadline would keep the closed stream in memory until then.
			if !s.writeFailed {
				idle.Ctrl = ctrl
			}
			restore()
			idle.Ctrl = ctrl
		}
	}
	s.guard.init(timeout, s.Abort)
	// A writer without deadlines returns an error, and has none to clear.
	_ = s.ctrl.SetWriteDeadline(time.Time{})
	return s
}

// release must be called before the handler returns.
func (s *sink) release() {
	s.guard.timer.Stop()
	s.mu.Lock()
	s.ctrl = nil
	s.mu.Unlock()
	s.restoreTimeout()
}

func (s *sink) Write(p []byte) (n int, err error) {
	defer s.guard.end()
	for n < len(p) && err == nil {
		s.guard.begin()
		var took int
		took, err = s.w.Write(p[n:min(len(p), n+maxChunk)])
		n += took
	}
	s.writeFailed = s.writeFailed || err != nil
	return n, err
}

func (s *sink) Flush() error {
	s.guard.begin()
	err := http.NewResponseController(s.w).Flush()
	s.guard.end()
	if errors.Is(err, http.ErrNotSupported) { // a writer has the method and does not support it
		s.logger.Error("cannot stream", zap.Error(errCannotFlush(fmt.Sprintf("%T", s.w))))
	}
	s.writeFailed = s.writeFailed || err != nil
	return err
}

// Abort resets the stream. Other streams on the same connection are not affected.
func (s *sink) Abort() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctrl == nil {
		return
	}
	// This fails where a writer has no deadlines. Nothing can abort a write there.
	_ = s.ctrl.SetWriteDeadline(time.Unix(1, 0))
	if s.tcp != nil && serversShuttingDown.Load() && s.isStuck(time.Now()) {
		_ = s.tcp.Close()
	}
}

// stuckAfter is how long a client may acknowledge nothing while the server shuts down.
const stuckAfter = time.Second

// isStuck reports whether the client acknowledges nothing on the connection, so that not
// even a reset can be written. Then all of its streams are stuck. mu is held.
func (s *sink) isStuck(now time.Time) bool {
	if acked := acknowledged(s.tcp); s.stillSince.IsZero() || acked != s.acked {
		s.acked, s.stillSince = acked, now
	}
	return now.Sub(s.stillSince) >= stuckAfter
}
