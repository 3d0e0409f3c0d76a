package load

import (
	"bufio"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Deaf is a client that requests a stream and reads nothing. Its buffers are small, and so are the server's
// for it, because of a small segment size.
type Deaf struct {
	fd     int
	server netip.AddrPort
}

// OpenDeaf opens a Deaf.
func OpenDeaf(addr string, r Request) (*Deaf, error) {
	ap, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	d := &Deaf{fd: fd, server: ap}
	if err := errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4<<10),
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_MAXSEG, 536),
		unix.Connect(fd, &unix.SockaddrInet4{Addr: ap.Addr().As4(), Port: int(ap.Port())}),
	); err != nil {
		d.Close()
		return nil, err
	}
	if _, err := unix.Write(fd, r.http1(addr)); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

// Queued returns the bytes that wait in the kernel for the client: all that the server could write,
// including the response header.
func (d *Deaf) Queued() (int, error) {
	unread, err := unix.IoctlGetInt(d.fd, unix.TIOCINQ)
	if err != nil {
		return 0, err
	}
	self, err := unix.Getsockname(d.fd)
	if err != nil {
		return 0, err
	}
	f, err := os.Open("/proc/net/tcp")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	local := fmt.Sprintf(":%04X", d.server.Port())
	remote := fmt.Sprintf(":%04X", self.(*unix.SockaddrInet4).Port)
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 5 || !strings.HasSuffix(fields[1], local) || !strings.HasSuffix(fields[2], remote) {
			continue
		}
		queue, _, _ := strings.Cut(fields[4], ":")
		unsent, err := strconv.ParseInt(queue, 16, 64)
		return unread + int(unsent), err
	}
	return 0, errors.New("the server has closed the stalled client's connection")
}

// Close closes the connection.
func (d *Deaf) Close() { unix.Close(d.fd) }
