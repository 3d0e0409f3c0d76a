package caddysse

import (
	"net/http"
	"reflect"
	"sync"
	"time"
	"unsafe"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// quicStream is a stream of HTTP/3 and its connection.
type quicStream struct {
	writer  http3.HTTPStreamer
	conn    *quic.Conn
	mu      *sync.Mutex // guards streams
	streams reflect.Value
}

// quicStreamOf returns the stream of a response. It reads the connection from private
// fields of quic-go, which has no method for it. It returns nil if the fields of another
// version of quic-go differ; then a test fails.
func quicStreamOf(w http.ResponseWriter) *quicStream {
	for {
		outer, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			break
		}
		w = outer.Unwrap()
	}
	writer, ok := w.(http3.HTTPStreamer)
	if !ok {
		return nil
	}
	raw := fieldOf(reflect.ValueOf(w), "conn")
	conn, mu, streams := fieldOf(raw, "conn"), fieldOf(raw, "streamMx"), fieldOf(raw, "streams")
	if !conn.IsValid() || conn.Type() != reflect.TypeFor[*quic.Conn]() ||
		!mu.IsValid() || mu.Type() != reflect.TypeFor[sync.Mutex]() ||
		!streams.IsValid() || streams.Kind() != reflect.Map {
		return nil
	}
	return &quicStream{writer, (*quic.Conn)(conn.UnsafePointer()), (*sync.Mutex)(unsafe.Pointer(mu.UnsafeAddr())), streams}
}

// fieldOf returns a field of the struct that v points to. The result is invalid if there
// is no such field.
func fieldOf(v reflect.Value, name string) reflect.Value {
	if !v.IsValid() || v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
		return reflect.Value{}
	}
	return v.Elem().FieldByName(name)
}

// quicLinger is how long a connection stays open after its last stream, so that the end
// of that stream reaches the client.
const quicLinger = time.Second

// reset resets the stream, and closes its connection when that has no other stream. The
// server waits for all connections when it shuts down. A client should close its
// connection then, but a client that does not read the end of its stream may not.
func (s *quicStream) reset() {
	const cancelled = quic.StreamErrorCode(http3.ErrCodeInternalError)
	stream := s.writer.HTTPStream()
	stream.CancelRead(cancelled)
	stream.CancelWrite(cancelled)
	look := time.NewTicker(50 * time.Millisecond)
	defer look.Stop()
	for busy := time.Now(); time.Since(busy) < quicLinger; {
		if s.openStreams() > 0 {
			busy = time.Now()
		}
		select {
		case <-s.conn.Context().Done():
			return
		case <-look.C:
		}
	}
	// An error says that the connection is closed already.
	_ = s.conn.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeNoError), "")
}

// openStreams returns how many streams the connection has.
func (s *quicStream) openStreams() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.streams.Len()
}
