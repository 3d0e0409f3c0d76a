package caddysse

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
)

// placeholders finds Caddy's placeholders in a config value.
var placeholders = regexp.MustCompile(`\{[^{}]+\}`)

// fillPlaceholders replaces the placeholders in template by their values. It fails
// closed: if one of them is unknown or empty, the result is empty and the error names
// the placeholder.
func fillPlaceholders(repl *caddy.Replacer, template string) (string, error) {
	s, err := repl.ReplaceOrErr(template, true, true)
	if err != nil {
		return "", err
	}
	return s, nil
}

// warnOfConstants logs the options that have the same value for every client, because they
// have no placeholder.
func (h *Handler) warnOfConstants() {
	for _, option := range [...]struct{ name, value string }{
		{"user", h.User}, {"session", h.Session}, {"grants", h.Grants}, {"expires", h.Expires},
	} {
		if option.value != "" && !placeholders.MatchString(option.value) {
			h.logger.Warn("an option has the same value for every client: write placeholders in braces, such as {http.reverse_proxy.header.X-SSE-User}",
				zap.String("option", option.name), zap.String("value", option.value))
		}
	}
}

// canonicalizeHeaders puts the header names in placeholders into the canonical form of
// HTTP, since Caddy looks them up letter for letter.
func canonicalizeHeaders(template string) string {
	return responseHeaders.ReplaceAllStringFunc(template, func(placeholder string) string {
		name := strings.LastIndexByte(placeholder, '.') + 1
		return placeholder[:name] + http.CanonicalHeaderKey(placeholder[name:])
	})
}

var responseHeaders = regexp.MustCompile(`\{http\.(reverse_proxy|intercept)\.header\.[^{}.]+`)

// hashSession returns the first 16 bytes of the SHA-256 of a session's value in hex. The
// value is a secret, so only the hash is kept.
func hashSession(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:16])
}

// refuse answers with an error: through handle_errors if one of its routes takes the error,
// else with the reason as plain text.
func refuse(w http.ResponseWriter, r *http.Request, status int, reason error) error {
	err := caddyhttp.Error(status, reason)
	if srv := serverOf(r); hasErrorRoutes(srv) && hasRoute(srv.Errors.Routes, srv.Errors.WithError(r, err)) {
		return err
	}
	w.Header().Set("Cache-Control", "no-store")
	http.Error(w, reason.Error(), status)
	return nil
}

// serverOf returns the server that has received the request; nil: it is not known.
func serverOf(r *http.Request) *caddyhttp.Server {
	srv, _ := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	return srv
}

// hasErrorRoutes reports whether a site of the server has handle_errors.
func hasErrorRoutes(srv *caddyhttp.Server) bool {
	return srv != nil && srv.Errors != nil && len(srv.Errors.Routes) > 0
}

// hasRoute reports whether one of the routes takes the request. If no error route does,
// because all are of other sites or for other statuses, Caddy answers without a body.
func hasRoute(routes caddyhttp.RouteList, r *http.Request) bool {
	return slices.ContainsFunc(routes, func(route caddyhttp.Route) bool {
		matches, err := route.MatcherSets.AnyMatchWithError(r)
		return err != nil || matches && slices.ContainsFunc(route.Handlers, func(h caddyhttp.MiddlewareHandler) bool {
			sub, ok := h.(*caddyhttp.Subroute)
			return !ok || hasRoute(sub.Routes, r)
		})
	})
}

// orDefault sets a config value that was left out to its default.
func orDefault[T comparable](value *T, def T) {
	var zero T
	if *value == zero {
		*value = def
	}
}

func durationOr(d *caddy.Duration, def time.Duration) time.Duration {
	if d == nil {
		return def
	}
	return time.Duration(*d)
}
