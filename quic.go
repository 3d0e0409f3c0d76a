package caddysse

import (
	"reflect"
	"sync"
	"time"
	"unsafe"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/quic-go/quic-go/quicvarint"

	"github.com/ea766355/caddy-sse/hub"
)

// quicStream is a stream that was taken over from an HTTP/3 server. It is the [hub.Sink] of the
// stream.
//
// It keeps neither the [http3.Stream] nor the response writer: these keep the request in memory.
type quicStream struct {
	stream     *quic.Stream
	cancelRead func(quic.StreamErrorCode) // that of the server, which otherwise does not forget the stream
	server     reflect.Value              // the server's own state of the connection, which is private
	guard      writeGuard
	failed     bool // a write has failed
}

// takeQUICStream takes the stream from the server, after the response has begun: the handler may
// return. It does not block.
func takeQUICStream(w http3.HTTPStreamer, timeout time.Duration) *quicStream {
	stream := w.HTTPStream()
	s := &quicStream{stream: stream.QUICStream(), cancelRead: stream.CancelRead}
	if server := fieldOf(reflect.ValueOf(w), "conn"); server.IsValid() && server.Kind() == reflect.Pointer {
		s.server = reflect.NewAt(server.Type().Elem(), server.UnsafePointer()) // the field itself would keep w in memory
	}
	_ = s.stream.SetWriteDeadline(time.Time{}) // Caddy's writer for idle timeouts may have left its own
	s.guard.init(timeout, s.Abort)
	return s
}

// packetSize is about how many bytes of a stream fit into one packet.
const packetSize = 1200

// frames has the memory of frames that fit into one packet.
var frames = sync.Pool{New: func() any {
	frame := make([]byte, 0, packetSize)
	return &frame
}}

// Write sends p as DATA frames.
func (s *quicStream) Write(p []byte) (n int, err error) {
	defer s.guard.end()
	for n < len(p) && err == nil {
		s.guard.begin()
		var took int
		took, err = s.writeFrame(p[n:min(len(p), n+maxChunk)])
		n += took
	}
	s.failed = s.failed || err != nil
	return n, err
}

// writeFrame sends p as one DATA frame, and returns how many bytes of p it has sent. A small frame
// is one write; a large event is not copied. [RFC 9114 7.2.1]
func (s *quicStream) writeFrame(p []byte) (int, error) {
	const data = 0x0 // the type of the frame
	frame := frames.Get().(*[]byte)
	defer frames.Put(frame)
	b := quicvarint.Append(append((*frame)[:0], data), uint64(len(p)))
	header := len(b)
	if header+len(p) <= cap(b) {
		n, err := s.stream.Write(append(b, p...))
		return max(0, n-header), err
	}
	if _, err := s.stream.Write(b); err != nil {
		return 0, err
	}
	return s.stream.Write(p)
}

// Flush does nothing: a write is sent as soon as the client and the network allow it.
func (s *quicStream) Flush() error { return nil }

// Abort makes a write fail. Other streams on the same connection are not affected.
func (s *quicStream) Abort() { _ = s.stream.SetWriteDeadline(time.Unix(1, 0)) }

// close ends the stream. One that is not complete is reset. It must be called once, when nothing
// writes any more.
func (s *quicStream) close(hub.Reason) {
	s.guard.timer.Stop()
	switch {
	case !s.failed:
		s.cancelRead(quic.StreamErrorCode(http3.ErrCodeNoError))
		_ = s.stream.Close() // an error says that the client has left
	case serversShuttingDown.Load():
		s.resetAtExit()
	default:
		s.reset()
	}
}

// reset tells the client that the stream is not complete.
func (s *quicStream) reset() {
	const cancelled = quic.StreamErrorCode(http3.ErrCodeInternalError)
	s.cancelRead(cancelled)
	s.stream.CancelWrite(cancelled)
}

// quicLinger is how long a connection stays open after its last stream, so that the end
// of that stream reaches the client.
const quicLinger = time.Second

// resetAtExit resets the stream, and closes its connection when that has no other stream. The
// server waits for all connections when it shuts down. A client should close its
// connection then, but a client that does not read the end of its stream may not.
func (s *quicStream) resetAtExit() {
	s.reset()
	conn, openStreams := s.connection()
	if conn == nil {
		return
	}
	look := time.NewTicker(50 * time.Millisecond)
	defer look.Stop()
	for busy := time.Now(); time.Since(busy) < quicLinger; {
		if openStreams() > 0 {
			busy = time.Now()
		}
		select {
		case <-conn.Context().Done():
			return
		case <-look.C:
		}
	}
	// An error says that the connection is closed already.
	_ = conn.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeNoError), "")
}

// connection returns the connection of the stream, and a function that counts its streams. It reads
// private fields of quic-go, which has no method for it. It returns nil if the fields of another
// version of quic-go differ; then a test fails.
func (s *quicStream) connection() (conn *quic.Conn, openStreams func() int) {
	raw, mu, streams := fieldOf(s.server, "conn"), fieldOf(s.server, "streamMx"), fieldOf(s.server, "streams")
	if !raw.IsValid() || raw.Type() != reflect.TypeFor[*quic.Conn]() ||
		!mu.IsValid() || mu.Type() != reflect.TypeFor[sync.Mutex]() ||
		!streams.IsValid() || streams.Kind() != reflect.Map {
		return nil, nil
	}
	lock := (*sync.Mutex)(unsafe.Pointer(mu.UnsafeAddr()))
	return (*quic.Conn)(raw.UnsafePointer()), func() int {
		lock.Lock()
		defer lock.Unlock()
		return streams.Len()
	}
}

// fieldOf returns a field of the struct that v points to. The result is invalid if there
// is no such field.
func fieldOf(v reflect.Value, name string) reflect.Value {
	if !v.IsValid() || v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
		return reflect.Value{}
	}
	return v.Elem().FieldByName(name)
}
