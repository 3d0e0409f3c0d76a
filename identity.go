package caddysse

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// placeholders finds Caddy's placeholders in a config value.
var placeholders = regexp.MustCompile(`\{[^{}]+\}`)

// fill puts values in the place of placeholders. It fails closed: if one is unknown
// or empty, the whole is empty, and the error names it.
func fill(repl *caddy.Replacer, template string) (string, error) {
	s, err := repl.ReplaceOrErr(template, true, true)
	if err != nil {
		return "", err
	}
	return s, nil
}

// canonical puts the names of response headers in placeholders into the canonical
// form of HTTP, in which alone Caddy finds them.
func canonical(template string) string {
	return responseHeaders.ReplaceAllStringFunc(template, func(placeholder string) string {
		name := strings.LastIndexByte(placeholder, '.') + 1
		return placeholder[:name] + http.CanonicalHeaderKey(placeholder[name:])
	})
}

var responseHeaders = regexp.MustCompile(`\{http\.(reverse_proxy|intercept)\.header\.[^{}.]+`)

// hashSession is what is kept of a session's secret: 16 bytes of its SHA-256.
func hashSession(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:16])
}

// refuse answers with an error: through handle_errors if the site has any, else
// with the reason as plain text.
func refuse(w http.ResponseWriter, r *http.Request, status int, reason error) error {
	if handlesErrors(r) {
		return caddyhttp.Error(status, reason)
	}
	w.Header().Set("Cache-Control", "no-store")
	http.Error(w, reason.Error(), status)
	return nil
}

// handlesErrors reports whether the site has handle_errors.
func handlesErrors(r *http.Request) bool {
	srv, _ := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	return srv != nil && srv.Errors != nil && len(srv.Errors.Routes) > 0
}

// orDefault sets a config value that was left out.
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
