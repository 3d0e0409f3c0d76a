package e2e

import (
	"context"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// Protocol is the protocol between a client and the server.
type Protocol string

// The protocols.
const (
	H1    Protocol = "h1"
	H1TLS Protocol = "h1 over TLS"
	H2    Protocol = "h2"
	H3    Protocol = "h3"
)

// Protocols lists all protocols.
var Protocols = []Protocol{H1, H1TLS, H2, H3}

// label returns the protocol's name in the server's metrics.
func (p Protocol) label() string { return string(p[:2]) }

// Client opens streams over one protocol. Over HTTP/2 and HTTP/3 its streams share a
// connection. It may be used from any goroutine.
type Client struct {
	Protocol Protocol
	Path     string        // of the stream; set it before the first use
	Backoff  time.Duration // longest wait of its followers between attempts; set it before the first use
	base     string
	http     *http.Client
	close    func()
}

// window is roughly how many bytes a client with small buffers accepts unread.
const window = 64 << 10

// Client returns a client that connects directly to the server.
func (s *Server) Client(p Protocol) *Client { return s.client(p, "", false) }

// ClientVia returns a client that connects through a proxy at an address. Not for HTTP/3.
func (s *Server) ClientVia(addr string, p Protocol) *Client { return s.client(p, addr, false) }

// SmallClient returns a client with small buffers, so that an unread stream blocks soon.
func (s *Server) SmallClient(p Protocol) *Client { return s.client(p, "", true) }

// Roaming returns a client for the nodes of a cluster, over cleartext HTTP/1.1. Each stream
// connects to one of the addresses, at random.
func Roaming(addrs ...string) *Client {
	tr := roaming(addrs)
	return &Client{
		Protocol: H1, Path: "/events", Backoff: backoff,
		base: "http://127.0.0.1", http: &http.Client{Transport: tr}, close: tr.CloseIdleConnections,
	}
}

func roaming(addrs []string) *http.Transport {
	return &http.Transport{
		DisableCompression: true,
		DisableKeepAlives:  true,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, addrs[rand.IntN(len(addrs))])
		},
	}
}

func (s *Server) client(p Protocol, addr string, small bool) *Client {
	c := &Client{Protocol: p, Path: "/events", Backoff: backoff}
	port := s.HTTPS
	if c.base = fmt.Sprintf("https://localhost:%d", s.HTTPS); p == H1 {
		c.base = fmt.Sprintf("http://127.0.0.1:%d", s.HTTP)
		port = s.HTTP
	}
	if addr == "" {
		addr = fmt.Sprintf("127.0.0.1:%d", port)
	}
	security := &tls.Config{RootCAs: s.roots, ServerName: "localhost"}
	if p == H3 {
		c.overQUIC(addr, security, small)
		return c
	}

	tr := &http.Transport{
		TLSClientConfig:     security,
		Protocols:           new(http.Protocols),
		DisableCompression:  true,
		MaxIdleConnsPerHost: 100,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, addr)
			if err == nil && small {
				// This is the segment size of a loopback interface. A client with a smaller window would
				// be slow to catch up.
				err = conn.(*net.TCPConn).SetReadBuffer(2 * window)
			}
			return conn, err
		},
	}
	tr.Protocols.SetHTTP1(p != H2)
	tr.Protocols.SetHTTP2(p == H2)
	if small {
		tr.ReadBufferSize = 4096
		tr.HTTP2 = &http.HTTP2Config{MaxReceiveBufferPerStream: window, MaxReceiveBufferPerConnection: window}
	}
	c.http, c.close = &http.Client{Transport: tr}, tr.CloseIdleConnections
	return c
}

func (c *Client) overQUIC(addr string, security *tls.Config, small bool) {
	// The idle timeout makes a client notice that the server is gone.
	config := &quic.Config{KeepAlivePeriod: 2 * time.Second, MaxIdleTimeout: 15 * time.Second}
	if small {
		config.InitialStreamReceiveWindow, config.MaxStreamReceiveWindow = window, window
	}
	tr := &http3.Transport{
		TLSClientConfig:    security,
		QUICConfig:         config,
		DisableCompression: true,
		Dial: func(ctx context.Context, _ string, security *tls.Config, config *quic.Config) (*quic.Conn, error) {
			return quic.DialAddr(ctx, addr, security, config)
		},
	}
	c.http, c.close = &http.Client{Transport: tr}, func() { tr.Close() }
}

// Close closes the client's connections. Close its streams before.
func (c *Client) Close() { c.close() }

// Identity is the identity and the topics of a client.
type Identity struct {
	User    string
	Session string
	Topics  []string // empty: all topics that the config allows
}

// HTTP returns the base URL and the HTTP client, for other clients than Client.
func (c *Client) HTTP() *http.Client { return c.http }

// Request returns the request for a stream. from is a position, or empty.
func (c *Client) Request(ctx context.Context, id Identity, position string) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+c.Path, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "text/event-stream")
	if id.User != "" {
		req.Header.Set("X-User", id.User)
	}
	if id.Session != "" {
		req.Header.Set("X-Session", id.Session)
	}
	if position != "" {
		req.Header.Set("Last-Event-ID", position)
	}
	query := req.URL.Query()
	for _, topic := range id.Topics {
		query.Add("topic", topic)
	}
	req.URL.RawQuery = query.Encode()
	return req, nil
}

// Open opens a stream. from is a position, or empty.
func (c *Client) Open(ctx context.Context, id Identity, position string) (*Stream, error) {
	req, err := c.Request(ctx, id, position)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	stream, err := newStream(resp, id, position)
	if err != nil {
		resp.Body.Close()
	}
	return stream, err
}
