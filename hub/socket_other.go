//go:build !linux

package hub

import (
	"crypto/tls"
	"net"
)

// newSocket returns a socket that writes to conn. tcp is the connection below conn, or conn
// itself. From now on only socket.close may close either.
func newSocket(conn net.Conn, tcp *net.TCPConn) *socket {
	return &socket{conn: conn, tcp: tcp, fd: -1}
}

// tryWrite writes nothing. A goroutine writes everything and blocks, because there is no
// non-blocking write here that works for all kinds of connection.
func (s *socket) tryWrite([]byte) (int, error) { return 0, nil }

// close closes the socket. If the stream is complete, what was written goes out first. Only
// closeSocket calls it, once.
func (s *socket) close() {
	if s.isFinal && len(s.unsent) == 0 {
		if c, ok := s.conn.(*tls.Conn); ok {
			_ = c.CloseWrite() // a close_notify
		}
		_ = s.tcp.CloseWrite()
	}
	_ = s.tcp.Close()
}
