package caddysse_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
)

// admitted opens streams, each with the headers of one client, and returns which of
// them were not rejected.
func admitted(s *server, client *http.Client, url string, headers ...[]string) (which []int) {
	s.Helper()
	for i := range headers {
		if openWith(s, client, url, headers[i]...).id != "" {
			which = append(which, i)
		}
	}
	return which
}

// TestCapByNetwork: max_connections_per_ip counts an IPv6 client by its /64, and an IPv4 client by
// its address, in any spelling.
func TestCapByNetwork(t *testing.T) {
	s := start(t, "servers {\n trusted_proxies static private_ranges\n}",
		"sse /events {\n anonymous\n max_connections_per_ip 2\n}")
	var clients [][]string
	for _, addr := range []string{
		"2001:db8:1:2::1", "2001:db8:1:2:ffff::2", "2001:db8:1:2::3", // the third is one too many
		"2001:db8:1:3::1",
		"192.0.2.1", "::ffff:192.0.2.1", "192.0.2.1", // likewise
		"192.0.2.2", "::ffff:192.0.2.3",
		"fe80::1%eth0", "fe80::2%eth1", "fe80::3", // likewise
	} {
		clients = append(clients, []string{"X-Forwarded-For", addr})
	}
	if got, want := fmt.Sprint(admitted(s, plain, "http://"+s.http+"/events", clients...)), "[0 1 3 4 5 7 8 9 10]"; got != want {
		t.Errorf("admitted are %s, want %s", got, want)
	}
	if list := s.api("GET", "/sse/connections", "").body; !strings.Contains(list, `"remote":"2001:db8:1:2:ffff::2"`) {
		t.Errorf("the list does not have the whole address: %s", list)
	}
}

// TestCapWithoutAddress: clients of a Unix socket have no address, so the limit per address does
// not apply. A warning says so: when the config is loaded if this is certain, otherwise at the
// first client.
func TestCapWithoutAddress(t *testing.T) {
	const site = "sse /events {\n anonymous\n max_connections_per_ip 2\n}"
	for name, test := range map[string]struct {
		global           string
		atLoad, in       int // warnings
		admitted, behind string
	}{
		"trusted":     {"servers {\n trusted_proxies_unix\n}", 0, 1, "[0 1 2 3]", "[0 1 3]"},
		"not trusted": {"", 1, 1, "[0 1 2 3]", "[0 1 2 3]"},
	} {
		t.Run(name, func(t *testing.T) {
			socket := filepath.Join(t.TempDir(), "caddy.sock")
			s := prepare(t, test.global)
			s.mustLoad("http:// {\n bind unix/" + socket + "\n" + site + "\n}\n")
			warnings := func() int {
				n := 0
				for line := range strings.SplitSeq(logs.tail(1<<20), "\n") {
					if strings.Contains(line, `"max_connections_per_ip has no effect`) {
						n++
					}
				}
				return n
			}
			if n := warnings(); n != test.atLoad {
				t.Errorf("%d warnings at load, want %d", n, test.atLoad)
			}
			client := &http.Client{Transport: &http.Transport{
				DisableKeepAlives: true,
				DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
					return new(net.Dialer).DialContext(ctx, "unix", socket)
				},
			}}
			if got := fmt.Sprint(admitted(s, client, "http://localhost/events", nil, nil, nil, nil)); got != test.admitted {
				t.Errorf("without an address %s are admitted, want %s", got, test.admitted)
			}
			a, b := []string{"X-Forwarded-For", "192.0.2.1"}, []string{"X-Forwarded-For", "192.0.2.2"}
			if got := fmt.Sprint(admitted(s, client, "http://localhost/events", a, a, a, b)); got != test.behind {
				t.Errorf("behind a proxy %s are admitted, want %s", got, test.behind)
			}
			if n := warnings(); n != test.in {
				t.Errorf("%d warnings in all, want %d", n, test.in)
			}
		})
	}
}
