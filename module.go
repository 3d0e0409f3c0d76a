// Package caddysse serves Server-Sent Events from Caddy: an http handler that
// streams events to browsers, an app that holds the history of events across
// config reloads, and an admin API by which back ends push.
package caddysse

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/ea766355/caddy-sse/hub"
)

func init() {
	caddy.RegisterModule(Handler{})
}

// Handler serves an event stream to each client that asks for one. Who the
// client is comes from Caddy's authentication, which must stand before it in
// the route; without a user there is no stream unless it allows anonymous ones.
type Handler struct {
	// The hub whose events are served. Any other than "default" must be
	// configured in the sse app. Default: "default".
	Hub string `json:"hub,omitempty"`

	// Whose stream it is. Placeholders are allowed; if one of them is empty, so
	// is the user. Behind forward_auth it is a header of the authentication
	// server's answer, such as {http.reverse_proxy.header.Remote-User}.
	// Default: {http.auth.user.id}.
	User string `json:"user,omitempty"`

	// What names the client's session, so that events can be sent to all of its
	// connections. It is hashed before it is kept or shown. Placeholders are
	// allowed. Default: none.
	Session string `json:"session,omitempty"`

	// Whether clients without a user get a stream. They are sent what is for
	// everyone, for their connection, their session and their topics.
	// Default: false, they are refused with status 401.
	Anonymous bool `json:"anonymous,omitempty"`

	// The topics that clients may receive: exact names, or patterns of segments
	// between slashes, where a segment * matches any one segment and, as the last
	// one, the rest. A client that asks for topics with ?topic= gets those,
	// others get all. A pattern with a placeholder that is empty, or that holds
	// * or /, matches nothing. Default: none.
	Topics []string `json:"topics,omitempty"`

	// How long a stream may be silent before a heartbeat is sent. HTTP/3 ends
	// connections that are silent for 30 seconds. Default: 15s.
	Heartbeat caddy.Duration `json:"heartbeat,omitempty"`

	// How long a client may take no bytes, or, on Linux, acknowledge none, before
	// its connection is dropped. Default: 60s.
	ConnectionTimeout caddy.Duration `json:"connection_timeout,omitempty"`

	// The age at which a stream ends, so that the client comes back and is
	// authenticated again. Each stream draws its own, from nine tenths of this on.
	// 0 means never. Default: 12h.
	MaxLifetime *caddy.Duration `json:"max_lifetime,omitempty"`

	// When the client's login ends, and the stream with it: Unix seconds or
	// RFC 3339. Placeholders are allowed. A client for whom it is empty or
	// unreadable is refused with status 401. Default: none.
	Expires string `json:"expires,omitempty"`

	// The bounds between which each client is given its own delay before it
	// reconnects. Default: 1s and 5s.
	RetryMin *caddy.Duration `json:"retry_min,omitempty"`
	RetryMax *caddy.Duration `json:"retry_max,omitempty"`

	// Whether connections over HTTP/1.1 are taken over from the server once the
	// stream has begun, which makes them cost a fraction of the memory. "off" is
	// for when something in the server must see the whole stream. Default: "on".
	Takeover string `json:"takeover,omitempty"`

	// How many connections the hub may have open when this route admits one more.
	// Clients over it are told to come back after 30 to 90 seconds.
	// Default: no limit.
	MaxConnections int `json:"max_connections,omitempty"`

	// The same for the connections of one user; it does not apply to anonymous
	// ones. Default: no limit.
	MaxConnectionsPerUser int `json:"max_connections_per_user,omitempty"`

	// The same for the connections from one client address. Default: no limit.
	MaxConnectionsPerIP int `json:"max_connections_per_ip,omitempty"`

	app      *App
	logger   *zap.Logger
	hub      *hub.Hub
	settings *hub.Settings
}

// CaddyModule returns the Caddy module information.
func (Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.sse",
		New: func() caddy.Module { return new(Handler) },
	}
}

// Provision fills in the defaults and finds the hub.
func (h *Handler) Provision(ctx caddy.Context) error {
	orDefault(&h.Hub, defaultHub)
	orDefault(&h.User, "{http.auth.user.id}")
	orDefault(&h.Heartbeat, caddy.Duration(15*time.Second))
	orDefault(&h.ConnectionTimeout, caddy.Duration(time.Minute))
	name := h.Hub // streams outlive the handler: they must not keep it
	h.settings = &hub.Settings{
		Heartbeat:      time.Duration(h.Heartbeat),
		Timeout:        time.Duration(h.ConnectionTimeout),
		MaxLifetime:    durationOr(h.MaxLifetime, 12*time.Hour),
		RetryMin:       durationOr(h.RetryMin, time.Second),
		RetryMax:       durationOr(h.RetryMax, 5*time.Second),
		MaxConnections: h.MaxConnections,
		MaxPerUser:     h.MaxConnectionsPerUser,
		MaxPerAddr:     h.MaxConnectionsPerIP,
		Closed: func(conn *hub.Conn, reason hub.Reason) {
			reports.closed(name, conn, reason)
		},
	}
	if h.RetryMax == nil {
		h.settings.RetryMax = max(h.settings.RetryMin, h.settings.RetryMax)
	}
	h.logger = ctx.Logger()
	app, err := ctx.App("sse")
	if err != nil {
		return err
	}
	h.app = app.(*App)
	if h.hub, err = h.app.serve(h.Hub, h.settings); err != nil {
		return err
	}
	if srv, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); ok {
		srv.RegisterOnShutdown(h.app.serverEnds)
		srv.RegisterOnStop(h.app.serversEnded)
		srv.RegisterConnContext(rememberConn)
	}
	return nil
}

