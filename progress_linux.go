package caddysse

import (
	"net"

	"golang.org/x/sys/unix"
)

// acknowledged returns how many bytes the client has acknowledged so far.
func acknowledged(c *net.TCPConn) (n uint64) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0
	}
	// This fails if the connection is closed. Then there is no progress, and n stays 0.
	_ = raw.Control(func(fd uintptr) {
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			n = info.Bytes_acked
		}
	})
	return n
}
