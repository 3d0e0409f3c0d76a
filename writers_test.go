package caddysse_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/felixge/httpsnoop"

	"github.com/ea766355/caddy-sse/internal/encode"
)

func init() {
	caddy.RegisterModule(testWriter{})
	httpcaddyfile.RegisterHandlerDirective("test_writer", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		w := new(testWriter)
		return w, w.UnmarshalCaddyfile(h.Dispenser)
	})
	httpcaddyfile.RegisterDirectiveOrder("test_writer", httpcaddyfile.Before, "basic_auth")
}

// testWriter puts a response writer before the handlers that follow.
type testWriter struct{ Kind string }

func (testWriter) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.test_writer", New: func() caddy.Module { return new(testWriter) }}
}

func (t *testWriter) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	d.AllArgs(&t.Kind)
	return nil
}

// mute can only write. seemingly has a Flush method that does not work.
type (
	mute      struct{ http.ResponseWriter }
	seemingly struct{ http.ResponseWriter }
)

func (w *seemingly) FlushError() error { return http.NewResponseController(w.ResponseWriter).Flush() }

// slowWriter stands for a client that reads nothing. It sends the status to slowHeaders when the
// header is about to be written, and again when it may be written.
type slowWriter struct {
	http.ResponseWriter
	once sync.Once
}

var slowHeaders = make(chan int)

func (w *slowWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *slowWriter) WriteHeader(status int) {
	w.once.Do(func() {
		slowHeaders <- status
		slowHeaders <- status
	})
	w.ResponseWriter.WriteHeader(status)
}

// idleWriters records the idle timeout of the response before and after each request was handled.
var idleWriters = make(chan [2]string, 10)

func (t *testWriter) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	switch t.Kind {
	case "mute":
		w = mute{w}
	case "seemingly":
		w = &seemingly{mute{w}}
	case "namesake":
		w = encode.Censor(w)
	case "hooked":
		w = httpsnoop.Wrap(w, httpsnoop.Hooks{Write: func(write httpsnoop.WriteFunc) httpsnoop.WriteFunc {
			return encode.Censor(writer{w, write}).Write
		}})
	case "slow":
		w = &slowWriter{ResponseWriter: w}
	case "idle":
		_, idle := caddyhttp.IdleTimeoutsFromContext(r.Context())
		idle.Ctrl = http.NewResponseController(counting{w})
		state := func() string {
			return fmt.Sprintf("%s %d %d %p", idle.Deadline.Timeout, idle.Deadline.MinRate, idle.MaxChunk, idle.Ctrl)
		}
		before := state()
		defer func() { idleWriters <- [2]string{before, state()} }()
	case "gone":
		_, idle := caddyhttp.IdleTimeoutsFromContext(r.Context())
		idle.Ctrl = http.NewResponseController(counting{w})
		gone := &goneWriter{ResponseWriter: idle.ResponseWriter}
		idle.ResponseWriterWrapper = &caddyhttp.ResponseWriterWrapper{ResponseWriter: gone}
		defer func() { deadlinesAfterGone <- deadlines.Load() - gone.deadlines }()
	}
	return next.ServeHTTP(w, r)
}

// counting counts how often a deadline is set.
type counting struct{ http.ResponseWriter }

var deadlines atomic.Int64

func (w counting) SetWriteDeadline(at time.Time) error {
	deadlines.Add(1)
	for {
		idle, ok := w.ResponseWriter.(*caddyhttp.IdleTimeoutWriter)
		if ok {
			return http.NewResponseController(idle.ResponseWriter).SetWriteDeadline(at)
		}
		w.ResponseWriter = w.ResponseWriter.(interface{ Unwrap() http.ResponseWriter }).Unwrap()
	}
}

// goneWriter stands for a client that resets its stream before the first byte.
type goneWriter struct {
	http.ResponseWriter
	deadlines int64 // how many were set before the first byte
}

// deadlinesAfterGone has, for each request, how many deadlines were set after its client was gone.
var deadlinesAfterGone = make(chan int64, 10)

func (w *goneWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *goneWriter) FlushError() error {
	w.deadlines = deadlines.Load()
	return net.ErrClosed
}

type writer struct {
	http.ResponseWriter
	write httpsnoop.WriteFunc
}

func (w writer) Write(p []byte) (int, error) { return w.write(p) }

// TestStreamOfAWriterThatChangesTheBody: no stream bypasses such a writer, for any name of its
// type.
func TestStreamOfAWriterThatChangesTheBody(t *testing.T) {
	for _, kind := range []string{"namesake", "hooked"} {
		t.Run(kind, func(t *testing.T) {
			s := startTLS(t, "", "test_writer "+kind+"\n"+bothWays(""))
			eachProtocol(t, s, func(t *testing.T, p protocol) {
				s := s.in(t)
				st := openWith(t, p.client, p.url(s)+"/events")
				s.send(`{"text":"secret 0"}`)
				st.expect("XXXXXX 0")
			})
		})
	}
}

