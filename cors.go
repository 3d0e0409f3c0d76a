package caddysse

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() {
	caddy.RegisterModule(CORS{})
}

// CORS lets pages of other origins read a stream. It answers preflight requests and adds
// its headers to every answer, including those of authentication handlers after it.
type CORS struct {
	// The origins whose pages may read streams, such as https://app.example.com. In
	// https://*.example.com the * stands for one label. A single * stands for all
	// origins. Pages of listed origins may send the visitor's credentials; with a
	// single * no page may. At least one origin must be given. Default: none.
	Origins []string `json:"origins,omitempty"`

	// Request headers that pages may send in addition to Authorization and
	// Last-Event-ID. Default: none.
	Headers []string `json:"headers,omitempty"`

	exact    map[string]bool
	patterns []originPattern
	allowed  string // the value of Access-Control-Allow-Headers
}

// originPattern is an origin whose first label is a *.
type originPattern struct{ scheme, domain string } // https:// and .example.com

func (p originPattern) matches(origin string) bool {
	rest, ok := strings.CutPrefix(origin, p.scheme)
	label, under := strings.CutSuffix(rest, p.domain)
	return ok && under && oneLabel.MatchString(label)
}

// oneLabel matches one label of a host name in the form that browsers send.
var oneLabel = regexp.MustCompile(`^[a-z0-9_-]+$`)

// CaddyModule returns the Caddy module information.
func (CORS) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.sse_cors",
		New: func() caddy.Module { return new(CORS) },
	}
}

// Provision separates exact origins from patterns.
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

// Validate rejects origins and headers that no browser would send.
func (c *CORS) Validate() error {
	if len(c.Origins) == 0 {
		return errors.New("no origin given: name at least one; a single * is read as a matcher, so write `sse_cors * *` to allow all origins")
	}
	for _, origin := range c.Origins {
		if origin == "*" {
			if len(c.Origins) > 1 {
				return fmt.Errorf("* and %d other origins are given: * stands for all origins, so leave the others out", len(c.Origins)-1)
			}
			continue
		}
		if err := validateOrigin(origin); err != nil {
			return fmt.Errorf("invalid origin %q: %w", origin, err)
		}
	}
	for _, name := range c.Headers {
		if !headerName.MatchString(name) {
			return fmt.Errorf("invalid header %q: it must be the name of a header, such as X-Tenant, without wildcards", name)
		}
	}
	return nil
}

var headerName = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

func validateOrigin(origin string) error {
	// A * is checked like any other label.
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
		return errors.New("a * must be the whole first label of the host, such as https://*.example.com")
	}
	if strings.ContainsFunc(named, func(r rune) bool { return r > unicode.MaxASCII }) {
		return errors.New("it must be in Punycode, as browsers send it, such as https://xn--bcher-kva.example")
	}
	if !isPort(u.Port()) || strings.HasSuffix(u.Host, ":") {
		return errors.New("the port must be 1 to 65535 and have no leading zero, as browsers send it")
	}
	if named != strings.ToLower(named) || u.Port() != "" && u.Port() == defaultPorts[u.Scheme] {
		return errors.New("it must be lower case and without the default port, as browsers send it")
	}
	if domain := strings.TrimPrefix(u.Hostname(), "x."); wild && !strings.Contains(domain, ".") && domain != "localhost" {
		return fmt.Errorf("anybody can register a name below %s: give a domain of your own, such as https://*.example.com", domain)
	}
	return nil
}

// isPort reports whether a browser sends the port in this form. The empty port is the
// default of the scheme.
func isPort(port string) bool {
	n, err := strconv.ParseUint(port, 10, 16)
	return port == "" || err == nil && n > 0 && port == strconv.FormatUint(n, 10)
}

var defaultPorts = map[string]string{"http": "80", "https": "443"}

// ServeHTTP answers preflight requests and passes all others on.
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
	if !all && !c.isListed(origin) {
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

// isListed reports whether the origin is listed or matches a listed pattern.
func (c *CORS) isListed(origin string) bool {
	return c.exact[origin] || slices.ContainsFunc(c.patterns, func(p originPattern) bool { return p.matches(origin) })
}

// Interface guards.
var (
	_ caddy.Provisioner           = (*CORS)(nil)
	_ caddy.Validator             = (*CORS)(nil)
	_ caddyhttp.MiddlewareHandler = (*CORS)(nil)
)
