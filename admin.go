package caddysse

import (
	"context"
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	_ "github.com/ea766355/caddy-sse/internal/command" // caddy sse
	"github.com/ea766355/caddy-sse/internal/runlog"
)

func init() {
	caddy.RegisterModule(AdminAPI{})
	caddy.RegisterModule(API{})
}

// AdminAPI serves the API on Caddy's admin endpoint, below /sse/.
type AdminAPI struct{}

// CaddyModule returns the Caddy module information.
func (AdminAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.sse",
		New: func() caddy.Module { return new(AdminAPI) },
	}
}

// Provision registers the metrics. The admin endpoint serves /metrics from its own
// registry, and Caddy provisions it before any app.
func (*AdminAPI) Provision(ctx caddy.Context) error { return registerMetrics(ctx) }

// Routes returns the routes of the API, which answers its errors as JSON. Without a route
// for /sse the admin endpoint would redirect it to /sse/.
func (*AdminAPI) Routes() []caddy.AdminRoute {
	handler := caddy.AdminHandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		return serveAPI(w, r)
	})
	return []caddy.AdminRoute{{Pattern: "/sse", Handler: handler}, {Pattern: "/sse/", Handler: handler}}
}

// API serves the same API on a route, below /sse/, for back ends that do not reach the
// admin endpoint. A client that reaches it can publish to everyone and list all
// connections, so an authentication handler must run before it. It refuses requests that
// browsers make from pages of other origins.
type API struct {
	shutdown context.Context // ends when the server begins to shut down
}

// CaddyModule returns the Caddy module information.
func (API) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.sse_api",
		New: func() caddy.Module { return new(API) },
	}
}

// Provision makes Caddy load the app sse.
func (a *API) Provision(ctx caddy.Context) error {
	a.shutdown = context.Background()
	if srv, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); ok {
		var cancel func()
		a.shutdown, cancel = context.WithCancel(a.shutdown)
		srv.RegisterOnShutdown(cancel)
	}
	_, err := ctx.App("sse")
	return err
}

// crossOrigin prevents that a page of another origin publishes with a visitor's login.
var crossOrigin = http.NewCrossOriginProtection()

// isUnsafeEarly reports whether the request changes something and came as early data (0-RTT),
// to this server or to a proxy, which then says so in a header. Any value of the header means
// that, since a client may have sent one, too, to hide that of the proxy.
// An attacker can send a copy of early data again, also from another address. A client sends
// the request again after the TLS handshake when it is answered with 425. [RFC 8470 3, 5]
func isUnsafeEarly(r *http.Request) bool {
	early := r.TLS != nil && !r.TLS.HandshakeComplete || r.Header["Early-Data"] != nil
	return early && r.Method != http.MethodGet && r.Method != http.MethodHead
}

// checkSource returns why a request is refused for the way in which it came, or nil.
func checkSource(r *http.Request) *apiError {
	if isUnsafeEarly(r) {
		return &apiError{
			Status:  http.StatusTooEarly,
			Message: "the request came before the TLS handshake was complete, as early data (0-RTT), which others can send again: send it after the handshake",
		}
	}
	if err := crossOrigin.Check(r); err != nil {
		return &apiError{
			Status:  http.StatusForbidden,
			Message: err.Error() + ": publish from the back end, or from a page of the same origin",
		}
	}
	return nil
}

// ServeHTTP answers an API request.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	if failure := checkSource(r); failure != nil {
		if r.URL.Path == "/sse/send" || r.URL.Path == "/sse/broadcast" {
			countRefusedPublish(r.Context(), requestedHubName(r), failure)
		}
		writeJSON(w, failure.Status, failure)
		return nil
	}
	err := serveAPI(w, r.WithContext(context.WithValue(r.Context(), shutdownKey{}, a.shutdown)))
	if err != nil {
		return abandonStream(w, r, runlog.Logger(a), err)
	}
	return nil
}

// Interface guards.
var (
	_ caddy.AdminRouter           = (*AdminAPI)(nil)
	_ caddy.Provisioner           = (*AdminAPI)(nil)
	_ caddy.Provisioner           = (*API)(nil)
	_ caddyhttp.MiddlewareHandler = (*API)(nil)
)
