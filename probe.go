package caddysse

import (
	"iter"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/caddyauth"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/fileserver"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/rewrite"
)

// probe is a request that is followed through the routes to a handler.
type probe struct {
	routes        *siteRoutes
	handler       caddyhttp.MiddlewareHandler
	parents       []*caddyhttp.Route // the routes around the handler, the outermost first
	stoppedByAuth bool               // a handler that may refuse the request stops the probe
	host          string             // empty: it is not certain
	request       *http.Request
	groups        map[string]bool // groups that have a route that the probe has taken
}

func newProbe(h caddyhttp.MiddlewareHandler, parents []*caddyhttp.Route, routes *siteRoutes, method, host, path string) *probe {
	r := &http.Request{
		Method: method, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: make(http.Header),
		Host: host, URL: &url.URL{Path: path}, RequestURI: path, RemoteAddr: "127.0.0.1:1",
	}
	r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), nil, routes.server)
	return &probe{routes: routes, handler: h, parents: parents, host: host, request: r, groups: make(map[string]bool)}
}

// canResolve reports whether all placeholders have the same value for the probe as for a real
// request.
func (p *probe) canResolve(values ...string) bool {
	for _, value := range values {
		for _, placeholder := range placeholders.FindAllString(value, -1) {
			if strings.HasPrefix(placeholder, "{http.request.host") && p.host == "" {
				return false
			}
			if !slices.ContainsFunc(knownPlaceholders, func(prefix string) bool { return strings.HasPrefix(placeholder, prefix) }) {
				return false
			}
		}
	}
	return true
}

var knownPlaceholders = []string{
	"{http.request.uri", "{http.request.orig_uri", "{http.request.host", "{http.matchers.file.", "{http.vars.root}", "{http.vars.fs}", "{env.",
}

// fate is the result of following a probe.
type fate int

const (
	uncertain fate = iota
	goesOn         // the next route or handler gets the request
	reaches        // the request reaches the handler
	answered       // another handler answers the request
)

// followSite follows the probe through the routes of its server.
func (p *probe) followSite() (cause string, f fate) {
	return p.follow(p.routes.of(p.host, p.parents[0]), 0)
}

// follow follows the probe through a list of routes at the given depth of nesting. cause
// names the handler that answers.
func (p *probe) follow(routes iter.Seq[*caddyhttp.Route], depth int) (cause string, f fate) {
	for route := range routes {
		ours := depth < len(p.parents) && route == p.parents[depth]
		if route.Group != "" && p.groups[route.Group] {
			if ours {
				return "another route of its group", answered
			}
			continue
		}
		matches := p.matches(route.MatcherSets)
		if ours {
			// The probe's path comes from this route. Matchers of anything but paths and methods
			// are assumed to match.
			matches = p.matchesTarget(route)
		}
		switch matches {
		case unknown:
			if p.canPass(route.Handlers) && route.Group == "" && !route.Terminal {
				continue
			}
			return "", uncertain
		case no:
			continue
		case refuses:
			return "try_files", answered
		}
		if route.Group != "" {
			p.groups[route.Group] = true
		}
		for _, handler := range route.Handlers {
			if cause, f := p.followHandler(handler, depth); f != goesOn {
				return cause, f
			}
		}
		if route.Terminal {
			return "nothing", answered
		}
	}
	return "nothing", goesOn
}

// followHandler follows the probe through one handler.
func (p *probe) followHandler(handler caddyhttp.MiddlewareHandler, depth int) (cause string, f fate) {
	if handler == p.handler {
		return "", reaches
	}
	switch h := handler.(type) {
	case *Handler:
		return "sse", answered
	case *API:
		return "sse_api", answered
	case *caddyhttp.Subroute:
		return p.follow(eachRoute(h.Routes), depth+1)
	case *caddyhttp.StaticResponse:
		if h.StatusCode == "103" {
			return "", goesOn
		}
		return "respond", answered
	case *caddyhttp.StaticError:
		return "error", answered
	case *fileserver.FileServer:
		if h.PassThru {
			return "", goesOn
		}
		return "file_server", answered
	case *reverseproxy.Handler:
		if len(h.HandleResponse) == 0 {
			return "reverse_proxy", answered
		}
	case *rewrite.Rewrite:
		values := []string{h.URI, h.StripPathPrefix, h.StripPathSuffix}
		for _, part := range h.URISubstring {
			values = append(values, part.Find, part.Replace)
		}
		for _, part := range h.PathRegexp {
			values = append(values, part.Find, part.Replace)
		}
		if !p.canResolve(values...) {
			return "", uncertain
		}
		h.Rewrite(p.request, p.request.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer))
		return "", goesOn
	case *caddyhttp.VarsMiddleware:
		return "", p.setVars(*h)
	}
	if p.canPass([]caddyhttp.MiddlewareHandler{handler}) {
		return "", goesOn
	}
	return "", uncertain
}

