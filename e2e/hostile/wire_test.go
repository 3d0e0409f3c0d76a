//go:build linux

package hostile

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"
)

// opening is a request for a stream over cleartext HTTP/1.1.
type opening struct {
	user   string
	topics []string
	all    bool // replay everything that is retained
	small  bool // small buffers: an unread stream blocks soon
}

// dial opens a connection and sends the request.
func (a *attacker) dial(ctx context.Context, o opening) (net.Conn, error) {
	var d net.Dialer
	if o.small {
		d.Control = func(_, _ string, c syscall.RawConn) error {
			return c.Control(func(fd uintptr) { _ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4096) })
		}
	}
	addr := fmt.Sprintf("127.0.0.1:%d", a.HTTP)
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	query := url.Values{"topic": o.topics}
	if o.all {
		query.Set("last_event_id", "earliest")
	}
	user := ""
	if o.user != "" {
		user = "X-User: " + o.user + "\r\n"
	}
	_, err = fmt.Fprintf(c, "GET /events?%s HTTP/1.1\r\nHost: %s\r\n%s\r\n", query.Encode(), addr, user)
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// begin opens a connection like dial, and reads the first block. It reports whether the stream was
// admitted.
func (a *attacker) begin(ctx context.Context, o opening) (c net.Conn, admitted bool, err error) {
	if c, err = a.dial(ctx, o); err != nil {
		return nil, false, err
	}
	defer context.AfterFunc(ctx, func() { c.SetReadDeadline(time.Unix(1, 0)) })()
	var got []byte
	for buf := make([]byte, 512); !bytes.Contains(got, []byte("event: sse.")); {
		n, err := c.Read(buf)
		if err != nil {
			c.Close()
			return nil, false, err
		}
		got = append(got, buf[:n]...)
	}
	return c, bytes.Contains(got, []byte("event: sse.connected")), nil
}

// gulp reads until the connection or ctx ends, or until it has read this many bytes.
func gulp(ctx context.Context, c net.Conn, most int64) int64 {
	defer context.AfterFunc(ctx, func() { c.Close() })()
	n, _ := io.CopyBuffer(struct{ io.Writer }{io.Discard}, io.LimitReader(c, most), make([]byte, 64<<10))
	return n
}

// post sends a request to the admin endpoint.
func (a *attacker) post(ctx context.Context, path, contentType string, body []byte) (status int, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, fmt.Sprintf("http://127.0.0.1:%d%s", a.Admin, path), bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", contentType)
	req.Header.Set("Cache-Control", "must-revalidate") // so that Caddy loads an unchanged config too
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}

// publish publishes a batch or one event.
func (a *attacker) publish(ctx context.Context, lines ...string) {
	contentType := "application/json"
	if len(lines) > 1 {
		contentType = "application/x-ndjson"
	}
	status, err := a.post(ctx, "/sse/send", contentType, []byte(strings.Join(lines, "\n")))
	switch {
	case err == nil && status == http.StatusOK:
		a.count("events published", len(lines))
	case err == nil:
		a.count("publishes refused", 1)
	}
}

// names returns n allowed topics in a random order.
func names(n int) []string {
	topics := make([]string, n)
	for i, at := range rand.Perm(n) {
		topics[at] = fmt.Sprintf("news/%d", i)
	}
	return topics
}

// list returns a list as JSON.
func list(names []string) string { return `["` + strings.Join(names, `","`) + `"]` }

// config returns the config of the server.
func (a *attacker) config() []byte {
	text, err := os.ReadFile(a.Config)
	if err != nil {
		panic(err)
	}
	return text
}

// abort closes a connection, now and then with a reset.
func abort(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok && rand.N(2) == 0 {
		_ = tcp.SetLinger(0)
	}
	c.Close()
}

// sleep waits, and reports whether ctx has not ended.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// reversed returns a copy in reverse order.
func reversed[T any](s []T) []T {
	s = slices.Clone(s)
	slices.Reverse(s)
	return s
}
