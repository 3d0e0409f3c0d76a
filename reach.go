package caddysse

import (
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/fileserver"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"go.uber.org/zap"
)

// A catch-all handle hides a directive sse or sse_api, and try_files may rewrite its path.
// Caddy reports neither. So when a config starts, a probe request to each path of sse and
// sse_api is followed through the routes. Uncertain results are not reported.

// warnOfHidden logs the streams of this config that no request can reach.
func (a *App) warnOfHidden() {
	app, err := a.ctx.AppIfConfigured("http")
	if err != nil {
		return
	}
	for _, server := range app.(*caddyhttp.App).Servers {
		routes := newSiteRoutes(server)
		eachHandler(server.Routes, nil, func(h *Handler, parents []*caddyhttp.Route) {
			if advice, fields := whyHidden(routes, h, parents, http.MethodGet); advice != "" {
				h.logger.Warn("no request reaches this stream: "+advice, fields...)
			}
		})
	}
}

// whyHidden returns the advice to log if no request with one of the methods can reach the
// handler, and the fields of the log line. The advice is empty if a request may reach it.
func whyHidden(routes *siteRoutes, h caddyhttp.MiddlewareHandler, parents []*caddyhttp.Route, methods ...string) (advice string, fields []zap.Field) {
	host, paths := probeTarget(parents)
	for _, path := range paths {
		for _, method := range methods {
			p := newProbe(h, parents, routes, method, host, path)
			fields = []zap.Field{zap.String("host", host), zap.String("path", path)}
			if slices.ContainsFunc(parents, func(route *caddyhttp.Route) bool { return p.matchesTarget(route) != yes }) {
				around := p.findExclusion(path)
				if around == "" {
					return "", nil // an earlier handler may remove a prefix that is not known here
				}
				fields = append(fields, zap.String("around", around))
				advice = "its path does not match the path of the route around it; handle keeps a prefix of the path, and handle_path removes it"
				continue
			}
			cause, f := p.followSite()
			if f == reaches || f == uncertain {
				return "", nil
			}
			fields = append(fields, zap.String("answered_by", cause))
			if to := p.request.URL.Path; to != path {
				fields = append(fields, zap.String("rewritten_to", to))
			}
			advice = "put it into a handle of its own, and the directive that answers or rewrites all paths into another handle"
		}
	}
	return advice, fields
}

// findExclusion returns the path patterns of a route around the handler that exclude the
// path of the probe. The result is empty if no route certainly excludes the path.
func (p *probe) findExclusion(path string) (around string) {
	for _, route := range p.parents {
		for _, matcher := range slices.Concat(route.MatcherSets...) {
			m, ok := matcher.(*caddyhttp.MatchPath)
			if ok && p.matchesOne(m) == no && !canOverlap(*m, path) && !canChangePath(route.Handlers) {
				return strings.Join(*m, " ")
			}
		}
	}
	return ""
}

// canOverlap reports whether a pattern may match another path that the probe stands for.
func canOverlap(patterns []string, path string) bool {
	prefix, wild := strings.CutSuffix(strings.ToLower(path), probeName)
	return wild && slices.ContainsFunc(patterns, func(pattern string) bool {
		pattern = strings.TrimSuffix(strings.ToLower(pattern), "*")
		return strings.ContainsAny(pattern, globs) || strings.HasPrefix(pattern, prefix) || strings.HasPrefix(prefix, pattern)
	})
}

// canChangePath reports whether one of the handlers, or of the handlers in them, may change
// the path of a request.
func canChangePath(handlers []caddyhttp.MiddlewareHandler) bool {
	return slices.ContainsFunc(handlers, func(handler caddyhttp.MiddlewareHandler) bool {
		switch h := handler.(type) {
		case *caddyhttp.Subroute:
			return slices.ContainsFunc(h.Routes, func(route caddyhttp.Route) bool { return canChangePath(route.Handlers) })
		case *Handler, *API, *caddyhttp.StaticResponse, *caddyhttp.StaticError, *fileserver.FileServer, *caddyhttp.VarsMiddleware:
			return false
		case *reverseproxy.Handler:
			return len(h.HandleResponse) > 0 && !areTransparent([]caddyhttp.MiddlewareHandler{h})
		}
		return !areTransparent([]caddyhttp.MiddlewareHandler{handler})
	})
}

// eachHandler calls f for each handler of type H in the routes, with the routes around the
// handler, the outermost first.
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

const (
	// probeName replaces a * at the end of a path. No other route matches it on purpose.
	probeName = "caddy-sse-probe"
	// globs are the characters that make a path more than a prefix.
	globs = `*{%\?[`
)

// probeTarget returns the host and the paths of requests for a handler inside these routes.
// The host is empty if it is not certain. There are no paths if they are not certain.
func probeTarget(parents []*caddyhttp.Route) (host string, paths []string) {
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
		path, wild := strings.CutSuffix(pattern, "*")
		if wild {
			path += probeName
		}
		path = "/" + strings.TrimPrefix(path, "/")
		if strings.ContainsAny(path, globs) {
			return "", nil
		}
		paths = append(paths, path)
	}
	return host, paths
}
