package hub

import (
	"crypto/tls"
	"math"
	"net"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// newSocket returns a socket that writes to conn. tcp is the connection below conn, or conn
// itself. It bounds the kernel's buffer to [SendBuffer]. From now on only socket.close may
// close either.
func newSocket(conn net.Conn, tcp *net.TCPConn) *socket {
	s := &socket{conn: conn, tcp: tcp, fd: -1}
	if raw, err := tcp.SyscallConn(); err == nil {
		// fd stays valid, because only socket.close closes the socket.
		_ = raw.Control(func(fd uintptr) {
			s.fd = int(fd)
			_ = unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_SNDBUF, SendBuffer)
			if conn != net.Conn(tcp) {
				// Where net.ipv4.tcp_notsent_lowat is set, a write would block before the
				// buffer is full that freeSpace measures.
				_ = unix.SetsockoptInt(s.fd, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, math.MaxInt32)
			}
		})
	}
	return s
}

// tryWrite writes as much as the kernel takes without blocking, and returns how many bytes.
// 0 without an error says that the socket is full, or that s.fd does not work: then
// writePiece must be used. Any error says that the client is gone, or timed out
// ([reasonForError]). The caller has the turn ([Conn.turn]).
func (s *socket) tryWrite(p []byte) (int, error) {
	if s.fd < 0 {
		return 0, nil
	}
	if s.conn != net.Conn(s.tcp) {
		// A write of TLS blocks until it has written everything: give it only what fits.
		n := min(len(p), s.freeSpace())
		if n <= 0 {
			return 0, nil
		}
		return s.conn.Write(p[:n])
	}
	for {
		// A raw system call, because it does not block: the scheduler need not know of it.
		n, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(s.fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))),
			uintptr(len(p)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
		runtime.KeepAlive(s.tcp)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		case unix.EAGAIN:
			return 0, nil
		default:
			return 0, errno
		}
	}
}

// Indexes in SO_MEMINFO, as in the kernel's sock_diag.h.
const (
	memInfoSendBuffer = 3
	memInfoQueued     = 5
	memInfoLength     = 9
)

// freeSpace returns how many bytes a TLS connection can write without blocking; 0 or less:
// none. The kernel blocks only when the queued data, with its overhead, exceeds the buffer.
// The caller has the turn ([Conn.turn]).
func (s *socket) freeSpace() int {
	var info [memInfoLength]uint32
	size := uint32(unsafe.Sizeof(info))
	_, _, errno := unix.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(s.fd), unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	runtime.KeepAlive(s.tcp)
	if errno != 0 {
		return 0
	}
	const reserve = 4 << 10
	return (int(info[memInfoSendBuffer]) - int(info[memInfoQueued]) - reserve) * 7 / 8
}

// close closes the socket. If the stream is complete, what was written goes out first. It
// reads what the client has sent, because the kernel answers unread bytes with a reset,
// which could overtake the end of the stream. It does not block. Only closeSocket calls it,
// once, after departures.forget.
func (s *socket) close() {
	if s.isFinal && len(s.unsent) == 0 {
		if c, ok := s.conn.(*tls.Conn); ok && s.freeSpace() > 0 {
			_ = c.CloseWrite() // a close_notify
		}
		_ = s.tcp.CloseWrite()
	}
	var scratch [4 << 10]byte
	for range 64 {
		n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(s.fd), uintptr(unsafe.Pointer(&scratch)),
			uintptr(len(scratch)), unix.MSG_DONTWAIT, 0, 0)
		if errno != 0 || n == 0 {
			break
		}
	}
	_ = s.tcp.Close()
}