// TestStreamThatCannotBe: if no stream is possible, the status is 500, one line of the log names
// the handler or the writer that is the cause, and nothing stays open.
func TestStreamThatCannotBe(t *testing.T) {
	tests := []struct{ name, site, named string }{
		{"cannot flush", "test_writer mute", "caddysse_test.mute"},
		{"intercept", "intercept {\n handle_response {\n header X-Seen yes\n}\n}", "caddyhttp/intercept."},
		{"replace_status", "intercept {\n @ok status 2xx\n replace_status @ok 203\n}", "caddyhttp/intercept."},
		{"templates", "templates {\n mime text/event-stream\n}", "caddyhttp/templates."},
		{"both", "test_writer mute\nintercept {\n handle_response {\n header X-Seen yes\n}\n}", "caddysse_test.mute"},
	}
	for _, test := range tests {
		for _, handled := range []string{"", "\nhandle_errors {\n respond \"{err.status_code} oops\" 500\n}"} {
			t.Run(test.name+strings.Join(strings.Fields(handled), " "), func(t *testing.T) {
				s := startTLS(t, "", test.site+"\n"+bothWays("")+handled)
				eachProtocol(t, s, func(t *testing.T, p protocol) {
					s := s.in(t)
					for _, path := range []string{"/events", "/kept"} {
						logs.reset()
						ctx, cancel := context.WithTimeout(t.Context(), waitLimit)
						resp := request(ctx, t, p.client, "GET", p.url(s)+path, "", nil)
						if body := readAll(t, resp); resp.StatusCode != http.StatusInternalServerError || body == "a stream" {
							t.Errorf("%s: %d %v %q", path, resp.StatusCode, resp.Header, body)
						}
						cancel()
						var errors []string
						for line := range strings.Lines(logs.tail(1 << 20)) {
							if strings.Contains(line, `"level":"error"`) {
								errors = append(errors, line)
							}
						}
						if len(errors) != 1 || !strings.Contains(errors[0], test.named) {
							t.Errorf("%s: errors %q do not name %s once", path, errors, test.named)
						}
						if n := s.status("default").Connections; n != 0 {
							t.Errorf("%s: %d connections", path, n)
						}
					}
				})
			})
		}
	}
}

// TestStreamThatIsLogged: if log_append logs the body, the status is already set when the stream
// is refused. The client gets an empty response, and the log has the reason.
func TestStreamThatIsLogged(t *testing.T) {
	s := startTLS(t, "", "log_append body {http.response.body}\n"+bothWays(""))
	eachProtocol(t, s, func(t *testing.T, p protocol) {
		s := s.in(t)
		for _, path := range []string{"/events", "/kept"} {
			logs.reset()
			ctx, cancel := context.WithTimeout(t.Context(), waitLimit)
			defer cancel()
			if body := readAll(t, request(ctx, t, p.client, "GET", p.url(s)+path, "", nil)); body != "" {
				t.Errorf("%s: %q", path, body)
			}
			if n := strings.Count(logs.tail(1<<20), "caddyhttp/logging."); n == 0 {
				t.Errorf("%s: no line says why", path)
			}
			if n := s.status("default").Connections; n != 0 {
				t.Errorf("%s: %d connections", path, n)
			}
		}
	})
}

// TestStreamOfAWriterThatSeemsToFlush: the server notices too late for another status that the
// writer cannot flush. The client is cut off, and the log has the reason.
func TestStreamOfAWriterThatSeemsToFlush(t *testing.T) {
	s := startTLS(t, "", "test_writer seemingly\n"+bothWays(""))
	eachProtocol(t, s, func(t *testing.T, p protocol) {
		s := s.in(t)
		logs.reset()
		ctx, cancel := context.WithTimeout(t.Context(), waitLimit)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, "GET", p.url(s)+"/events", nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp, err := p.client.Do(req); err == nil {
			if _, err := io.ReadAll(resp.Body); err == nil {
				t.Error("it ended as if it were complete")
			}
			resp.Body.Close()
		}
		if n := strings.Count(logs.tail(1<<20), "cannot flush"); n != 1 {
			t.Errorf("%d lines say why", n)
		}
		if n := s.status("default").Connections; n != 0 {
			t.Errorf("%d connections", n)
		}
	})
}

