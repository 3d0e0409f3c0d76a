package caddysse

import (
	"fmt"
	"slices"
	"strconv"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// TestSiteRoutes: a probe for a host looks at the routes that may match it, in their order, and at no
// route of another host. So the time to load a config grows with the number of sites, not with its square.
func TestSiteRoutes(t *testing.T) {
	host := func(names ...string) caddyhttp.MatcherSet {
		m := caddyhttp.MatchHost(names)
		return caddyhttp.MatcherSet{&m}
	}
	sets := []caddyhttp.MatcherSets{
		{host("a.test")},
		nil,
		{host("b.test", "A.test")},
		{host("*.test")},
		{host("{env.HOST}")},
		{host("b.test"), host("c.test")},
		{host("c.test"), {new(caddyhttp.MatchPath)}},
		{append(host("b.test"), new(caddyhttp.MatchPath))},
		{host("d.test", "*.d.test")},
	}
	server := new(caddyhttp.Server)
	for _, set := range sets {
		server.Routes = append(server.Routes, caddyhttp.Route{MatcherSets: set})
	}
	for i := range 1000 {
		server.Routes = append(server.Routes, caddyhttp.Route{MatcherSets: caddyhttp.MatcherSets{host(fmt.Sprint("site-", i, ".test"))}})
	}
	all := make([]int, len(server.Routes))
	for i := range all {
		all[i] = i
	}
	routes := newSiteRoutes(server)
	for _, test := range []struct {
		host string
		ours int
		want []int
	}{
		{"a.test", 0, []int{0, 1, 2, 3, 4, 6, 8}},
		{"B.TEST", 2, []int{1, 2, 3, 4, 5, 6, 7, 8}},
		{"c.test", 5, []int{1, 3, 4, 5, 6, 8}},
		{"no.test", 1, []int{1, 3, 4, 6, 8}},
		{"no.test", 7, []int{1, 3, 4, 6, 7, 8}},
		{"site-990.test", 999, []int{1, 3, 4, 6, 8, 999}},
		{"", 0, all},
	} {
		t.Run(test.host+" "+strconv.Itoa(test.ours), func(t *testing.T) {
			var got []int
			for route := range routes.of(test.host, &server.Routes[test.ours]) {
				got = append(got, slices.IndexFunc(all, func(i int) bool { return &server.Routes[i] == route }))
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("got the routes %v, want %v", got, test.want)
			}
		})
	}
}
