package caddysse

import (
	"net/netip"
	"slices"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
)

// networkOf returns the address that max_connections_per_ip counts by: an IPv4 address, or
// the first 64 bits of an IPv6 address, since one client usually has all addresses with
// the same first 64 bits.
func networkOf(addr netip.Addr) netip.Addr {
	addr = addr.Unmap()
	if !addr.Is6() {
		return addr
	}
	prefix, err := addr.Prefix(64)
	if err != nil {
		return addr
	}
	return prefix.Addr()
}

// warnerOfNoAddress returns a function that warns once that clients have no address to
// count by. If the listeners of the server show that already, it calls the function.
func warnerOfNoAddress(logger *zap.Logger, srv *caddyhttp.Server) (warn func()) {
	warn = sync.OnceFunc(func() {
		logger.Warn("max_connections_per_ip has no effect for clients of a unix socket, because they have no address: " +
			"set the server option trusted_proxies_unix to take the address from the proxy's headers")
	})
	if srv != nil && !srv.TrustedProxiesUnix && slices.ContainsFunc(srv.Listen, isUnix) {
		warn()
	}
	return warn
}

func isUnix(listen string) bool {
	addr, err := caddy.ParseNetworkAddress(listen)
	return err == nil && addr.IsUnixNetwork()
}
