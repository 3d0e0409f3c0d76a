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

// quicStream is a stream of HTTP/3 and the connection that it is on.
type quicStream struct {
	writer  http3.HTTPStreamer
	conn    *quic.Conn
	mu      *sync.Mutex // guards streams
	streams reflect.Value
}

// quicStreamOf finds the stream that a response goes by. Its connection is known to
// quic-go alone, which has no method to get at it. When quic-go looks different one day
// there is no result, and a test fails.
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
	raw := field(reflect.ValueOf(w), "conn")
	conn, mu, streams := field(raw, "conn"), field(raw, "streamMx"), field(raw, "streams")
	if !conn.IsValid() || conn.Type() != reflect.TypeFor[*quic.Conn]() ||
		!mu.IsValid() || mu.Type() != reflect.TypeFor[sync.Mutex]() ||
		!streams.IsValid() || streams.Kind() != reflect.Map {
		return nil
	}
	return &quicStream{writer, (*quic.Conn)(conn.UnsafePointer()), (*sync.Mutex)(unsafe.Pointer(mu.UnsafeAddr())), streams}
}

// field is a field of the struct that v points to, and invalid if there is none.
func field(v reflect.Value, name string) reflect.Value {
	if !v.IsValid() || v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
		return reflect.Value{}
	}
	return v.Elem().FieldByName(name)
}

// quicLinger is how long the end of other streams may be on its way to the client.
const quicLinger = time.Second

// abandon resets the stream, and closes its connection as soon as that has no other
// stream. A client should do so by itself when the server shuts down, but one that does
// not read the end of its stream may not, and the server would wait for it.
func (s *quicStream) abandon() {
	const cancelled = quic.StreamErrorCode(http3.ErrCodeInternalError)
	stream := s.writer.HTTPStream()
	stream.CancelRead(cancelled)
	stream.CancelWrite(cancelled)
	look := time.NewTicker(50 * time.Millisecond)
	defer look.Stop()
	for busy := time.Now(); time.Since(busy) < quicLinger; {
		if s.others() > 0 {
			busy = time.Now()
		}
		select {
		case <-s.conn.Context().Done():
			return
		case <-look.C:
		}
	}
	// That it fails says that it is closed.
	_ = s.conn.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeNoError), "")
}

// others is how many streams the connection has.
func (s *quicStream) others() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.streams.Len()
}
