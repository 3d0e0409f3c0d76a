package load

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// lateBind leaves the choice of a port to connect, which knows the other end: a
// port that another server's streams have, or have had, serves again.
func lateBind(fd int) error {
	return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
}

// bindLate is lateBind for a net.Dialer.
func bindLate(_, _ string, c syscall.RawConn) error {
	var failed error
	if err := c.Control(func(fd uintptr) { failed = lateBind(int(fd)) }); err != nil {
		return err
	}
	return failed
}
