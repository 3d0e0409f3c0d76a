package caddysse

import (
	"net/netip"
	"slices"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
)

// network is what max_connections_per_ip counts by: an IPv4 address, but the first
// 64 bits of an IPv6 address, since one client has all addresses below them.
func network(addr netip.Addr) netip.Addr {
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

// addressless returns a function that warns, once, that clients have no address to
// count by. It calls it if the listeners of the server say so already.
func addressless(logger *zap.Logger, srv *caddyhttp.Server) (warn func()) {
	warn = sync.OnceFunc(func() {
		logger.Warn("max_connections_per_ip does nothing for clients of a unix socket, as they have no address: " +
			"let the server option trusted_proxies_unix take it from the proxy's headers")
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
