package recipes

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/ea766355/caddy-sse/e2e"
)

// visitor is a client that may have a cookie.
type visitor struct {
	t      *testing.T
	base   string // of the site
	cookie string
	from   string // its IP address; empty: any
}

// visitorOf returns a visitor of the server without a cookie.
func visitorOf(t *testing.T, s *e2e.Server) visitor {
	return visitor{t: t, base: fmt.Sprintf("http://127.0.0.1:%d", s.HTTP)}
}

// client returns an HTTP client that connects to 127.0.0.1 for every host.
func (v visitor) client() *http.Client {
	tr := &http.Transport{
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, // a certificate of the test's Caddy
		ForceAttemptHTTP2: true,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			_, port, err := net.SplitHostPort(addr)
			if err != nil {
				return nil, err
			}
			d := new(net.Dialer)
			if v.from != "" {
				d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(v.from)}
			}
			return d.DialContext(ctx, network, "127.0.0.1:"+port)
		},
	}
	v.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// get requests a path. The headers are names and values in turn. The body must arrive within a
// time limit.
func (v visitor) get(path string, header ...string) (*http.Response, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*e2e.Patience)
	v.t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, v.base+path, nil)
	if err != nil {
		return nil, err
	}
	if v.cookie != "" {
		req.Header.Set("Cookie", v.cookie)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	return v.client().Do(req)
}

// answer requests a path and returns the response with its body, which must end.
func (v visitor) answer(path string, header ...string) (resp *http.Response, body string) {
	v.t.Helper()
	resp, err := v.get(path, header...)
	if err != nil {
		v.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		v.t.Fatal(err)
	}
	return resp, string(text)
}

// refused checks that the response has the status of a refusal, and returns its body.
func (v visitor) refused(path string, status int, header ...string) (body string) {
	v.t.Helper()
	resp, body := v.answer(path, header...)
	if resp.StatusCode != status {
		v.t.Errorf("%s%s: got status %d, want %d: %s", v.base, path, resp.StatusCode, status, body)
	}
	return body
}

// stream is an open stream.
type stream struct {
	t     *testing.T
	resp  *http.Response
	lines *bufio.Scanner
	last  string // the last id
}

func newStream(t *testing.T, resp *http.Response) *stream {
	return &stream{t: t, resp: resp, lines: bufio.NewScanner(resp.Body)}
}

// open opens a stream and checks its user.
func (v visitor) open(path, user string, header ...string) *stream {
	v.t.Helper()
	resp, err := v.get(path, header...)
	if err != nil {
		v.t.Fatal(err)
	}
	v.t.Cleanup(func() { resp.Body.Close() })
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "text/event-stream" {
		body, _ := io.ReadAll(resp.Body)
		v.t.Fatalf("%s%s: got %s %s %s, want a stream", v.base, path, resp.Status, resp.Header, body)
	}
	s := newStream(v.t, resp)
	event, data := s.next()
	var connected struct{ User string }
	if err := json.Unmarshal([]byte(data), &connected); err != nil || event != "sse.connected" || connected.User != user {
		v.t.Fatalf("first event: got %s %s, want sse.connected of the user %q", event, data, user)
	}
	return s
}

// id reads the next event and returns its id.
func (s *stream) id() string {
	s.t.Helper()
	s.next()
	return s.last
}

// next returns the next event.
func (s *stream) next() (event, data string) {
	s.t.Helper()
	for s.lines.Scan() {
		line := s.lines.Text()
		if value, ok := strings.CutPrefix(line, "event: "); ok {
			event = value
		}
		if value, ok := strings.CutPrefix(line, "data: "); ok {
			data = value
		}
		if value, ok := strings.CutPrefix(line, "id: "); ok {
			s.last = value
		}
		if line == "" && data != "" {
			return event, data
		}
	}
	s.t.Fatalf("the stream has ended: %v", s.lines.Err())
	return "", ""
}

// expect checks the next event.
func (s *stream) expect(event, data string) {
	s.t.Helper()
	if e, d := s.next(); e != event || d != data {
		s.t.Errorf("got %s %s, want %s %s", e, d, event, data)
	}
}

func (s *stream) close() { s.resp.Body.Close() }

// login logs a user in at an app and returns the cookie.
func login(t *testing.T, app, user string) (cookie string) {
	t.Helper()
	e2e.Wait(t, e2e.Patience, "a login", func() error {
		resp, err := http.Get("http://" + app + "/login?user=" + user)
		if err != nil {
			return err
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK || len(resp.Cookies()) == 0 {
			return errors.New(resp.Status)
		}
		cookie = resp.Cookies()[0].Name + "=" + resp.Cookies()[0].Value
		return nil
	})
	return cookie
}
