//go:build !linux

package caddysse

import (
	"net"
	"time"
)

// setUserTimeout does nothing here. TCP keep-alive, which Caddy sets on every connection,
// detects that a client has vanished.
func setUserTimeout(*net.TCPConn, time.Duration) {}
