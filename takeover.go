package caddysse

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"time"
)

// transparent are the response writers that pass a body on as it is. With any
// other in the chain the stream goes through it.
var transparent = []string{
	"*http.response",
	"*caddyhttp.readDeadlineWriter",
	"*caddyhttp.IdleTimeoutWriter",
	"*caddyhttp.responseRecorder",
	"*caddyhttp.ResponseWriterWrapper",
	"*headers.responseWriterWrapper",
	"intercept.interceptedResponseHandler",
	"*encode.responseWriter",
}

// passive lists the response writers from w to the server's own, or nil if the
// connection below must stay with the server.
func passive(w http.ResponseWriter, r *http.Request) []http.ResponseWriter {
	// A body that is not read yet has a timeout that the server would still set.
	if r.ProtoMajor != 1 || r.ProtoMinor < 1 || r.Method != http.MethodGet || r.ContentLength != 0 {
		return nil
	}
	if c, _ := r.Context().Value(connKey{}).(net.Conn); tcpOf(c) == nil {
		return nil
	}
	var chain []http.ResponseWriter
	for {
		name := reflect.TypeOf(w).String()
		if !slices.Contains(transparent, name) && !strings.HasPrefix(name, "*httpsnoop.rw") {
			return nil
		}
		chain = append(chain, w)
		outer, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return chain
		}
		w = outer.Unwrap()
	}
}

// takeOver takes the connection from the server, after the header was written
// to the chain of response writers. It returns what to write to, and the TCP
// connection below; or nil, if the stream must go through the chain.
func takeOver(chain []http.ResponseWriter) (net.Conn, *net.TCPConn) {
	if len(chain) == 0 || http.NewResponseController(chain[0]).Flush() != nil {
		return nil, nil
	}
	// Only now is it known what the writers make of this response.
	if chain[0].Header().Get("Content-Encoding") != "" {
		return nil, nil
	}
	for _, w := range chain {
		if recorder, ok := w.(interface{ Buffered() bool }); ok && recorder.Buffered() {
			return nil, nil
		}
	}
	// The outer writers' Hijack would leave themselves, and the request, in the way.
	innermost, ok := chain[len(chain)-1].(http.Hijacker)
	if !ok {
		return nil, nil
	}
	conn, _, err := innermost.Hijack()
	if err != nil {
		return nil, nil
	}
	tcp := tcpOf(conn)
	if _, encrypted := conn.(*tls.Conn); !encrypted {
		conn = tcp // below what has read a PROXY header
	}
	return conn, tcp
}

// connKey is the context key of the network connection of a request.
type connKey struct{}

// rememberConn is a ConnContext function.
func rememberConn(ctx context.Context, c net.Conn) context.Context {
	if ctx.Value(connKey{}) != nil {
		return ctx
	}
	return context.WithValue(ctx, connKey{}, c)
}

// tcpOf is the TCP connection below c, or nil if there is anything between that
// is not known: it may change what is written.
func tcpOf(c net.Conn) *net.TCPConn {
	for {
		switch fmt.Sprintf("%T", c) {
		case "*net.TCPConn":
			return c.(*net.TCPConn)
		case "*tls.Conn":
			c = c.(*tls.Conn).NetConn()
		case "*proxyproto.Conn":
			raw, ok := c.(interface{ Raw() net.Conn })
			if !ok {
				return nil
			}
			c = raw.Raw()
		case "*caddyhttp.http2Conn", "*caddyhttp.httpRedirectConn":
			// They only watch what is read, and have no method to get at what is below.
			c, _ = reflect.ValueOf(c).Elem().FieldByName("Conn").Interface().(net.Conn)
		default:
			return nil
		}
	}
}

// limitUnacknowledged makes the kernel drop the connection when the client
// acknowledges nothing for the timeout: to a client that has vanished, writes
// succeed until the socket's buffer is full, which heartbeats take long to do.
func limitUnacknowledged(ctx context.Context, timeout time.Duration) {
	c, _ := ctx.Value(connKey{}).(net.Conn)
	if tcp := tcpOf(c); tcp != nil {
		// Later than the timeout of a write, whose reason is the better one.
		setUserTimeout(tcp, timeout+timeout/4)
	}
}
