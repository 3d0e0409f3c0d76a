package caddysse_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
)

// TestStreamIsNeverInClearText: for any order of listener wrappers, a server with TLS sends only
// TLS records.
func TestStreamIsNeverInClearText(t *testing.T) {
	for _, wrappers := range arrangements("proxy_protocol", "http_redirect", "tls") {
		for _, protocols := range []string{"h1", "h1 h2"} {
			t.Run(protocols+": "+strings.Join(wrappers, " "), func(t *testing.T) {
				var list strings.Builder
				for _, w := range wrappers {
					list.WriteString(w)
					if w == "proxy_protocol" {
						list.WriteString(" {\n allow 127.0.0.0/8\n}")
					}
					list.WriteString("\n")
				}
				s := prepare(t, "servers {\n protocols "+protocols+"\n listener_wrappers {\n"+list.String()+"}\n}")
				err := s.load("https://localhost:" + port(s.https) + " {\n tls " + certificate + " " + certificate + "\n log\n sse /events {\n anonymous\n heartbeat 50ms\n}\n}")
				if len(wrappers) > 0 && wrappers[0] == "tls" {
					if err == nil {
						t.Error("Caddy takes tls in the first place, then test it")
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				below, above := wrappers[:0], wrappers // of TLS
				if i := slices.Index(wrappers, "tls"); i >= 0 {
					below, above = wrappers[:i], wrappers[i+1:]
				}
				for version := range strings.FieldsSeq(protocols) {
					s := s.in(t)
					logs.reset()
					wire := recordWire(t, s.https, slices.Contains(below, "proxy_protocol"))
					// Above TLS, http_redirect takes each request over HTTP/1.1 for a cleartext
					// request.
					streams := version == "h2" || !slices.Contains(above, "http_redirect")
					checkSecretStream(t, s, wire.addr, version, streams, version == "h1" && len(above) == 0)
				}
			})
		}
	}
}

// arrangements returns all orders of all subsets of the names.
func arrangements(names ...string) [][]string {
	all := [][]string{nil}
	for i, name := range names {
		others := slices.Concat(names[:i], names[i+1:])
		for _, rest := range arrangements(others...) {
			all = append(all, append([]string{name}, rest...))
		}
	}
	return all
}

// checkSecretStream checks that an event arrives over TLS through addr.
func checkSecretStream(t *testing.T, s *server, addr, version string, streams, taken bool) {
	alpn := map[string]string{"h1": "http/1.1", "h2": "h2"}[version]
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp4", addr)
		},
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true, NextProtos: []string{alpn}}, ForceAttemptHTTP2: version == "h2",
	}
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	defer client.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(t.Context(), waitLimit)
	defer cancel()
	if !streams {
		req, err := http.NewRequestWithContext(ctx, "GET", "https://localhost:"+port(s.https)+"/events", nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp, err := client.Do(req); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				t.Errorf("%s: a stream, against what this test believes", version)
			}
		}
		return
	}
	st := openWith(t, client, "https://localhost:"+port(s.https)+"/events")
	checkDelivery(t, s, st)
	handled := func() bool { return len(logs.with(t, "handled request")) == 1 }
	if taken && *takeover == "on" {
		eventually(t, "the end of the request, though not of the stream", handled)
	} else if handled() {
		t.Errorf("%s: it was taken over", version)
	}
	st.close()
	eventually(t, "the end", func() bool { return s.status("default").Connections == 0 && handled() })
}

// wire is a proxy in front of a server that records what the server sends.
type wire struct {
	addr string
	done sync.WaitGroup
	mu   sync.Mutex
	sent [][]byte // by connection
	l    net.Listener
}

func recordWire(t *testing.T, server string, header bool) *wire {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{addr: l.Addr().String(), l: l}
	t.Cleanup(func() { w.check(t) })
	w.done.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			w.done.Go(func() { w.pass(t, client, server, header) })
		}
	})
	return w
}

func (w *wire) pass(t *testing.T, client net.Conn, server string, header bool) {
	defer client.Close()
	to, err := net.Dial("tcp4", server)
	if err != nil {
		t.Error(err)
		return
	}
	defer to.Close()
	if header {
		_, _ = io.WriteString(to, "PROXY TCP4 192.0.2.7 192.0.2.1 4711 443\r\n")
	}
	w.done.Go(func() {
		_, _ = io.Copy(to, client)
		to.Close()
	})
	var sent bytes.Buffer
	_, _ = io.Copy(client, io.TeeReader(to, &sent))
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sent = append(w.sent, sent.Bytes())
}

// check waits for the end of all connections, and checks the recorded bytes.
func (w *wire) check(t *testing.T) {
	w.l.Close()
	w.done.Wait()
	for _, sent := range w.sent {
		if err := onlyTLS(sent); err != nil {
			t.Errorf("%v in %.2000q", err, sent)
		}
	}
	if len(w.sent) == 0 {
		t.Error("nothing was sent")
	}
}

// onlyTLS returns an error for bytes that are not TLS records. [RFC 8446 5.1] The last record may
// be incomplete.
func onlyTLS(p []byte) error {
	for len(p) >= 5 {
		size := int(binary.BigEndian.Uint16(p[3:]))
		if p[0] < 20 || p[0] > 23 || p[1] != 3 || size > 1<<14+256 {
			return errors.New("this is no TLS record")
		}
		p = p[min(5+size, len(p)):]
	}
	return nil
}
