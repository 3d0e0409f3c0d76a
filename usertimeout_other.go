//go:build !linux

package caddysse

import (
	"net"
	"time"
)

// setUserTimeout leaves it to TCP keep-alive, which Caddy sets on every
// connection, to notice that a client has vanished.
func setUserTimeout(*net.TCPConn, time.Duration) {}