// Validate refuses what cannot work, and what contradicts itself.
func (h *Handler) Validate() error {
	s := h.settings
	for name, d := range map[string]time.Duration{"heartbeat": s.Heartbeat, "connection_timeout": s.Timeout} {
		if d <= 0 {
			return fmt.Errorf("%s must be more than 0, not %s", name, d)
		}
	}
	for name, d := range map[string]time.Duration{"max_lifetime": s.MaxLifetime, "retry": s.RetryMin} {
		if d < 0 {
			return fmt.Errorf("%s must not be negative, as %s is", name, d)
		}
	}
	if err := validateRetry(s.RetryMin, s.RetryMax); err != nil {
		return err
	}
	for name, n := range map[string]int{
		"max_connections": h.MaxConnections, "max_connections_per_user": h.MaxConnectionsPerUser,
		"max_connections_per_ip": h.MaxConnectionsPerIP,
	} {
		if n < 0 {
			return fmt.Errorf("%s must not be negative, as %d is; leave it out for no limit", name, n)
		}
	}
	if h.Takeover != "" && h.Takeover != "on" && h.Takeover != "off" {
		return fmt.Errorf("takeover must be on or off, not %q", h.Takeover)
	}
	for _, topic := range h.Topics {
		if err := validateTopic(topic); err != nil {
			return err
		}
	}
	return nil
}

func validateRetry(low, high time.Duration) error {
	if low > high {
		return fmt.Errorf("retry: the lower bound %s is above the upper bound %s", low, high)
	}
	return nil
}

func validateTopic(topic string) error {
	// What stands in the place of a placeholder is checked at each request.
	_, err := hub.ParseTopic(placeholders.ReplaceAllLiteralString(topic, "x"))
	return err
}

// ServeHTTP answers with a stream, for as long as the client stays.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) (err error) {
	var s *sink
	aside(func() { s, err = h.open(w, r) })
	if s != nil {
		s.serve(r.Context())
	}
	return err
}

// open begins a stream, and returns it if the handler's goroutine is to go on
// with it.
func (h *Handler) open(w http.ResponseWriter, r *http.Request) (*sink, error) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		return nil, refuse(w, r, http.StatusMethodNotAllowed, errors.New("an event stream is read with GET"))
	}
	req, status, err := h.request(r)
	if err != nil {
		return nil, refuse(w, r, status, err)
	}

	header := w.Header()
	header.Set("Content-Type", "text/event-stream")
	// no-transform keeps encode and proxies from buffering it. [RFC 9111 5.2.2.6]
	header.Set("Cache-Control", "no-cache, no-transform")
	header.Set("X-Accel-Buffering", "no")
	if r.Method == http.MethodHead {
		w.WriteHeader(http.StatusOK)
		return nil, nil
	}

	if name := noFlusher(w); name != "" {
		return nil, h.cannotStream(w, r, fmt.Errorf("a handler before sse has a response writer that cannot flush (%s): keep it away from the path of sse", name))
	}
	conn, err := h.hub.Connect(r.Context(), req)
	if refusal, ok := errors.AsType[*hub.Refusal](err); ok {
		if refusal.Reason == hub.Shutdown {
			// It came by a connection that does not know yet. Over HTTP/2, this has the
			// server say so. [RFC 9113 6.8]
			header.Set("Connection", "close")
		}
		w.WriteHeader(http.StatusOK)
		_, err := w.Write(refusal.Block())
		return nil, err
	}
	if err != nil {
		return nil, caddyhttp.Error(statusClientGone, err)
	}
	begun := false
	defer func() {
		if !begun { // what others do with the response, or the event, has panicked
			conn.Leave()
		}
	}()
	reports.opened(h.Hub, conn)
	h.app.late(h.Hub)
	limitUnacknowledged(r.Context(), h.settings.Timeout)
	var chain []any
	if h.Takeover != "off" {
		chain = passive(w, r)
	}
	if chain != nil {
		// No other request can follow on a connection that is not the server's.
		header.Set("Connection", "close")
	}
	w.WriteHeader(http.StatusOK)
	if name := bufferer(w); name != "" {
		return nil, h.cannotStream(w, r, fmt.Errorf("a handler before sse buffers the response (%s): keep it away from the path of sse", name))
	}
	nc, tcp := takeOver(chain)
	begun = true
	if nc != nil {
		conn.TakeOver(nc, tcp)
		return nil, nil
	}
	return h.begin(w, r, conn), nil
}

