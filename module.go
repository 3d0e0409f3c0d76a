// Package caddysse serves Server-Sent Events from Caddy: an http handler that
// streams events to browsers, an app that holds the history of events across
// config reloads, and an admin API by which back ends push.
package caddysse

import (
	"errors"
	"fmt"
	"net/http"
	"sync"
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
	// server's answer, such as {http.reverse_proxy.header.Remote-User}. At most 512
	// bytes long.
	// Default: {http.auth.user.id}.
	User string `json:"user,omitempty"`

	// What names the client's session, so that events can be sent to all of its
	// connections. It is hashed before it is kept or shown. Placeholders are
	// allowed. At most 512 bytes long. Default: none.
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

	// Topics that the client may receive beside these: exact names that the app, or a
	// claim of a token, gives, such as {http.reverse_proxy.header.X-SSE-Topics} behind
	// forward_auth. It is a list separated by commas or spaces, or a JSON array of
	// strings. A name with *, or more than 1,000 names, are refused with status 403.
	// PATCH /sse/connections changes them while a stream is open. Default: none.
	Grants string `json:"grants,omitempty"`

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
	// RFC 3339. Placeholders are allowed. A client for whom it is empty, unreadable,
	// passed, or more than ten years ahead, is refused with status 401. Default: none.
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
	// Clients over it are told to come back after 30 to 90 seconds. Whatever it is,
	// streams leave 64 file descriptors of the process to others, or 5 % if that is
	// more. Default: no limit.
	MaxConnections int `json:"max_connections,omitempty"`

	// The same for the connections of one user; it does not apply to anonymous
	// ones. Default: no limit.
	MaxConnectionsPerUser int `json:"max_connections_per_user,omitempty"`

	// The same for the connections from one client address, as Caddy's client_ip has
	// it; of IPv6, from one /64. It does not apply where there is no address: on a unix
	// socket, unless the server option trusted_proxies_unix is set. Default: no limit.
	MaxConnectionsPerIP int `json:"max_connections_per_ip,omitempty"`

	app       *App
	logger    *zap.Logger
	hub       *hub.Hub
	settings  *hub.Settings
	noAddress func()     // warns that a client has none, once
	warned    *sync.Once // of a placeholder of topics that holds a list
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
	h.User, h.Session, h.Expires = canonical(h.User), canonical(h.Session), canonical(h.Expires)
	h.Grants, h.warned = canonical(h.Grants), new(sync.Once)
	for i, topic := range h.Topics {
		h.Topics[i] = canonical(topic)
	}
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
	srv, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if h.MaxConnectionsPerIP > 0 {
		h.noAddress = addressless(h.logger, srv)
	}
	if ok {
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
			return fmt.Errorf("%s must not be negative (got %s)", name, d)
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
			return fmt.Errorf("%s must not be negative (got %d); leave it out for no limit", name, n)
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
	filled := placeholders.ReplaceAllLiteralString(topic, "x")
	if len(filled) > hub.MaxNameLength {
		return fmt.Errorf("topic %.20q...: it is longer than %d bytes", topic, hub.MaxNameLength)
	}
	_, err := hub.ParseTopic(filled)
	return err
}

// ServeHTTP answers with a stream, for as long as the client stays.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) (err error) {
	keepHTTP1(w, r)
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
		h.refusedStream(http.StatusMethodNotAllowed)
		return nil, refuse(w, r, http.StatusMethodNotAllowed, errors.New("method not allowed: use GET"))
	}
	if err := r.Context().Err(); err != nil { // a client may reset streams as fast as it asks for them
		return nil, caddyhttp.Error(statusClientGone, err)
	}
	req, status, err := h.request(r)
	if err != nil {
		h.refusedStream(status)
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
		if refusal.Reason == hub.Shutdown || req.Full {
			// It came by a connection that does not know yet, or that holds one of the last
			// files. Over HTTP/2, this has the server say so. [RFC 9113 6.8]
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
			conn.Cancel()
		}
	}()
	reports.opened(h.Hub, conn.Conn)
	h.app.late(h.Hub)
	h.warnOfHTTP3(req.Protocol)
	limitUnacknowledged(r.Context(), h.settings.Timeout)
	var chain []any
	if h.Takeover != "off" && !req.Poll { // the next poll comes by the same connection
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
	if chain != nil {
		conn.Greet(w)
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
	h.refusedStream(http.StatusInternalServerError)
	for _, name := range []string{"Content-Type", "Cache-Control", "X-Accel-Buffering", "Connection"} {
		w.Header().Del(name)
	}
	if handlesErrors(r) {
		h.logger.Error("cannot stream", zap.Error(reason))
	}
	return caddyhttp.Error(http.StatusInternalServerError, reason)
}

// statusClientGone is what nobody receives, and the log has.
const statusClientGone = 499

// Interface guards.
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddy.Validator             = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
