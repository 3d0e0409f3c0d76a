package caddysse

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
)

// sse_api has no access control of its own. So when a config starts, a probe request
// without credentials is followed through the routes to each sse_api. Uncertain results are
// not reported.

// readyPath is the call that needs no protection.
const readyPath = "/sse/ready"

// apiMethods are the methods of the API. HEAD shows no more than GET.
var apiMethods = []string{http.MethodGet, http.MethodPost, http.MethodPatch, http.MethodDelete}

// warnOfAPIs logs each sse_api of this config that no request can reach, and each one that
// anybody can use.
func (a *App) warnOfAPIs() {
	app, err := a.ctx.AppIfConfigured("http")
	if err != nil {
		return
	}
	for _, server := range app.(*caddyhttp.App).Servers {
		routes, guarded := newSiteRoutes(server), isLocal(server) || asksForCertificate(server)
		eachHandler(server.Routes, nil, func(h *API, parents []*caddyhttp.Route) {
			if advice, fields := whyHidden(routes, h, parents, apiMethods...); advice != "" {
				a.logger.Warn("no request reaches this sse_api: "+advice, fields...)
			} else if !guarded && !slices.ContainsFunc(parents, hasGuard) {
				a.warnIfUnguarded(routes, h, parents)
			}
		})
	}
}

// warnIfUnguarded logs the first path of the sse_api that anybody can use, with the methods.
func (a *App) warnIfUnguarded(routes *siteRoutes, h *API, parents []*caddyhttp.Route) {
	_, paths := probeTarget(parents)
	host := probeHost(parents)
	for _, path := range paths {
		var open []string
		for _, method := range apiMethods {
			p := newProbe(h, parents, routes, method, host, path)
			p.stoppedByAuth = true
			if _, f := p.followSite(); f == reaches && needsGuard(method, p.request.URL.Path) {
				open = append(open, method)
			}
		}
		if len(open) == 0 {
			continue
		}
		a.logger.Warn("sse_api is open to everybody: anyone who reaches it can list clients and read events (GET), "+
			"publish to all clients (POST), or change and end streams (PATCH, DELETE); "+
			"put basic_auth or forward_auth for all methods before it, or `respond @outside 403` with a matcher of remote_ip, "+
			"or bind its site to 127.0.0.1", zap.String("host", host), zap.String("path", path), zap.Strings("methods", open))
		return
	}
}

// needsGuard reports whether the API serves requests with this method and path, and they
// need protection.
func needsGuard(method, path string) bool {
	prefix, wild := strings.CutSuffix(path, probeName)
	known := false
	for i := range endpoints {
		e := &endpoints[i]
		// The probe's name stands for the rest of any call.
		if e.matches(path) || wild && strings.HasPrefix(e.path, prefix) {
			known = true
			if e.methods[method] != nil && e.path != readyPath {
				return true
			}
		}
	}
	return !known
}

// isLocal reports whether all known addresses of the server are reachable only from this
// machine.
func isLocal(server *caddyhttp.Server) bool {
	return !slices.ContainsFunc(server.Listen, func(listen string) bool {
		addr, err := caddy.ParseNetworkAddress(listen)
		if err != nil || addr.IsUnixNetwork() || addr.IsFdNetwork() || addr.Host == "localhost" {
			return false
		}
		ip, err := netip.ParseAddr(addr.Host)
		return err != nil || !ip.IsLoopback()
	})
}

// asksForCertificate reports whether some site of the server requires a client
// certificate. It does not check which site.
func asksForCertificate(server *caddyhttp.Server) bool {
	for _, policy := range server.TLSConnPolicies {
		if auth := policy.ClientAuthentication; auth != nil && auth.Active() && auth.Mode != "request" && auth.Mode != "verify_if_given" {
			return true
		}
	}
	return false
}

// hasGuard reports whether the route matches on properties that a client cannot choose
// freely, such as its address.
func hasGuard(route *caddyhttp.Route) bool {
	return len(route.MatcherSets) > 0 && !slices.ContainsFunc(route.MatcherSets, isOpen)
}

// isOpen reports whether any client can send a request that the set matches.
func isOpen(set caddyhttp.MatcherSet) bool {
	return !slices.ContainsFunc(set, func(matcher any) bool {
		switch m := matcher.(type) {
		case *caddyhttp.MatchHost, *caddyhttp.MatchPath, *caddyhttp.MatchPathRE, *caddyhttp.MatchMethod, *caddyhttp.MatchProtocol:
			return false
		case *caddyhttp.MatchNot:
			return slices.ContainsFunc(m.MatcherSets, func(set caddyhttp.MatcherSet) bool { return !isOpen(set) })
		}
		return true
	})
}

// probeHost returns a host that the routes match, or "" if it is not certain.
func probeHost(parents []*caddyhttp.Route) (host string) {
	for _, route := range parents {
		for _, matcher := range slices.Concat(route.MatcherSets...) {
			if m, ok := matcher.(*caddyhttp.MatchHost); ok && len(*m) > 0 {
				host = strings.ReplaceAll((*m)[0], "*", "caddy-sse-probe")
			}
		}
	}
	if strings.Contains(host, "{") {
		return ""
	}
	return host
}
