package load

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// tlsFleet reads streams over TLS, with one goroutine per stream.
type tlsFleet struct {
	protocol Protocol
	addr     string
	rec      *Recorder
	h2       *http.Transport
	conns    []io.Closer
	readers  sync.WaitGroup

	mu      sync.Mutex
	closing bool
	err     error // of the first stream that failed
}

func (f *tlsFleet) Open(n int, request func(i int) Request) error {
	ctx, cancel := context.WithTimeout(context.Background(), openTimeout)
	defer cancel()
	base := len(f.conns)
	f.conns = append(f.conns, make([]io.Closer, n)...)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(opening)
	for i := base; i < base+n; i++ {
		g.Go(func() error {
			if err := f.open(ctx, i, request(i)); err != nil {
				return fmt.Errorf("stream %d: %w", i, err)
			}
			return nil
		})
	}
	return g.Wait()
}

func (f *tlsFleet) open(ctx context.Context, i int, r Request) error {
	switch f.protocol {
	case H2:
		return f.openH2(ctx, i, r)
	case H3:
		return f.openH3(ctx, i, r)
	}
	dialer := tls.Dialer{NetDialer: dialer(i), Config: tlsConfig()}
	conn, err := dialer.DialContext(ctx, "tcp4", f.addr)
	if err != nil {
		return err
	}
	f.conns[i] = conn.(*tls.Conn).NetConn() // to close it without a TLS alert
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetReadDeadline(deadline)
	}
	if _, err := conn.Write(r.http1("localhost")); err != nil {
		return err
	}
	s := &tlsStream{fleet: f, index: i, body: conn}
	for !s.parser.body {
		if err := s.read(); err != nil {
			return err
		}
	}
	_ = conn.SetReadDeadline(time.Time{})
	f.readers.Go(s.run)
	return nil
}

func (f *tlsFleet) openH2(ctx context.Context, i int, r Request) error {
	conn, err := f.h2.NewClientConn(ctx, "https", f.addr)
	if err != nil {
		return err
	}
	f.conns[i] = conn
	return f.follow(conn, i, r)
}

// follow opens the i-th stream on its own connection, over HTTP/2 or HTTP/3.
func (f *tlsFleet) follow(conn http.RoundTripper, i int, r Request) error {
	req, err := r.http2("localhost")
	if err != nil {
		return err
	}
	resp, err := conn.RoundTrip(req)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("stream refused: %s", resp.Status)
	}
	s := &tlsStream{fleet: f, index: i, body: resp.Body, parser: parser{body: true}}
	f.readers.Go(s.run)
	return nil
}

func dialer(i int) *net.Dialer {
	src := source(i)
	return &net.Dialer{LocalAddr: &net.TCPAddr{IP: src[:]}, Control: bindLate}
}

func tlsConfig() *tls.Config {
	return &tls.Config{
		ServerName:         "localhost",
		InsecureSkipVerify: true, // the certificate was created for this run, on loopback
	}
}

func newTLSFleet(p Protocol, addr string, rec *Recorder) *tlsFleet {
	h2 := &http.Transport{DialContext: dialer(0).DialContext, TLSClientConfig: tlsConfig(), Protocols: new(http.Protocols)}
	h2.Protocols.SetHTTP2(true)
	return &tlsFleet{protocol: p, addr: addr, rec: rec, h2: h2}
}

func (f *tlsFleet) Run(done func() bool) error {
	for !done() {
		time.Sleep(time.Millisecond)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

func (f *tlsFleet) Close() {
	f.mu.Lock()
	f.closing = true
	f.mu.Unlock()
	for _, c := range f.conns {
		if c != nil {
			_ = c.Close()
		}
	}
	f.readers.Wait()
	f.conns = nil
}

// tlsStream is owned by the goroutine that reads it.
type tlsStream struct {
	fleet  *tlsFleet
	index  int
	body   io.Reader
	parser parser
	found  found
	buf    [4 << 10]byte
}

func (s *tlsStream) run() {
	for {
		if err := s.read(); err != nil {
			s.fleet.ended(err)
			return
		}
	}
}

// errEnded means that the last chunk of an HTTP/1.1 response was read.
var errEnded = fmt.Errorf("stream ended: %w", io.EOF)

func (s *tlsStream) read() error {
	n, err := s.body.Read(s.buf[:])
	now := Now()
	s.found.reset()
	if err := s.parser.feed(s.buf[:n], &s.found); err != nil {
		return &protocolError{err}
	}
	s.fleet.rec.receive(s.index, now, &s.found)
	if s.found.ended {
		return errEnded
	}
	return err
}

// protocolError is a response that is not an event stream. It makes the run invalid.
type protocolError struct{ error }

func (f *tlsFleet) ended(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closing {
		return
	}
	f.rec.closed()
	if broken, ok := errors.AsType[*protocolError](err); ok && f.err == nil {
		f.err = broken
	}
}
