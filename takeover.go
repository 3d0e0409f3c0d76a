package caddysse

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// A layer is the type of a response writer or of a connection, which may wrap another
// one. It is identified by the path of its package and its name: a type of the same name
// in another package may do anything.
type layer struct{ path, name string }

const (
	caddyHTTP  = "github.com/caddyserver/caddy/v2/modules/caddyhttp"
	http3Path  = "github.com/quic-go/quic-go/http3"
	httpsnoop  = "github.com/felixge/httpsnoop"
	proxyproto = "github.com/pires/go-proxyproto"
)

// layers is the table of the types that pass on every write unchanged. Only through them
// a stream is taken over. Each type has a function that returns the value below it; the
// innermost types have none.
var layers = map[layer]func(any) any{
	{"net/http", "response"}:                                 nil,
	{http3Path, "responseWriter"}:                            nil,
	{caddyHTTP, "readDeadlineWriter"}:                        unwrapWriter,
	{caddyHTTP, "IdleTimeoutWriter"}:                         unwrapWriter,
	{caddyHTTP, "responseRecorder"}:                          unwrapWriter,
	{caddyHTTP, "ResponseWriterWrapper"}:                     unwrapWriter,
	{caddyHTTP + "/headers", "responseWriterWrapper"}:        unwrapWriter,
	{caddyHTTP + "/intercept", "interceptedResponseHandler"}: unwrapWriter,
	{caddyHTTP + "/encode", "responseWriter"}:                unwrapWriter,
	{httpsnoop, "rw"}:                                        unwrapTraced,

	{"net", "TCPConn"}:              nil,
	{"crypto/tls", "Conn"}:          func(c any) any { return c.(*tls.Conn).NetConn() },
	{proxyproto, "Conn"}:            unwrapProxied,
	{caddyHTTP, "http2Conn"}:        unwrapEmbedded,
	{caddyHTTP, "httpRedirectConn"}: unwrapEmbedded,
}

// layerOf returns the key of a value in layers.
func layerOf(v any) layer {
	t := reflect.TypeOf(v)
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.PkgPath() == httpsnoop { // it has a numbered type for each set of methods
		return layer{httpsnoop, strings.TrimRight(t.Name(), "0123456789")}
	}
	return layer{t.PkgPath(), t.Name()}
}

// unwrapOfType caches layers by type, because comparing the name of a type is slow.
var unwrapOfType sync.Map // reflect.Type: unwraps

type unwraps struct {
	unwrap func(any) any
	known  bool
}

// unwrapOf returns the entry of layers for v.
func unwrapOf(v any) (unwrap func(any) any, known bool) {
	t := reflect.TypeOf(v)
	found, ok := unwrapOfType.Load(t)
	if !ok {
		unwrap, known = layers[layerOf(v)]
		found, _ = unwrapOfType.LoadOrStore(t, unwraps{unwrap, known})
	}
	u := found.(unwraps)
	return u.unwrap, u.known
}

// layersOf lists v and the values below it, the outermost first. It returns nil if the
// type of one of them is not in layers.
func layersOf(v any) (chain []any) {
	for v != nil {
		unwrap, known := unwrapOf(v)
		if !known {
			return nil
		}
		chain = append(chain, v)
		if unwrap == nil {
			return chain
		}
		v = unwrap(v)
	}
	return nil
}

func unwrapWriter(w any) any {
	if outer, ok := w.(interface{ Unwrap() http.ResponseWriter }); ok {
		return outer.Unwrap()
	}
	return nil
}

func unwrapProxied(c any) any {
	if outer, ok := c.(interface{ Raw() net.Conn }); ok {
		return outer.Raw()
	}
	return nil
}

// unwrapEmbedded is for connections that have no method to unwrap them.
func unwrapEmbedded(c any) any {
	below := reflect.Indirect(reflect.ValueOf(c)).FieldByName("Conn")
	if !below.IsValid() {
		return nil
	}
	return below.Interface()
}

// unwrapTraced unwraps a writer of httpsnoop if its hooks are those of Caddy's
// directive tracing. The hooks of others may change the body.
func unwrapTraced(w any) any {
	const hook = "go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp/internal/request.(*RespWriterWrapper).Write"
	if !strings.HasPrefix(funcField(w, "write"), hook) {
		return nil
	}
	return unwrapWriter(w)
}

// funcField returns the name of the function in a field of the struct that v points to,
// or "" if there is none.
func funcField(v any, field string) string {
	f := reflect.Indirect(reflect.ValueOf(v)).FieldByName(field)
	if f.Kind() != reflect.Func || f.IsNil() {
		return ""
	}
	return runtime.FuncForPC(f.Pointer()).Name()
}

// tcpOf returns the TCP connection below c, or nil if the type of a layer between is not
// in layers. The result is for options of the socket only: a write to it may bypass TLS.
func tcpOf(c net.Conn) *net.TCPConn {
	chain := layersOf(c)
	if chain == nil {
		return nil
	}
	tcp, _ := chain[len(chain)-1].(*net.TCPConn)
	return tcp
}

