package caddysse

import (
	"iter"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// siteRoutes are the outermost routes of a server, with an index by host. Without the index
// each probe would look at the routes of all sites, and a config with thousands of sites
// would take minutes to load.
type siteRoutes struct {
	server *caddyhttp.Server
	byHost map[string][]int // the routes that match only hosts that are known
	rest   []int            // all other routes
}

func newSiteRoutes(server *caddyhttp.Server) *siteRoutes {
	s := &siteRoutes{server: server, byHost: make(map[string][]int)}
	for i := range server.Routes {
		hosts := hostsOf(&server.Routes[i])
		if hosts == nil {
			s.rest = append(s.rest, i)
		}
		for _, host := range hosts {
			s.byHost[host] = append(s.byHost[host], i)
		}
	}
	return s
}

// of returns the routes that may match the host, and the route ours, in their order. The
// empty host stands for any host.
func (s *siteRoutes) of(host string, ours *caddyhttp.Route) iter.Seq[*caddyhttp.Route] {
	if host == "" {
		return eachRoute(s.server.Routes)
	}
	indexes := slices.Concat(s.rest, s.byHost[strings.ToLower(host)])
	for i := range s.server.Routes {
		if &s.server.Routes[i] == ours {
			indexes = append(indexes, i)
		}
	}
	slices.Sort(indexes)
	return func(yield func(*caddyhttp.Route) bool) {
		for _, i := range slices.Compact(indexes) {
			if !yield(&s.server.Routes[i]) {
				return
			}
		}
	}
}

// eachRoute returns pointers to the routes of the list.
func eachRoute(routes caddyhttp.RouteList) iter.Seq[*caddyhttp.Route] {
	return func(yield func(*caddyhttp.Route) bool) {
		for i := range routes {
			if !yield(&routes[i]) {
				return
			}
		}
	}
}

// hostsOf returns the hosts, in lower case, that the route matches. It returns nil if the
// route may match others.
func hostsOf(route *caddyhttp.Route) (hosts []string) {
	for _, set := range route.MatcherSets {
		i := slices.IndexFunc([]any(set), func(matcher any) bool {
			m, ok := matcher.(*caddyhttp.MatchHost)
			return ok && !slices.ContainsFunc(*m, func(host string) bool { return strings.ContainsAny(host, "*{") })
		})
		if i < 0 {
			return nil
		}
		for _, host := range *set[i].(*caddyhttp.MatchHost) {
			hosts = append(hosts, strings.ToLower(host))
		}
	}
	return hosts
}
