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

// Handler serves an event stream to each client that asks for one. It takes the
// client's user from the authentication handler that runs before it in the route.
// A client without a user gets no stream, unless Anonymous is set.
type Handler struct {
	// The hub whose events are served. A hub other than "default" must be configured
	// in the sse app. Default: "default".
	Hub string `json:"hub,omitempty"`

	// The user that the stream belongs to, at most 512 bytes. Placeholders are allowed;
	// if one of them is empty, the user is empty. Behind forward_auth, use a header of
	// the authentication server's answer, such as {http.reverse_proxy.header.Remote-User}.
	// Default: {http.auth.user.id}.
	User string `json:"user,omitempty"`

	// The client's session, at most 512 bytes. Back ends can send events to all
	// connections of a session. The value is hashed before it is kept or shown.
	// Placeholders are allowed. Default: none.
	Session string `json:"session,omitempty"`

	// Whether clients without a user get a stream. They receive the events for
	// everyone, for their connection, for their session and for their topics.
	// Default: false; they are refused with status 401.
	Anonymous bool `json:"anonymous,omitempty"`

	// The topics that clients may receive: exact names, or patterns. A pattern consists
	// of segments between slashes. A segment * matches any one segment; as the last
	// segment it matches the rest of the name. A client that asks for topics with
	// ?topic= gets only those, other clients get all. A pattern matches nothing if one
	// of its placeholders is empty or holds * or /. Default: none.
	Topics []string `json:"topics,omitempty"`

	// More topics that the client may receive: a list of exact names that comes from the
	// app or from a claim of a token, such as {http.reverse_proxy.header.X-SSE-Topics}
	// behind forward_auth. The list is separated by commas or spaces, or it is a JSON
	// array of strings. A client is refused with status 403 if the list has a name with
	// * or more than 1,000 names, or if it begins like JSON but is no such array. PATCH
	// /sse/connections changes the topics of an open stream. Default: none.
	Grants string `json:"grants,omitempty"`

	// How long a stream may be silent before a heartbeat is sent. HTTP/3 closes
	// connections that are silent for 30 seconds. Default: 15s.
	Heartbeat caddy.Duration `json:"heartbeat,omitempty"`

	// How long a write may make no progress before the connection is dropped. On Linux
	// the same limit holds for data that the client does not acknowledge. Default: 60s.
	ConnectionTimeout caddy.Duration `json:"connection_timeout,omitempty"`

	// The age at which a stream ends, so that the client reconnects and is authenticated
	// again. Each stream ends at a random age between 90 % and 100 % of this value.
	// 0 means never. Default: 12h.
	MaxLifetime *caddy.Duration `json:"max_lifetime,omitempty"`

	// When the client's login ends, in Unix seconds or RFC 3339. The stream ends at the
	// same time. Placeholders are allowed. A client is refused with status 401 if the
	// value is empty, unreadable, in the past or more than ten years ahead.
	// Default: none.
	Expires string `json:"expires,omitempty"`

	// The bounds of the delay before a client reconnects. Each client gets a random
	// delay between them. Default: 1s and 5s.
	RetryMin *caddy.Duration `json:"retry_min,omitempty"`
	RetryMax *caddy.Duration `json:"retry_max,omitempty"`

	// Whether streams over HTTP/1.1 and HTTP/3 are taken over from the server when they
	// have begun: over HTTP/1.1 a stream then needs a fraction of the memory. Set "off" if
	// another handler must see the whole stream. Default: "on".
	Takeover string `json:"takeover,omitempty"`

	// The most connections that the hub may have open. This route refuses a client above
	// the limit and tells it to come back after 30 to 90 seconds. Independent of this
	// option, streams always leave 64 file descriptors of the process free, or 5 % of
	// its limit if that is more. Default: no limit.
	MaxConnections int `json:"max_connections,omitempty"`

	// The same limit for the connections of one user. It does not apply to anonymous
	// clients. Default: no limit.
	MaxConnectionsPerUser int `json:"max_connections_per_user,omitempty"`

	// The same limit for the connections from one client address (Caddy's client_ip), or
	// from one /64 of IPv6. Clients of a unix socket have no address, so the limit does
	// not apply to them unless the server option trusted_proxies_unix is set.
	// Default: no limit.
	MaxConnectionsPerIP int `json:"max_connections_per_ip,omitempty"`

	app           *App
	logger        *zap.Logger
	hub           *hub.Hub
	settings      *hub.Settings
	warnNoAddress func()     // nil without MaxConnectionsPerIP; warns once
	listWarning   *sync.Once // for a placeholder of topics that holds a list
}