// setVars sets the variables that say where files are.
func (p *probe) setVars(vars caddyhttp.VarsMiddleware) fate {
	for _, name := range []string{"root", "fs"} {
		value, ok := vars[name].(string)
		if !ok {
			continue
		}
		if !p.canResolve(value) {
			return uncertain
		}
		repl := p.request.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
		caddyhttp.SetVar(p.request.Context(), name, repl.ReplaceAll(value, ""))
	}
	return goesOn
}

// transparentHandlers are the names of handlers that do not change the path and that pass
// on a request for a stream.
var transparentHandlers = []string{
	"authentication", "encode", "headers", "log_append", "map", "push", "request_body", "sse_cors", "timeouts", "tracing",
}

// canPass reports whether all of the handlers pass the probe on.
func (p *probe) canPass(handlers []caddyhttp.MiddlewareHandler) bool {
	return areTransparent(handlers) && !(p.stoppedByAuth && slices.ContainsFunc(handlers, canRefuse))
}

// canRefuse reports whether the handler passes on only requests of known users.
func canRefuse(handler caddyhttp.MiddlewareHandler) bool {
	switch handler.(type) {
	case *caddyauth.Authentication, *reverseproxy.Handler:
		return true
	}
	return false
}

// areTransparent reports whether all of the handlers pass on a request for a stream and do
// not change its path.
func areTransparent(handlers []caddyhttp.MiddlewareHandler) bool {
	for _, handler := range handlers {
		switch h := handler.(type) {
		case *reverseproxy.Handler:
			// forward_auth passes a request on, or answers it.
			for _, response := range h.HandleResponse {
				for _, route := range response.Routes {
					if !areTransparent(route.Handlers) {
						return false
					}
				}
			}
			if len(h.HandleResponse) == 0 {
				return false
			}
		case *caddyhttp.VarsMiddleware:
			if (*h)["root"] != nil || (*h)["fs"] != nil {
				return false
			}
		case caddy.Module:
			if !slices.Contains(transparentHandlers, h.CaddyModule().ID.Name()) {
				return false
			}
		default:
			return false
		}
	}
	return true
}

// match is the result of a matcher for the probe.
type match int

const (
	unknown match = iota // it may depend on properties that the probe does not have
	no
	yes
	refuses // the matcher makes Caddy answer with an error
)

// matches returns whether one of the sets matches. No sets match every request.
func (p *probe) matches(sets caddyhttp.MatcherSets) match {
	result := no
	if len(sets) == 0 {
		return yes
	}
	for _, set := range sets {
		switch m := p.matchesSet(set); {
		case m == unknown:
			result = unknown
		case m != no && result == no:
			return m
		}
	}
	return result
}

func (p *probe) matchesSet(set caddyhttp.MatcherSet) match {
	result := yes
	for _, matcher := range set {
		switch m := p.matchesOne(matcher); {
		case m == no:
			return no
		case m == unknown, m == refuses && result == yes:
			result = m
		}
	}
	return result
}

func (p *probe) matchesOne(matcher any) match {
	switch m := matcher.(type) {
	case *caddyhttp.MatchHost:
		if p.host == "" {
			return unknown
		}
	case *caddyhttp.MatchNot:
		switch p.matches(m.MatcherSets) {
		case yes:
			return no
		case no:
			return yes
		}
		return unknown
	case *caddyhttp.MatchPath:
		if !p.canResolve(*m...) {
			return unknown
		}
	case *fileserver.MatchFile:
		if !p.canResolve(append([]string{m.Root, m.FileSystem}, m.TryFiles...)...) {
			return unknown
		}
	case *caddyhttp.MatchPathRE, *caddyhttp.MatchMethod:
	default:
		return unknown
	}
	ok, err := matcher.(caddyhttp.RequestMatcherWithError).MatchWithError(p.request)
	switch {
	case err != nil:
		return refuses
	case ok:
		return yes
	}
	return no
}

// matchesTarget is matches with the matchers of paths and methods only, for a route with at
// most one set.
func (p *probe) matchesTarget(route *caddyhttp.Route) match {
	for _, matcher := range slices.Concat(route.MatcherSets...) {
		switch matcher.(type) {
		case *caddyhttp.MatchPath, *caddyhttp.MatchMethod:
			if p.matchesOne(matcher) != yes {
				return no
			}
		}
	}
	return yes
}
