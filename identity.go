package caddysse

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"regexp"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// placeholders finds Caddy's placeholders in a config value.
var placeholders = regexp.MustCompile(`\{[^{}]+\}`)

// fill puts values in the place of placeholders. It fails closed: if one is
// unknown or empty, so is the whole.
func fill(repl *caddy.Replacer, template string) string {
	s, err := repl.ReplaceOrErr(template, true, true)
	if err != nil {
		return ""
	}
	return s
}

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
