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

// client calls an admin endpoint. Other than caddycmd.AdminAPIRequest it has typed errors,
// keeps its connection open, and ends with a context.
type client struct {
	http    *http.Client
	address string // as given
	origin  string
	hub     string // empty: the default hub
	timeout time.Duration
	reached bool // Caddy has answered
	sent    bool // a request was sent, so Caddy may have executed it without an answer
	ended   int  // connections that were ended by requests that were refused with 503

	// onWait is called once, when a request waits for a Caddy that has never answered.
	onWait func(error)
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
	// People also give the address as the URL that curl takes.
	given := strings.TrimSuffix(strings.TrimPrefix(get("address"), "http://"), "/")
	if c.address, err = caddycmd.DetermineAdminAPIAddress(given, nil, get("config"), get("adapter")); err != nil {
		return nil, err
	}
	addr, err := caddy.ParseNetworkAddress(c.address)
	if err == nil && addr.PortRangeSize() > 1 {
		err = errors.New("it has more than one port")
	}
	if err != nil {
		return nil, fmt.Errorf("invalid address %q of the admin endpoint: %w (examples: localhost:2019, unix//run/caddy.sock)", c.address, err)
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

// refusal is an answer with a status other than 200.
type refusal struct {
	Status       int      `json:"-"`
	Message      string   `json:"error"`
	Stored       string   `json:"stored"`
	Missing      []string `json:"missing"`
	Disconnected *int     `json:"disconnected"`
}

func (r *refusal) Error() string { return r.Message }

// open sends one request and returns an answer with status 200. The error is a *refusal,
// or one of unreachable.
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
	c.sent = c.sent || !isDialError(err)
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
		failure.Message = fmt.Sprintf("%s answered %s %s with %s: is it a Caddy with the module caddy-sse, of the same version as this command? %s",
			c.address, method, path, resp.Status, printable(strings.TrimSpace(string(text))))
	}
	return nil, failure
}

// unreachable returns the error of a request without an answer.
func (c *client) unreachable(err error) error {
	if urlError, ok := errors.AsType[*url.Error](err); ok {
		err = urlError.Err // without the URL, which is not the address of a socket
	}
	if c.reached {
		return fail(exitUnreachable, "Caddy at %s no longer answers: %w", c.address, err)
	}
	return fail(exitUnreachable, "Caddy cannot be reached at %s: %w; start it with `caddy run`, or give its admin endpoint with --address or its config with --config", c.address, err)
}

// answerWithin is how long one answer may take. Caddy tries up to 10 s to store an event.
const answerWithin = 15 * time.Second

// do sends a request and returns the answer. After a 503 or a lost connection it sends the
// request again, until the timeout. All requests of this command can be repeated. An event
// also waits for a Caddy that does not run yet: a restart may be under way.
func (c *client) do(ctx context.Context, method, path string, query url.Values, contentType string, body []byte) ([]byte, error) {
	over := time.Now().Add(c.timeout)
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		answer, err := c.try(ctx, method, path, query, contentType, body)
		if failure, ok := errors.AsType[*refusal](err); ok && failure.Disconnected != nil {
			c.ended += *failure.Disconnected
		}
		refused := !c.reached && isDialError(err)
		if err == nil || !c.canRetry(err) || refused && method != http.MethodPost {
			return answer, err
		}
		if refused && c.onWait != nil {
			c.onWait(err)
			c.onWait = nil
		}
		if time.Now().Add(pause).After(over) {
			if failure, ok := errors.AsType[*refusal](err); ok {
				stored := ""
				if failure.Stored != "" {
					stored = " (stored: " + failure.Stored + ")"
				}
				err = &exitError{exitUnreachable, fmt.Errorf("%w%s, for %s; check `caddy sse status` and try again", failure, stored, c.timeout)}
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

// canRetry reports whether a request can be sent again: after a 503, and where no answer came.
func (c *client) canRetry(err error) bool {
	failure, ok := errors.AsType[*refusal](err)
	return !ok || failure.Status == http.StatusServiceUnavailable
}

// isDialError reports whether there was no connection, so that nothing was sent.
func isDialError(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "dial"
}

// get decodes an answer into v, and also returns it unchanged.
func (c *client) get(ctx context.Context, method, path string, query url.Values, v any) ([]byte, error) {
	answer, err := c.do(ctx, method, path, query, "", nil)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(answer, v); err != nil {
		return nil, fmt.Errorf("the answer of %s to %s is not JSON: %w", c.address, path, err)
	}
	return answer, nil
}

// isNothing reports whether the API answered that no connection matches. A 404 for an
// unknown hub is not meant: that is a mistake in the command.
func isNothing(err error) bool {
	failure, ok := errors.AsType[*refusal](err)
	return ok && failure.Status == http.StatusNotFound && strings.HasPrefix(failure.Message, "no open connection")
}

// hubName returns the name of the hub.
func (c *client) hubName() string { return cmp.Or(c.hub, "default") }
