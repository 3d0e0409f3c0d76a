package caddysse_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/caddyauth"
)

// These modules stand for other modules in Caddy.

func init() {
	caddy.RegisterModule(testAuth{})
	caddy.RegisterModule(testBreak{})
	caddy.RegisterModule(testHold{})
	caddy.RegisterModule(testEvents{})
	caddy.RegisterModule(testLogs{})
	caddy.RegisterModule(testFail{})
	httpcaddyfile.RegisterGlobalOption("test_fail", func(d *caddyfile.Dispenser, _ any) (any, error) {
		return httpcaddyfile.App{Name: "test_fail", Value: json.RawMessage(`{}`)}, nil
	})
	httpcaddyfile.RegisterHandlerDirective("test_auth", func(httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		return caddyauth.Authentication{ProvidersRaw: caddy.ModuleMap{"test": json.RawMessage(`{}`)}}, nil
	})
	httpcaddyfile.RegisterDirectiveOrder("test_auth", httpcaddyfile.Before, "basic_auth")
	httpcaddyfile.RegisterHandlerDirective("test_break", func(httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		return testBreak{}, nil
	})
	httpcaddyfile.RegisterDirectiveOrder("test_break", httpcaddyfile.Before, "basic_auth")
	httpcaddyfile.RegisterHandlerDirective("test_hold", func(httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		return testHold{}, nil
	})
	httpcaddyfile.RegisterDirectiveOrder("test_hold", httpcaddyfile.Before, "basic_auth")
}

// testFail is an app that does not start.
type testFail struct{}

// failToStart is called before the app fails.
var failToStart atomic.Pointer[func()]

func (testFail) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "test_fail", New: func() caddy.Module { return new(testFail) }}
}

func (testFail) Start() error {
	(*failToStart.Load())()
	return errors.New("it never does")
}

func (testFail) Stop() error { return nil }

// testHold delays requests with the header X-Hold until the test closes the channel that it reads
// from holding. If the header is "gone", it also waits until the client has left.
type testHold struct{}

var holding = make(chan chan struct{})

func (testHold) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.test_hold", New: func() caddy.Module { return new(testHold) }}
}

func (testHold) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if r.Header.Get("X-Hold") != "" {
		release := make(chan struct{})
		holding <- release
		<-release
		if r.Header.Get("X-Hold") == "gone" {
			<-r.Context().Done()
		}
	}
	return next.ServeHTTP(w, r)
}

// testBreak adds a response writer that panics when the text of the header X-Break is written. If
// the header is "header", it panics at the response header.
type testBreak struct{}

func (testBreak) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.test_break", New: func() caddy.Module { return new(testBreak) }}
}

func (testBreak) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	return next.ServeHTTP(&breakWriter{&caddyhttp.ResponseWriterWrapper{ResponseWriter: w}, r.Header.Get("X-Break")}, r)
}

type breakWriter struct {
	*caddyhttp.ResponseWriterWrapper
	at string
}

func (w *breakWriter) WriteHeader(status int) {
	if w.at == "header" {
		panic(http.ErrAbortHandler)
	}
	w.ResponseWriterWrapper.WriteHeader(status)
}

func (w *breakWriter) Write(p []byte) (int, error) {
	if w.at != "" && strings.Contains(string(p), w.at) {
		panic(http.ErrAbortHandler)
	}
	return w.ResponseWriterWrapper.Write(p)
}

// testAuth authenticates the user of the header X-User, which may be empty, with X-Exp as
// metadata. Without X-User there is no authentication.
type testAuth struct{}

func (testAuth) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.authentication.providers.test", New: func() caddy.Module { return new(testAuth) }}
}

func (testAuth) Authenticate(_ http.ResponseWriter, r *http.Request) (caddyauth.User, bool, error) {
	return caddyauth.User{
		ID:       r.Header.Get("X-User"),
		Metadata: map[string]string{"exp": r.Header.Get("X-Exp")},
	}, r.Header["X-User"] != nil, nil
}

// testEvents records Caddy's events.
type testEvents struct{}

type emitted struct {
	name string
	data map[string]any
}

var (
	recordedMu sync.Mutex
	recorded   []emitted
)

// recordedEvents returns the events with the name so far.
func recordedEvents(name string) (events []emitted) {
	recordedMu.Lock()
	defer recordedMu.Unlock()
	for _, e := range recorded {
		if e.name == name {
			events = append(events, e)
		}
	}
	return events
}

func (testEvents) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "events.handlers.test", New: func() caddy.Module { return new(testEvents) }}
}

func (*testEvents) UnmarshalCaddyfile(d *caddyfile.Dispenser) error { d.Next(); return nil }

// onEvent, if not nil, is called before the handler records an event.
var onEvent atomic.Pointer[func(name string)]

func handleWith(t testing.TB, f func(name string)) {
	onEvent.Store(&f)
	t.Cleanup(func() { onEvent.Store(nil) })
}

func (*testEvents) Handle(_ context.Context, e caddy.Event) error {
	if f := onEvent.Load(); f != nil {
		(*f)(e.Name())
	}
	recordedMu.Lock()
	defer recordedMu.Unlock()
	recorded = append(recorded, emitted{e.Name(), e.Data})
	return nil
}

// testLogs keeps Caddy's log in memory.
type testLogs struct{}

func (testLogs) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.logging.writers.test", New: func() caddy.Module { return new(testLogs) }}
}

func (*testLogs) UnmarshalCaddyfile(d *caddyfile.Dispenser) error { d.Next(); return nil }
func (*testLogs) String() string                                  { return "test" }
func (*testLogs) WriterKey() string                               { return "test" }
func (*testLogs) OpenWriter() (io.WriteCloser, error)             { return &logs, nil }

type logBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

var logs logBuffer

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logBuffer) Close() error { return nil }

func (l *logBuffer) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.Reset()
}

func (l *logBuffer) tail(n int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.text.String()
	return s[max(0, len(s)-n):]
}

// with returns the lines that have this message.
func (l *logBuffer) with(t testing.TB, message string) (lines []map[string]any) {
	t.Helper()
	l.mu.Lock()
	text := l.text.String()
	l.mu.Unlock()
	for line := range strings.Lines(text) {
		if fields := decode[map[string]any](t, line); fields["msg"] == message {
			lines = append(lines, fields)
		}
	}
	return lines
}
