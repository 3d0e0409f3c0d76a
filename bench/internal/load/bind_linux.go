package load

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// lateBind makes the kernel choose the port at connect, when the destination is known. So a port that is or
// was used for another server can be used again.
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
