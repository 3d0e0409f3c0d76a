package caddysse

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
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
	// The origins whose pages may read streams, such as https://app.example.com, or
	// https://*.example.com for all names that have one label in place of the *; or
	// only * for all origins. Pages of listed origins may send the visitor's
	// credentials, others may not. Default: none; at least one must be given.
	Origins []string `json:"origins,omitempty"`

	// More request headers that pages may send, beside Authorization and
	// Last-Event-ID. Default: none.
	Headers []string `json:"headers,omitempty"`

	exact    map[string]bool
	patterns []originPattern
	allowed  string // the value of Access-Control-Allow-Headers
}

// originPattern is an origin with a * in the place of its first label.
type originPattern struct{ scheme, domain string } // https:// and .example.com

func (p originPattern) matches(origin string) bool {
	rest, ok := strings.CutPrefix(origin, p.scheme)
	label, under := strings.CutSuffix(rest, p.domain)
	return ok && under && oneLabel.MatchString(label)
}

// oneLabel is a label of a name as browsers send it.
var oneLabel = regexp.MustCompile(`^[a-z0-9_-]+$`)

// CaddyModule returns the Caddy module information.
func (CORS) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.sse_cors",
		New: func() caddy.Module { return new(CORS) },
	}
}

// Provision sorts the origins into those that are exact and those that are patterns.
func (c *CORS) Provision(caddy.Context) error {
	c.exact = make(map[string]bool)
	for _, origin := range c.Origins {
		if scheme, domain, ok := strings.Cut(origin, "://*"); ok {
			c.patterns = append(c.patterns, originPattern{scheme + "://", domain})
		} else {
			c.exact[origin] = true
		}
	}
	c.allowed = strings.Join(append([]string{"Last-Event-ID", "Authorization"}, c.Headers...), ", ")
	return nil
}

// Validate refuses what no browser would send.
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
		if err := validateOrigin(origin); err != nil {
			return fmt.Errorf("origin %q: %w", origin, err)
		}
	}
	for _, name := range c.Headers {
		if !headerName.MatchString(name) {
			return fmt.Errorf("header %q: it must be the name of a header, such as X-Tenant; there are no wildcards", name)
		}
	}
	return nil
}

var headerName = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

func validateOrigin(origin string) error {
	// A * that is a label is checked like any other label.
	scheme, host, wild := strings.Cut(origin, "://*.")
	named := origin
	if wild {
		named = scheme + "://x." + host
	}
	u, err := url.Parse(named)
	if err != nil || u.Host == "" || named != u.Scheme+"://"+u.Host {
		return errors.New("it must be a scheme and a host, such as https://app.example.com")
	}
	if strings.Contains(named, "*") {
		return errors.New("a * must be the whole first label of the host, as in https://*.example.com")
	}
	if named != strings.ToLower(named) || u.Port() != "" && u.Port() == defaultPorts[u.Scheme] {
		return errors.New("browsers send it in small letters, with a port only if it is not the scheme's own")
	}
	if domain := strings.TrimPrefix(u.Hostname(), "x."); wild && !strings.Contains(domain, ".") && domain != "localhost" {
		return fmt.Errorf("anybody can have a name below %s: name a domain of yours, as in https://*.example.com", domain)
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
	if !all && !c.lists(origin) {
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
		header.Set("Access-Control-Allow-Headers", c.allowed)
		header.Set("Access-Control-Max-Age", "600")
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	return next.ServeHTTP(w, r)
}

// lists reports whether the origin is listed, or fits a pattern that is.
func (c *CORS) lists(origin string) bool {
	return c.exact[origin] || slices.ContainsFunc(c.patterns, func(p originPattern) bool { return p.matches(origin) })
}

// Interface guards.
var (
	_ caddy.Provisioner           = (*CORS)(nil)
	_ caddy.Validator             = (*CORS)(nil)
	_ caddyhttp.MiddlewareHandler = (*CORS)(nil)
)
