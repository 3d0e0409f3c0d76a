package caddysse_test

import (
	"context"
	"net"
	"net/http"
	"strings"
	"testing"
)

// dialSmall connects with small socket buffers.
func dialSmall(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return c, c.(*net.TCPConn).SetReadBuffer(64 << 10)
}

// checkDelivery checks that a stream gets a heartbeat and an event.
func checkDelivery(t testing.TB, s *server, st *stream) {
	t.Helper()
	if b := st.next(); !b.colon {
		t.Errorf("got %+v", b)
	}
	id := s.send(`{"text":"one"}`).ID
	if b := st.event(); b.data != "one" || b.id != id {
		t.Errorf("got %+v", b)
	}
}

// TestStreamBehindOtherHandlers: other handlers that change responses do not damage a stream, over
// each protocol.
func TestStreamBehindOtherHandlers(t *testing.T) {
	t.Setenv("OTEL_TRACES_EXPORTER", "none")
	tests := []struct {
		name, site string
		check      func(*testing.T, http.Header)
	}{
		{"encode", "encode zstd gzip", nil},
		{"encode with a matcher of its own", "encode {\n match {\n header Content-Type text/event-stream*\n}\n}", nil},
		{"header", "header >X-Late late\nheader X-Early early\nheader -Server", func(t *testing.T, h http.Header) {
			if h.Get("X-Late") != "late" || h.Get("X-Early") != "early" || h.Get("Server") != "" {
				t.Errorf("headers %v", h)
			}
		}},
		{"header that is replaced", "header >Cache-Control no-cache no-store", func(t *testing.T, h http.Header) {
			if h.Get("Cache-Control") != "no-store, no-transform" {
				t.Errorf("headers %v", h)
			}
		}},
		{"log", "log", nil},
		{"intercept that does not match", "intercept {\n @broken status 5xx\n handle_response @broken {\n respond broken\n}\n}", nil},
		{"handle_errors", "handle_errors {\n respond oops\n}", nil},
		{"tracing", "tracing {\n span events\n}", nil},
		{"rewrite", "rewrite /else /events", nil},
		{"request_body", "request_body {\n max_size 1KB\n}", nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := startTLS(t, "", test.site+"\n"+bothWays("heartbeat 100ms"))
			eachProtocol(t, s, func(t *testing.T, p protocol) {
				s := s.in(t)
				for _, path := range []string{"/events", "/kept"} {
					st := openWith(t, p.client, p.url(s)+path, "Accept-Encoding", "gzip, zstd")
					if test.check != nil {
						test.check(t, st.Header)
					} else {
						checkStreamHeaders(t, st.Header)
					}
					checkDelivery(t, s, st)
					st.close()
				}
			})
			if test.name == "log" {
				eventually(t, "the access logs", func() bool { return len(logs.with(t, "handled request")) == 8 })
				for _, line := range logs.with(t, "handled request") {
					// The server sees only the first block of a stream that was taken over.
					request := line["request"].(map[string]any)
					taken := *takeover == "on" && request["proto"] != "HTTP/2.0" && request["uri"] == "/events"
					if line["status"] != 200.0 || (line["size"].(float64) < 190) != taken {
						t.Errorf("logged %v", line)
					}
				}
			}
			if strings.Contains(logs.tail(1<<20), `"level":"error"`) {
				t.Error("errors in the log")
			}
		})
	}
}
