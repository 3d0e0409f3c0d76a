package caddysse_test

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

// TestStreamBehindListenerWrappers: Caddy's wrappers of accepted connections do not damage a
// stream, and do not prevent a takeover.
func TestStreamBehindListenerWrappers(t *testing.T) {
	s := startTLS(t, `servers {
		protocols h1
		listener_wrappers {
			proxy_protocol {
				timeout 1m
				allow 127.0.0.0/8
			}
			http_redirect
			tls
		}
	}`, "log\n"+bothWays("heartbeat 100ms"))
	dial := func(ctx context.Context, _, address string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, "tcp4", address)
		if err == nil {
			_, err = c.Write([]byte("PROXY TCP4 192.0.2.7 192.0.2.1 4711 443\r\n"))
		}
		return c, err
	}
	client := &http.Client{Transport: &http.Transport{
		DialContext: dial, DisableKeepAlives: true,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // made for these tests
	}}
	for _, path := range []string{"/events", "/kept"} {
		t.Run(path, func(t *testing.T) {
			s := s.in(t)
			logs.reset()
			st := openWith(t, client, "https://localhost:"+port(s.https)+path)
			if path == "/events" && *takeover == "on" {
				eventually(t, "the end of the request, though not of the stream", func() bool {
					return len(logs.with(t, "handled request")) == 1
				})
			}
			if list := s.api("GET", "/sse/connections", ""); !strings.Contains(list.body, `"remote":"192.0.2.7"`) {
				t.Errorf("the connection is %s", list.body)
			}
			checkDelivery(t, s, st)
			st.close()
			eventually(t, "the end", func() bool { return s.status("default").Connections == 0 })
		})
	}
	// The same listener answers a cleartext request with a redirect.
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := client.Get("http://localhost:" + port(s.https) + "/events")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusPermanentRedirect {
		t.Errorf("in clear text: %s", resp.Status)
	}
}

// TestStreamIsTraced: a collector gets the span of a stream, and the stream continues after the
// end of its span.
func TestStreamIsTraced(t *testing.T) {
	var exports atomic.Int32
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/traces" {
			exports.Add(1)
		}
	}))
	defer collector.Close()
	t.Setenv("OTEL_TRACES_EXPORTER", "otlp")
	t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.URL)
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
	s := startTLS(t, "", "tracing {\n span events\n}\n"+bothWays(""))
	eachProtocol(t, s, func(t *testing.T, p protocol) {
		s := s.in(t)
		before := exports.Load()
		st := openWith(t, p.client, p.url(s)+"/events")
		s.send(`{"text":"one"}`)
		st.expect("one")
		if *takeover == "on" && p.name != "h2" {
			eventually(t, "the span of a stream that goes on", func() bool { return exports.Load() > before })
			s.send(`{"text":"two"}`)
			st.expect("two")
		}
		st.close()
		eventually(t, "the span", func() bool { return exports.Load() > before })
	})
}