// CaddyModule returns the Caddy module information.
func (Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.sse",
		New: func() caddy.Module { return new(Handler) },
	}
}

// Provision sets the defaults and opens the hub.
func (h *Handler) Provision(ctx caddy.Context) error {
	orDefault(&h.Hub, defaultHub)
	orDefault(&h.User, "{http.auth.user.id}")
	h.User, h.Session, h.Expires = canonicalizeHeaders(h.User), canonicalizeHeaders(h.Session), canonicalizeHeaders(h.Expires)
	h.Grants, h.listWarning = canonicalizeHeaders(h.Grants), new(sync.Once)
	for i, topic := range h.Topics {
		h.Topics[i] = canonicalizeHeaders(topic)
	}
	orDefault(&h.Heartbeat, caddy.Duration(15*time.Second))
	orDefault(&h.ConnectionTimeout, caddy.Duration(time.Minute))
	name := h.Hub // streams outlive the handler, so they must not refer to it
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
	h.warnOfConstants()
	app, err := ctx.App("sse")
	if err != nil {
		return err
	}
	h.app = app.(*App)
	if h.hub, err = h.app.holdForRoute(h.Hub, h.settings); err != nil {
		return err
	}
	srv, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if h.MaxConnectionsPerIP > 0 {
		h.warnNoAddress = warnerOfNoAddress(h.logger, srv)
	}
	if ok {
		srv.RegisterOnShutdown(h.app.onServerShutdown)
		srv.RegisterOnStop(h.app.onServersStopped)
		srv.RegisterConnContext(rememberConn)
	}
	return nil
}

// Validate rejects values that are out of range or contradict each other.
func (h *Handler) Validate() error {
	s := h.settings
	for name, d := range map[string]time.Duration{
		"heartbeat": s.Heartbeat, "connection_timeout": s.Timeout, "max_lifetime": s.MaxLifetime,
		"retry_min": s.RetryMin, "retry_max": s.RetryMax,
	} {
		if err := validateDuration(name, d); err != nil {
			return err
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
			return fmt.Errorf("%s is %d: it must not be negative; leave it out for no limit", name, n)
		}
	}
	if h.Takeover != "" && h.Takeover != "on" && h.Takeover != "off" {
		return fmt.Errorf("takeover is %q: it must be on or off", h.Takeover)
	}
	for _, topic := range h.Topics {
		if err := validateTopic(topic); err != nil {
			return err
		}
	}
	return nil
}

// minDuration is the shortest duration of an option, other than 0. A number in JSON counts
// nanoseconds, so 15 in place of "15s" would make heartbeats that keep a CPU busy.
const minDuration = time.Millisecond

func validateDuration(name string, d time.Duration) error {
	switch {
	case d < 0:
		return fmt.Errorf("%s is %s: it must not be negative; leave it out for the default", name, d)
	case d > 0 && d < minDuration:
		return fmt.Errorf("%s is %s: it must be at least %s; a number in JSON counts nanoseconds, so write a string such as \"15s\"", name, d, minDuration)
	}
	return nil
}

func validateRetry(low, high time.Duration) error {
	if low > high {
		return fmt.Errorf("retry: the lower bound %s is above the upper bound %s: give the lower bound first", low, high)
	}
	return nil
}

func validateTopic(topic string) error {
	// The values of placeholders are checked at each request.
	filled := placeholders.ReplaceAllLiteralString(topic, "x")
	if len(filled) > hub.MaxNameLength {
		return fmt.Errorf("topic %.20q... has %d bytes: at most %d are allowed", topic, len(filled), hub.MaxNameLength)
	}
	_, err := hub.ParseTopic(filled)
	return err
}

// ServeHTTP answers with a stream and returns when the stream has ended, or when the
// hub has taken it over.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) (err error) {
	keepHTTP1(w, r)
	turn, err := beginTurns.take(r.Context())
	if err != nil {
		return caddyhttp.Error(statusClientGone, err)
	}
	var chain []any
	if h.Takeover != "off" {
		chain = takeOverChain(w, r)
	}
	var s *sink
	open := func() { s, err = h.open(w, r, turn, chain) }
	if chain != nil {
		open() // its stack may grow, because this goroutine ends when the hub takes the stream over
	} else {
		h.hub.OnLargeStack(open)
	}
	if s != nil {
		s.serve(r.Context())
	}
	return err
}

