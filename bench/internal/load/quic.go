package load

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// quicConn is a connection with its own socket, like that of a browser.
type quicConn struct {
	conn   *quic.Conn
	socket *quic.Transport
}

func (c *quicConn) Close() error {
	return errors.Join(c.conn.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeNoError), ""), c.socket.Close(), c.socket.Conn.Close())
}

// openH3 opens stream i. The server refuses a handshake while 32 others wait to be accepted. Then
// openH3 tries again, as a browser does.
func (f *tlsFleet) openH3(ctx context.Context, i int, r Request) error {
	for {
		err := f.tryH3(ctx, i, r)
		refused, ok := errors.AsType[*quic.TransportError](err)
		if !ok || refused.ErrorCode != quic.ConnectionRefused {
			return err
		}
		if c := f.conns[i]; c != nil {
			_ = c.Close() // the server has closed it
			f.conns[i] = nil
		}
	}
}

func (f *tlsFleet) tryH3(ctx context.Context, i int, r Request) error {
	server, err := net.ResolveUDPAddr("udp4", f.addr)
	if err != nil {
		return err
	}
	src := source(i)
	udp, err := net.ListenUDP("udp4", &net.UDPAddr{IP: src[:]})
	if err != nil {
		return err
	}
	socket := &quic.Transport{Conn: udp}
	conn, err := socket.Dial(ctx, server, quicTLS(), &quic.Config{MaxIdleTimeout: time.Hour})
	if err != nil {
		return errors.Join(err, socket.Close(), udp.Close())
	}
	f.conns[i] = &quicConn{conn, socket}
	return f.follow(new(http3.Transport).NewClientConn(conn), i, r)
}

func quicTLS() *tls.Config {
	c := tlsConfig()
	c.NextProtos = []string{http3.NextProtoH3}
	return c
}