// writeTarget returns the connection that a taken-over stream is written to, and the TCP
// connection below it. It returns nil if the connection cannot be taken over. If there is
// TLS, it must be the outermost layer, and the stream is written to it: a write to any
// layer below TLS would be in clear text.
func writeTarget(c net.Conn) (net.Conn, *net.TCPConn) {
	chain := layersOf(c)
	if chain == nil {
		return nil, nil
	}
	tcp, ok := chain[len(chain)-1].(*net.TCPConn)
	if !ok {
		return nil, nil
	}
	if encrypted, ok := c.(*tls.Conn); ok {
		return encrypted, tcp
	}
	for _, l := range chain {
		if _, encrypted := l.(*tls.Conn); encrypted {
			return nil, nil
		}
	}
	return tcp, tcp // the layers above it, such as that of a PROXY header, only matter for reads
}

// takeOverChain lists the response writers from w to the server's own. It returns nil if
// the stream must stay with the server.
func takeOverChain(w http.ResponseWriter, r *http.Request) []any {
	switch {
	case r.Method != http.MethodGet:
		return nil
	case r.ProtoMajor == 3:
		return layersOf(w)
	// The server sets a timeout for a body that is not read yet, also after a take-over.
	case r.ProtoMajor != 1 || r.ProtoMinor < 1 || r.ContentLength != 0:
		return nil
	}
	c, _ := r.Context().Value(connKey{}).(net.Conn)
	if conn, _ := writeTarget(c); conn == nil {
		return nil
	}
	return layersOf(w)
}

// takeConnection takes the connection of an HTTP/1.1 request from the server, after the header was
// written to the chain of response writers. It returns the connection to write to and the TCP
// connection below it, or nil if the stream must go through the chain.
func takeConnection(chain []any, r *http.Request) (net.Conn, *net.TCPConn) {
	w := chain[0].(http.ResponseWriter)
	if http.NewResponseController(w).Flush() != nil {
		return nil, nil
	}
	// The writers decide at the first flush whether they compress the response.
	if w.Header().Get("Content-Encoding") != "" {
		return nil, nil
	}
	// Hijack of an outer writer would return a connection that keeps the writer and the
	// request in memory.
	innermost, ok := chain[len(chain)-1].(http.Hijacker)
	if !ok {
		return nil, nil
	}
	conn, _, err := innermost.Hijack() // it clears the deadlines
	if err != nil {
		return nil, nil
	}
	dropIdleTimeouts(r)
	return writeTarget(conn)
}

// dropIdleTimeouts keeps Caddy's idle timeouts from setting a deadline when the handlers before sse
// return. It would act on what was taken over.
func dropIdleTimeouts(r *http.Request) {
	reader, writer := caddyhttp.IdleTimeoutsFromContext(r.Context())
	if reader != nil {
		reader.Ctrl = noDeadline
	}
	if writer != nil {
		writer.Ctrl = noDeadline
	}
}

// innermostWriter returns the server's own response writer below w.
func innermostWriter(w http.ResponseWriter) http.ResponseWriter {
	for {
		outer, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return w
		}
		w = outer.Unwrap()
	}
}

// typeWithoutFlush returns the type of the innermost response writer below w if that
// writer cannot flush, else "".
func typeWithoutFlush(w http.ResponseWriter) string {
	w = innermostWriter(w)
	switch w.(type) {
	case http.Flusher, interface{ FlushError() error }:
		return ""
	}
	return fmt.Sprintf("%T", w)
}

// bufferingType returns the type of the writer that buffers the response, or "". It must
// be called after the header was written. Many handlers use Caddy's recorder, so for a
// recorder the result is the name of the function that decides whether it buffers.
func bufferingType(w http.ResponseWriter) (name string) {
	for {
		if b, ok := w.(interface{ Buffered() bool }); ok && b.Buffered() {
			name = fmt.Sprintf("%T", w)
			if layerOf(w) == (layer{caddyHTTP, "responseRecorder"}) {
				return funcField(w, "shouldBuffer")
			}
		}
		outer, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return name
		}
		w = outer.Unwrap()
	}
}

// connKey is the context key of a request's network connection.
type connKey struct{}

// rememberConn puts the network connection into the context of its requests. It is a
// ConnContext function of [http.Server].
func rememberConn(ctx context.Context, c net.Conn) context.Context {
	if ctx.Value(connKey{}) != nil {
		return ctx
	}
	return context.WithValue(ctx, connKey{}, c)
}

// setAckTimeout makes the kernel drop the connection when the client acknowledges nothing
// for the timeout. Otherwise writes to a vanished client succeed until the socket's
// buffer is full, and heartbeats are too small to fill it soon.
func setAckTimeout(ctx context.Context, timeout time.Duration) {
	c, _ := ctx.Value(connKey{}).(net.Conn)
	if tcp := tcpOf(c); tcp != nil {
		// The timeout of a write must come first, because only that tells the exact reason.
		setUserTimeout(tcp, timeout+timeout/4)
	}
}