// TestStreamThatIsEncoded: a stream that is encoded, because a handler removed no-transform, is
// not taken over.
func TestStreamThatIsEncoded(t *testing.T) {
	s := start(t, "", "route {\n encode gzip\n header >Cache-Control no-cache\n sse /events {\n anonymous\n}\n}")
	st := connect(t, plain, "http://"+s.http+"/events", "Accept-Encoding", "gzip")
	if st.Header.Get("Content-Encoding") != "gzip" {
		t.Fatalf("headers %v", st.Header)
	}
	decoded, err := gzip.NewReader(st.Body)
	if err != nil {
		t.Fatal(err)
	}
	s.send(`{"text":"one"}`)
	var text []byte
	for buf := make([]byte, 1024); !bytes.Contains(text, []byte("data: one\n")); {
		n, err := decoded.Read(buf)
		text = append(text, buf[:n]...)
		if err != nil {
			t.Fatalf("after %q: %v", text, err)
		}
	}
}

// TestStreamSaysThatItsConnectionCloses: the response has Connection: close only if the connection
// is taken over.
func TestStreamSaysThatItsConnectionCloses(t *testing.T) {
	s := startTLS(t, "", bothWays(""))
	for _, p := range protocols(t)[:2] {
		p.client.Transport.(*http.Transport).DisableKeepAlives = false // or the client would ask for it
		for path, closes := range map[string]bool{"/events": *takeover == "on", "/kept": false} {
			if st := openWith(t, p.client, p.url(s)+path); st.Close != closes {
				t.Errorf("%s %s: Connection: close is %t, want %t", p.name, path, st.Close, closes)
			}
		}
	}
}

// TestStreamOfARequestWithABody: the connection is not taken over, because the server would set a
// deadline on it for the rest of the body.
func TestStreamOfARequestWithABody(t *testing.T) {
	s := start(t, "", "sse /events {\n anonymous\n}")
	client := &http.Client{Transport: new(http.Transport)}
	defer client.CloseIdleConnections()
	for name, body := range map[string]io.Reader{"of known length": strings.NewReader("hello"), "in chunks": io.MultiReader(strings.NewReader("hello"))} {
		req, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+s.http+"/events", body)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != http.StatusOK || resp.Close {
			t.Errorf("%s: status %d, Connection: close is %t", name, resp.StatusCode, resp.Close)
		}
		resp.Body.Close()
	}
}

// TestStreamGivesTimeoutsBack: handlers before sse have the timeouts of the server again after the
// stream.
func TestStreamGivesTimeoutsBack(t *testing.T) {
	s := startTLS(t, "servers {\n timeouts {\n write_idle 7s 1000\n}\n}", "test_writer idle\nsse /events {\n anonymous\n takeover off\n connection_timeout 3s\n}")
	eachProtocol(t, s, func(t *testing.T, p protocol) {
		st := openWith(t, p.client, p.url(s.in(t))+"/events")
		st.close()
		if idle := <-idleWriters; idle[0] != idle[1] || !strings.HasPrefix(idle[0], "7s 1000 ") {
			t.Errorf("idle timeout %s, was %s", idle[1], idle[0])
		}
	})
}

// TestStreamSetsNoDeadlines: a write does not set a new deadline. Over HTTP/2 a deadline costs a
// message to the connection's goroutine, and a timer.
func TestStreamSetsNoDeadlines(t *testing.T) {
	s := startTLS(t, "", "test_writer idle\nsse /events {\n anonymous\n takeover off\n}")
	eachProtocol(t, s, func(t *testing.T, p protocol) {
		s := s.in(t)
		before := deadlines.Load()
		st := openWith(t, p.client, p.url(s)+"/events")
		for i := range 10 {
			s.send(fmt.Sprintf(`{"text":"%d"}`, i))
			st.expect(strconv.Itoa(i))
		}
		// One deadline is cleared at the begin.
		if n := deadlines.Load() - before; n > 1 {
			t.Errorf("%d deadlines were set for 11 writes", n)
		}
		st.close()
		<-idleWriters
	})
}

// TestClosedStreamGetsNoDeadline: over HTTP/2 a deadline of a closed stream is a timer that keeps
// the stream in memory. A client can open and reset thousands of streams a second.
func TestClosedStreamGetsNoDeadline(t *testing.T) {
	s := startTLS(t, "", "test_writer gone\nsse /events {\n anonymous\n takeover off\n}")
	eachProtocol(t, s, func(t *testing.T, p protocol) {
		resp, err := p.client.Get(p.url(s.in(t)) + "/events")
		if err == nil {
			resp.Body.Close()
		}
		if n := <-deadlinesAfterGone; n != 0 {
			t.Errorf("%d deadlines were set after the client was gone", n)
		}
	})
}
