//go:build !linux

package hub

import (
	"crypto/tls"
	"net"
)

func newSocket(conn net.Conn, tcp *net.TCPConn) *socket {
	return &socket{conn: conn, tcp: tcp, fd: -1}
}

// try leaves it all to a goroutine that waits: here there is no write that does
// not wait, for all kinds of connection.
func (s *socket) try([]byte) (int, error) { return 0, nil }

func (s *socket) close() {
	if s.last && len(s.rest) == 0 {
		if c, ok := s.conn.(*tls.Conn); ok {
			_ = c.CloseWrite() // a close_notify
		}
		_ = s.tcp.CloseWrite()
	}
	_ = s.tcp.Close()
}