// cannotStream answers 500. A mistake in the config is logged as an error, once:
// Caddy does so unless the site has handle_errors.
func (h *Handler) cannotStream(w http.ResponseWriter, r *http.Request, reason error) error {
	for _, name := range []string{"Content-Type", "Cache-Control", "X-Accel-Buffering", "Connection"} {
		w.Header().Del(name)
	}
	if handlesErrors(r) {
		h.logger.Error("cannot stream", zap.Error(reason))
	}
	return caddyhttp.Error(http.StatusInternalServerError, reason)
}

// request turns an HTTP request into a request for a connection, or into the
// status and the reason of a refusal.
func (h *Handler) request(r *http.Request) (req hub.Request, status int, err error) {
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	query := r.URL.Query()
	req = hub.Request{
		Settings: h.settings,
		Position: position(r, query.Get),
		Previous: query.Get("previous"),
		Protocol: fmt.Sprintf("h%d", r.ProtoMajor),
	}
	req.User = fill(repl, h.User)
	if req.User == "" && !h.Anonymous {
		return req, http.StatusUnauthorized, errors.New("no user: put an authentication handler before sse, " +
			"set its option user to where yours leaves the user, or allow anonymous")
	}
	if session := fill(repl, h.Session); session != "" {
		req.Session = hashSession(session)
	}
	if h.Expires != "" {
		if req.Expires, err = parseTime(fill(repl, h.Expires)); err != nil {
			return req, http.StatusUnauthorized, fmt.Errorf("expires: %w", err)
		}
		if !req.Expires.After(time.Now()) {
			return req, http.StatusUnauthorized, errors.New("expires: the login has ended")
		}
	}
	if req.Topics, err = h.topics(repl, query["topic"]); err != nil {
		return req, http.StatusForbidden, err
	}
	if ip, ok := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string); ok {
		req.Addr, _ = netip.ParseAddr(ip)
	}
	return req, 0, nil
}

// topics are those the client asked for, if it may have them, else all that it
// may have.
func (h *Handler) topics(repl *caddy.Replacer, asked []string) ([]hub.Target, error) {
	var allowed []hub.Target
	for _, topic := range h.Topics {
		filled, err := repl.ReplaceFunc(topic, func(name string, value any) (any, error) {
			if s := caddy.ToString(value); s == "" || strings.ContainsAny(s, "*/") {
				return nil, fmt.Errorf("{%s} does not make a segment of a topic", name)
			}
			return value, nil
		})
		if err != nil {
			continue // it matches nothing
		}
		target, err := hub.ParseTopic(filled)
		if err != nil {
			return nil, err
		}
		allowed = append(allowed, target)
	}
	if len(asked) == 0 {
		return allowed, nil
	}
	if len(asked) > maxAskedTopics {
		return nil, fmt.Errorf("%d topics asked for, at most %d are served on one stream", len(asked), maxAskedTopics)
	}
	targets := make([]hub.Target, len(asked))
next:
	for i, name := range asked {
		for _, target := range allowed {
			if target.Matches(name) {
				// A copy, since name may be a part of the whole URL.
				targets[i] = hub.Target{Kind: hub.Topic, Name: strings.Clone(name)}
				continue next
			}
		}
		return nil, fmt.Errorf("topic %q is not among the topics of this route that are yours", name)
	}
	return targets, nil
}

// statusClientGone is what nobody receives, and the log has.
const statusClientGone = 499

// maxAskedTopics bounds what one request may make the hub look up for each event.
const maxAskedTopics = 100

// position is where the client wants to go on. The header wins, since a native
// EventSource keeps its first URL for ever.
func position(r *http.Request, query func(string) string) string {
	for _, s := range []string{r.Header.Get("Last-Event-ID"), query("last_event_id"), query("lastEventId")} {
		if s != "" {
			return s
		}
	}
	return ""
}

// parseTime reads Unix seconds or RFC 3339.
func parseTime(s string) (time.Time, error) {
	if seconds, err := strconv.ParseInt(s, 10, 64); err == nil {
		return time.Unix(seconds, 0), nil
	}
	// As a claim of a token is printed that was read as a JSON number.
	if seconds, err := strconv.ParseFloat(s, 64); err == nil && math.Abs(seconds) < 1e12 {
		return time.Unix(int64(seconds), 0), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return t, fmt.Errorf("%q is neither Unix seconds nor RFC 3339", s)
	}
	return t, nil
}

// Interface guards.
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddy.Validator             = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
