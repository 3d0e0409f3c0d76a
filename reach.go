package caddysse

import (
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
	"go.uber.org/zap"
)

// A catch-all handle hides sse, and try_files makes another path of its own, without a
// word. So each path of sse is followed through the routes when a config starts. What
// is not certain is not said.

// warnOfHidden logs which streams of this config no request can reach.
func (a *App) warnOfHidden() {
	app, err := a.ctx.AppIfConfigured("http")
	if err != nil {
		return
	}
	for _, server := range app.(*caddyhttp.App).Servers {
		eachHandler(server.Routes, nil, func(h *Handler, parents []*caddyhttp.Route) {
			host, paths := address(parents)
			var fields []zap.Field
			for _, path := range paths {
				p := newProbe(h, parents, server, host, path)
				if slices.ContainsFunc(parents, func(route *caddyhttp.Route) bool { return p.matchesPath(route) != yes }) {
					return // it is below a prefix that is taken away
				}
				cause, f := p.through(server.Routes, 0)
				if f == reaches || f == uncertain {
					return
				}
				fields = []zap.Field{zap.String("host", host), zap.String("path", path), zap.String("answered_by", cause)}
				if to := p.request.URL.Path; to != path {
					fields = append(fields, zap.String("rewritten_to", to))
				}
			}
			if len(paths) > 0 {
				h.logger.Warn("no request reaches this stream: give it a handle of its own, and put what answers or rewrites all paths into another", fields...)
			}
		})
	}
}

// eachHandler calls f for each handler of a kind in the routes, with the routes that it
// is in.
func eachHandler[H caddyhttp.MiddlewareHandler](routes caddyhttp.RouteList, parents []*caddyhttp.Route, f func(H, []*caddyhttp.Route)) {
	for i := range routes {
		parents := append(slices.Clip(parents), &routes[i])
		for _, handler := range routes[i].Handlers {
			switch handler := handler.(type) {
			case H:
				f(handler, parents)
			case *caddyhttp.Subroute:
				eachHandler(handler.Routes, parents, f)
			}
		}
	}
}

// address gives requests that are meant for a stream: a host, which is empty if it is
// not certain, and a path for each that its routes name, or none if they are not
// certain.
func address(parents []*caddyhttp.Route) (host string, paths []string) {
	patterns := []string{"*"}
	for _, route := range parents {
		if len(route.MatcherSets) > 1 {
			return "", nil
		}
		for _, matcher := range slices.Concat(route.MatcherSets...) {
			switch matcher := matcher.(type) {
			case *caddyhttp.MatchHost:
				if host = ""; len(*matcher) == 1 && !strings.ContainsAny((*matcher)[0], "*{") {
					host = (*matcher)[0]
				}
			case *caddyhttp.MatchPath:
				patterns = *matcher
			}
		}
	}
	for _, pattern := range patterns {
		// A * at the end stands for something that is nobody's special case.
		path, wild := strings.CutSuffix(pattern, "*")
		if wild {
			path += "caddy-sse-probe"
		}
		path = "/" + strings.TrimPrefix(path, "/")
		if strings.ContainsAny(path, `*{%\?[`) {
			return "", nil
		}
		paths = append(paths, path)
	}
	return host, paths
}

// probe is a request for a handler that is followed through the routes.
type probe struct {
	handler caddyhttp.MiddlewareHandler
	parents []*caddyhttp.Route // of the handler
	wary    bool               // it does not get through what may refuse it
	host    string
	request *http.Request
	groups  map[string]bool
}

func newProbe(h caddyhttp.MiddlewareHandler, parents []*caddyhttp.Route, server *caddyhttp.Server, host, path string) *probe {
	r := &http.Request{
		Method: http.MethodGet, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: make(http.Header),
		Host: host, URL: &url.URL{Path: path}, RequestURI: path, RemoteAddr: "127.0.0.1:1",
	}
	r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), nil, server)
	return &probe{handler: h, parents: parents, host: host, request: r, groups: make(map[string]bool)}
}

