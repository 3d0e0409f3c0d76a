package caddysse

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() {
	caddy.RegisterModule(CORS{})
}

// CORS lets pages of other origins read a stream. It answers preflight requests
// and adds its headers to every answer, also to those of authentication handlers
// that come after it.
type CORS struct {
	// The origins whose pages may read streams, such as https://app.example.com,
	// or only * for all. Pages of listed origins may send the visitor's
	// credentials, others may not. Default: none; at least one must be given.
	Origins []string `json:"origins,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (CORS) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.sse_cors",
		New: func() caddy.Module { return new(CORS) },
	}
}

// Validate refuses what no browser would send as an Origin.
func (c *CORS) Validate() error {
	if len(c.Origins) == 0 {
		return errors.New("at least one origin must be given; a single * is a matcher, so for all origins it is: sse_cors * *")
	}
	for _, origin := range c.Origins {
		if origin == "*" {
			if len(c.Origins) > 1 {
				return fmt.Errorf("* stands for all origins: leave out the others")
			}
			continue
		}
		u, err := url.Parse(origin)
		if err != nil || u.Host == "" || origin != u.Scheme+"://"+u.Host {
			return fmt.Errorf("origin %q: it must be a scheme and a host, such as https://app.example.com", origin)
		}
		if strings.Contains(origin, "*") || origin != strings.ToLower(origin) || u.Port() != "" && u.Port() == defaultPorts[u.Scheme] {
			return fmt.Errorf("origin %q: browsers send it in small letters, with a port only if it is not the scheme's own, and there are no wildcards", origin)
		}
	}
	return nil
}

var defaultPorts = map[string]string{"http": "80", "https": "443"}

// ServeHTTP answers preflights and passes everything else on.
func (c *CORS) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	origin := r.Header.Get("Origin")
	preflight := r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != ""
	header := w.Header()
	all := c.Origins[0] == "*"
	if !all {
		header.Add("Vary", "Origin")
	}
	if origin == "" {
		return next.ServeHTTP(w, r)
	}
	if !all && !slices.Contains(c.Origins, origin) {
		if preflight {
			w.WriteHeader(http.StatusForbidden)
			return nil
		}
		return next.ServeHTTP(w, r)
	}
	if all {
		header.Set("Access-Control-Allow-Origin", "*")
	} else {
		header.Set("Access-Control-Allow-Origin", origin)
		header.Set("Access-Control-Allow-Credentials", "true")
	}
	header.Set("Access-Control-Expose-Headers", "Retry-After")
	if preflight {
		header.Set("Access-Control-Allow-Methods", "GET")
		header.Set("Access-Control-Allow-Headers", "Last-Event-ID, Authorization")
		header.Set("Access-Control-Max-Age", "600")
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	return next.ServeHTTP(w, r)
}

// Interface guards.
var (
	_ caddy.Validator             = (*CORS)(nil)
	_ caddyhttp.MiddlewareHandler = (*CORS)(nil)
)
