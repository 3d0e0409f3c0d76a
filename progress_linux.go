package caddysse

import (
	"net"

	"golang.org/x/sys/unix"
)

// acknowledged is how many bytes the client has acknowledged so far.
func acknowledged(c *net.TCPConn) (n uint64) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0
	}
	// It fails when the connection is closed, which has no progress either.
	_ = raw.Control(func(fd uintptr) {
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			n = info.Bytes_acked
		}
	})
	return n
}