// known reports whether all placeholders have for the probe the value that they have
// for a request.
func (p *probe) known(values ...string) bool {
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

// fate is what becomes of the request.
type fate int

const (
	uncertain fate = iota
	goesOn         // to what follows
	reaches        // the handler
	answered       // by something else
)

// through follows the request through a list of routes, which is this deep.
func (p *probe) through(routes caddyhttp.RouteList, depth int) (cause string, f fate) {
	for i := range routes {
		route := &routes[i]
		ours := depth < len(p.parents) && route == p.parents[depth]
		if route.Group != "" && p.groups[route.Group] {
			if ours {
				return "another route of its group", answered
			}
			continue
		}
		matches := p.matches(route.MatcherSets)
		if ours {
			// It is asked for by a request that fits, whatever else is matched.
			matches = p.matchesPath(route)
		}
		switch matches {
		case unknown:
			if p.passes(route.Handlers) && route.Group == "" && !route.Terminal {
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
			if cause, f := p.handle(handler, depth); f != goesOn {
				return cause, f
			}
		}
		if route.Terminal {
			return "nothing", answered
		}
	}
	return "nothing", goesOn
}

// handle follows the request through a handler.
func (p *probe) handle(handler caddyhttp.MiddlewareHandler, depth int) (cause string, f fate) {
	if handler == p.handler {
		return "", reaches
	}
	switch h := handler.(type) {
	case *Handler:
		return "sse", answered
	case *API:
		return "sse_api", answered
	case *caddyhttp.Subroute:
		return p.through(h.Routes, depth+1)
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
		if !p.known(values...) {
			return "", uncertain
		}
		h.Rewrite(p.request, p.request.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer))
		return "", goesOn
	case *caddyhttp.VarsMiddleware:
		return "", p.setVars(*h)
	}
	if p.passes([]caddyhttp.MiddlewareHandler{handler}) {
		return "", goesOn
	}
	return "", uncertain
}

// setVars sets the variables that tell where files are.
func (p *probe) setVars(vars caddyhttp.VarsMiddleware) fate {
	for _, name := range []string{"root", "fs"} {
		value, ok := vars[name].(string)
		if !ok {
			continue
		}
		if !p.known(value) {
			return uncertain
		}
		repl := p.request.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
		caddyhttp.SetVar(p.request.Context(), name, repl.ReplaceAll(value, ""))
	}
	return goesOn
}

// passesOn are handlers that leave the path alone, and that a request for a stream
// gets through.
var passesOn = []string{
	"authentication", "encode", "headers", "log_append", "map", "push", "request_body", "sse_cors", "timeouts", "tracing",
}

// passes reports whether the probe gets through the handlers.
func (p *probe) passes(handlers []caddyhttp.MiddlewareHandler) bool {
	return passes(handlers) && !(p.wary && slices.ContainsFunc(handlers, mayRefuse))
}

// mayRefuse tells handlers that pass on only whom they know.
func mayRefuse(handler caddyhttp.MiddlewareHandler) bool {
	switch handler.(type) {
	case *caddyauth.Authentication, *reverseproxy.Handler:
		return true
	}
	return false
}

// passes reports whether all of the handlers do.
func passes(handlers []caddyhttp.MiddlewareHandler) bool {
	for _, handler := range handlers {
		switch h := handler.(type) {
		case *reverseproxy.Handler:
			// forward_auth lets a request pass, or answers it.
			for _, response := range h.HandleResponse {
				for _, route := range response.Routes {
					if !passes(route.Handlers) {
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
			if !slices.Contains(passesOn, h.CaddyModule().ID.Name()) {
				return false
			}
		default:
			return false
		}
	}
	return true
}

// match is what a matcher says about the request.
type match int

const (
	unknown match = iota // it may depend on more than what the request has
	no
	yes
	refuses // it answers with an error
)

// matches reports whether one of the sets matches, or none is needed.
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
		if !p.known(*m...) {
			return unknown
		}
	case *fileserver.MatchFile:
		if !p.known(append([]string{m.Root, m.FileSystem}, m.TryFiles...)...) {
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

// matchesPath is matches with nothing but paths, for a route that has one set at most.
func (p *probe) matchesPath(route *caddyhttp.Route) match {
	for _, matcher := range slices.Concat(route.MatcherSets...) {
		if _, ok := matcher.(*caddyhttp.MatchPath); ok && p.matchesOne(matcher) != yes {
			return no
		}
	}
	return yes
}
