package hub

import (
	"net"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// withoutEpoll makes h detect departures by reading, as on systems other than Linux.
func withoutEpoll(h *Hub) { h.departures.closed = true }

// idleTCP returns a TCP connection whose send buffer is empty.
func idleTCP() *net.TCPConn {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 4<<20)
	}
	if err != nil {
		panic(err)
	}
	f := os.NewFile(uintptr(fd), "")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		panic(err)
	}
	return c.(*net.TCPConn)
}

// watched checks the number of connections that the epoll watches.
func watched(t testing.TB, h *Hub, n int) {
	t.Helper()
	h.departures.mu.Lock()
	defer h.departures.mu.Unlock()
	want(t, "watched", len(h.departures.conns), n)
}
