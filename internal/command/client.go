package command

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/pflag"
)

// client speaks with an admin endpoint. It does what caddycmd.AdminAPIRequest does,
// and besides tells its errors apart, keeps its connection, and ends with a context.
type client struct {
	http    *http.Client
	address string // as it was given
	origin  string
	hub     string // empty: the default
	timeout time.Duration
	reached bool // Caddy has answered
}

func newClient(flags *pflag.FlagSet) (*client, error) {
	get := func(name string) string {
		value, err := flags.GetString(name)
		if err != nil {
			panic(err) // the flag exists
		}
		return value
	}
	c := &client{hub: get("hub")}
	var err error
	if c.timeout, err = flags.GetDuration("timeout"); err != nil {
		panic(err)
	}
	if c.address, err = caddycmd.DetermineAdminAPIAddress(get("address"), nil, get("config"), get("adapter")); err != nil {
		return nil, err
	}
	addr, err := caddy.ParseNetworkAddress(c.address)
	if err == nil && addr.PortRangeSize() > 1 {
		err = errors.New("it has more than one port")
	}
	if err != nil {
		return nil, fmt.Errorf("invalid address %q of the admin endpoint: %w; it is like localhost:2019 or unix//run/caddy.sock", c.address, err)
	}
	c.origin = "http://" + addr.JoinHostPort(0)
	if addr.IsUnixNetwork() {
		c.origin = "http://127.0.0.1"
		addr.Host, _, _ = strings.Cut(addr.Host, "|") // the permissions of the socket
	}
	dialer := new(net.Dialer)
	c.http = &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, addr.Network, addr.JoinHostPort(0))
		},
	}}
	return c, nil
}

func (c *client) close() { c.http.CloseIdleConnections() }

// refusal is an answer that is no success.
type refusal struct {
	Status       int      `json:"-"`
	Message      string   `json:"error"`
	Stored       string   `json:"stored"`
	Missing      []string `json:"missing"`
	Disconnected *int     `json:"disconnected"`
}

func (r *refusal) Error() string { return r.Message }

// open sends one request, and returns the answer if it is a success. Its errors are a
// *refusal, and those of unreachable.
func (c *client) open(ctx context.Context, method, path string, query url.Values, contentType string, body []byte) (*http.Response, error) {
	if c.hub != "" {
		if query == nil {
			query = url.Values{}
		}
		query.Set("hub", c.hub)
	}
	target := c.origin + path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, target, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if !strings.HasSuffix(c.origin, "//127.0.0.1") {
		req.Header.Set("Origin", c.origin)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.unreachable(err)
	}
	c.reached = true
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return nil, c.unreachable(err)
	}
	failure := &refusal{Status: resp.StatusCode}
	media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if media != "application/json" || json.Unmarshal(text, failure) != nil || failure.Message == "" {
		failure.Message = fmt.Sprintf("%s answered %s %s with %s: is it a Caddy with the module caddy-sse, as new as this command? %s",
			c.address, method, path, resp.Status, printable(strings.TrimSpace(string(text))))
	}
	return nil, failure
}

// unreachable is the error of a request without an answer.
func (c *client) unreachable(err error) error {
	if urlError, ok := errors.AsType[*url.Error](err); ok {
		err = urlError.Err // its address is not that of the socket
	}
	if c.reached {
		return fail(exitUnreachable, "Caddy at %s does not answer any more: %w", c.address, err)
	}
	return fail(exitUnreachable, "Caddy cannot be reached at %s: %w; start it with `caddy run`, or name its admin endpoint with --address, or its config with --config", c.address, err)
}

// answerWithin is how long one answer may take: publishing tries for 10 s.
const answerWithin = 15 * time.Second

// do sends a request until it is answered, and returns the answer. While Caddy answers
// 503, and when a connection is lost, it sends it again, until the time is over: all
// requests are such that they may be repeated.
func (c *client) do(ctx context.Context, method, path string, query url.Values, contentType string, body []byte) ([]byte, error) {
	over := time.Now().Add(c.timeout)
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		answer, err := c.try(ctx, method, path, query, contentType, body)
		if err == nil || !c.again(err) {
			return answer, err
		}
		if time.Now().Add(pause).After(over) {
			if failure, ok := errors.AsType[*refusal](err); ok {
				stored := ""
				if failure.Stored != "" {
					stored = " (stored: " + failure.Stored + ")"
				}
				err = &exitError{exitUnreachable, fmt.Errorf("%w%s, for %s; look at `caddy sse status`, and try again", failure, stored, c.timeout)}
			}
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(pause):
		}
	}
}

func (c *client) try(ctx context.Context, method, path string, query url.Values, contentType string, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	resp, err := c.open(ctx, method, path, query, contentType, body)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, c.unreachable(err)
	}
	return answer, nil
}

// again reports whether a request is to be sent again. A Caddy that never answered is
// not waited for, unless it took the connection.
func (c *client) again(err error) bool {
	if failure, ok := errors.AsType[*refusal](err); ok {
		return failure.Status == http.StatusServiceUnavailable
	}
	op, ok := errors.AsType[*net.OpError](err)
	return c.reached || !ok || op.Op != "dial"
}

// get reads an answer into v, and returns it as it is.
func (c *client) get(ctx context.Context, method, path string, query url.Values, v any) ([]byte, error) {
	answer, err := c.do(ctx, method, path, query, "", nil)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(answer, v); err != nil {
		return nil, fmt.Errorf("%s answered %s with what is no JSON: %w", c.address, path, err)
	}
	return answer, nil
}

// isNothing reports whether the API answered that what is named is not there. That
// there is no such hub is a mistake.
func isNothing(err error) bool {
	failure, ok := errors.AsType[*refusal](err)
	return ok && failure.Status == http.StatusNotFound && strings.HasPrefix(failure.Message, "there is no open connection")
}

// hubName is the hub that is meant.
func (c *client) hubName() string { return cmp.Or(c.hub, "default") }
