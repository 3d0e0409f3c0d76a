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
)

// A layer is the type of a response writer or a connection, which may wrap another.
// It is known by the path of its package: another package of the same name may do
// anything.
type layer struct{ path, name string }

const (
	caddyHTTP  = "github.com/caddyserver/caddy/v2/modules/caddyhttp"
	httpsnoop  = "github.com/felixge/httpsnoop"
	proxyproto = "github.com/pires/go-proxyproto"
)

// layers are those that pass on unchanged what is written to them. Each has the
// function that returns what is below it, the innermost have none.
var layers = map[layer]func(any) any{
	{"net/http", "response"}:                                 nil,
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

// layerOf is the key of a value in layers.
func layerOf(v any) layer {
	t := reflect.TypeOf(v)
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.PkgPath() == httpsnoop { // it has a type for each set of methods
		return layer{httpsnoop, strings.TrimRight(t.Name(), "0123456789")}
	}
	return layer{t.PkgPath(), t.Name()}
}

// unwrapsOf is layers by type, since the name of a type is dear to compare.
var unwrapsOf sync.Map // reflect.Type: unwraps

type unwraps struct {
	unwrap func(any) any
	known  bool
}

// unwrapOf is the entry of layers for v.
func unwrapOf(v any) (unwrap func(any) any, known bool) {
	t := reflect.TypeOf(v)
	found, ok := unwrapsOf.Load(t)
	if !ok {
		unwrap, known = layers[layerOf(v)]
		found, _ = unwrapsOf.LoadOrStore(t, unwraps{unwrap, known})
	}
	u := found.(unwraps)
	return u.unwrap, u.known
}

// layersOf lists the layers from the outermost to the innermost, or nil if one of
// them is not known.
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

// unwrapEmbedded is for connections that have no method for it.
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

// funcField is the name of the function in a field of a struct that v points to, or
// empty if there is none.
func funcField(v any, field string) string {
	f := reflect.Indirect(reflect.ValueOf(v)).FieldByName(field)
	if f.Kind() != reflect.Func || f.IsNil() {
		return ""
	}
	return runtime.FuncForPC(f.Pointer()).Name()
}

// tcpOf is the TCP connection below c, or nil if a layer between is not known. It is
// for what concerns the socket: what is written to it may bypass TLS.
func tcpOf(c net.Conn) *net.TCPConn {
	chain := layersOf(c)
	if chain == nil {
		return nil
	}
	tcp, _ := chain[len(chain)-1].(*net.TCPConn)
	return tcp
}

// writable returns what a stream that is taken over writes to, and the TCP
// connection below; or nil if it cannot be taken over. TLS must be the outermost
// layer, and the stream is written to it: everything below it is in clear text.
func writable(c net.Conn) (net.Conn, *net.TCPConn) {
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
	return tcp, tcp // below what has read a PROXY header
}

// passive lists the response writers from w to the server's own, or nil if the
// connection below must stay with the server.
func passive(w http.ResponseWriter, r *http.Request) []any {
	// A body that is not read yet has a timeout that the server would still set.
	if r.ProtoMajor != 1 || r.ProtoMinor < 1 || r.Method != http.MethodGet || r.ContentLength != 0 {
		return nil
	}
	c, _ := r.Context().Value(connKey{}).(net.Conn)
	if conn, _ := writable(c); conn == nil {
		return nil
	}
	return layersOf(w)
}

// takeOver takes the connection from the server, after the header was written
// to the chain of response writers. It returns what to write to, and the TCP
// connection below; or nil, if the stream must go through the chain.
func takeOver(chain []any) (net.Conn, *net.TCPConn) {
	if len(chain) == 0 {
		return nil, nil
	}
	w := chain[0].(http.ResponseWriter)
	if http.NewResponseController(w).Flush() != nil {
		return nil, nil
	}
	// Only now is it known what the writers make of this response.
	if w.Header().Get("Content-Encoding") != "" {
		return nil, nil
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
	return writable(conn)
}

// noFlusher names the innermost response writer that can be reached from w if it
// cannot flush; else it is empty.
func noFlusher(w http.ResponseWriter) string {
	for {
		outer, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			break
		}
		w = outer.Unwrap()
	}
	switch w.(type) {
	case http.Flusher, interface{ FlushError() error }:
		return ""
	}
	return fmt.Sprintf("%T", w)
}

// bufferer names what holds the response back, after the header was written; or it
// is empty. Many handlers use Caddy's recorder, so of that it is the function that
// decides about it.
func bufferer(w http.ResponseWriter) (name string) {
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

// connKey is the context key of the network connection of a request.
type connKey struct{}

// rememberConn is a ConnContext function.
func rememberConn(ctx context.Context, c net.Conn) context.Context {
	if ctx.Value(connKey{}) != nil {
		return ctx
	}
	return context.WithValue(ctx, connKey{}, c)
}

// limitUnacknowledged makes the kernel drop the connection when the client
// acknowledges nothing for the timeout: to a client that has vanished, writes
// succeed until the socket's buffer is full, which heartbeats take long to do.
func limitUnacknowledged(ctx context.Context, timeout time.Duration) {
	c, _ := ctx.Value(connKey{}).(net.Conn)
	if tcp := tcpOf(c); tcp != nil {
		// The timeout of a write comes first, because it gives the exact reason.
		setUserTimeout(tcp, timeout+timeout/4)
	}
}