// open checks the request, connects to the hub and begins the stream. It returns a
// sink if the handler's goroutine must write the rest of the stream, and nil if the
// request is answered or the stream is taken over. It gives the turn back before it
// answers. chain is that of [takeOverChain], or nil.
func (h *Handler) open(w http.ResponseWriter, r *http.Request, turn *turn, chain []any) (*sink, error) {
	defer turn.giveBack()
	req, status, err := h.parseRequest(r)
	learnTracerProvider(r.Context())
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		status, err = http.StatusMethodNotAllowed, errNotGET
	}
	if err != nil {
		turn.giveBack()
		h.countRefusedStream(status)
		return nil, refuse(w, r, status, err)
	}
	setStreamHeader(w.Header())
	if isHEAD(r) {
		turn.giveBack()
		w.WriteHeader(http.StatusOK)
		return nil, nil
	}
	if name := typeWithoutFlush(w); name != "" {
		return nil, h.answerCannotStream(w, r, errCannotFlush(name))
	}
	conn, err := h.connect(w, r, req, turn)
	if conn.Conn == nil {
		return nil, err
	}
	if req.Poll { // over HTTP/1.1 the client sends its next poll on the same connection
		chain = nil
	}
	return h.startStream(w, r, conn, req, chain)
}

var errNotGET = errors.New("method not allowed: use GET")

func errCannotFlush(writer string) error {
	return fmt.Errorf("the response writer %s of a handler before sse cannot flush: keep that handler away from the path of sse", writer)
}

func setStreamHeader(header http.Header) {
	header.Set("Content-Type", "text/event-stream")
	// no-transform keeps encode and proxies from buffering the stream. [RFC 9111 5.2.2.6]
	header.Set("Cache-Control", "no-cache, no-transform")
	header.Set("X-Accel-Buffering", "no")
}

// connect asks the hub for a connection, and gives the turn back. If the hub refuses, connect
// answers with the block that says so, and returns no connection.
func (h *Handler) connect(w http.ResponseWriter, r *http.Request, req hub.Request, turn *turn) (hub.Pending, error) {
	req.Suspend = func(wait func() error) error { return turn.suspend(r.Context(), wait) }
	conn, err := h.hub.Connect(r.Context(), req)
	turn.giveBack()
	if err == nil {
		return conn, nil
	}
	refusal, ok := errors.AsType[*hub.Refusal](err)
	if !ok {
		return hub.Pending{}, caddyhttp.Error(statusClientGone, err)
	}
	if refusal.Reason == hub.Shutdown || req.Full {
		// The client must not reuse the connection: its server ends, or it holds one of
		// the last file descriptors. Over HTTP/2 the server sends GOAWAY for this
		// header. [RFC 9113 6.8]
		w.Header().Set("Connection", "close")
	}
	w.WriteHeader(http.StatusOK)
	_, err = w.Write(refusal.Block())
	return hub.Pending{}, err
}

// answerCannotStream answers 500, and counts the refused stream.
func (h *Handler) answerCannotStream(w http.ResponseWriter, r *http.Request, reason error) error {
	h.countRefusedStream(http.StatusInternalServerError)
	return abandonStream(w, r, h.logger, reason)
}

// abandonStream removes the header of a stream that cannot be sent, and returns the error of
// a 500. The reason is a mistake in the config, so it is logged as an error once: here if
// the server has handle_errors, else by Caddy.
func abandonStream(w http.ResponseWriter, r *http.Request, logger *zap.Logger, reason error) error {
	for _, name := range []string{"Content-Type", "Cache-Control", "X-Accel-Buffering", "X-Content-Type-Options", "Connection"} {
		w.Header().Del(name)
	}
	if hasErrorRoutes(serverOf(r)) {
		logger.Error("cannot stream", zap.Error(reason))
	}
	return caddyhttp.Error(http.StatusInternalServerError, reason)
}

// statusClientGone is for the access log: the client is gone and receives no status.
const statusClientGone = 499

// Interface guards.
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddy.Validator             = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
