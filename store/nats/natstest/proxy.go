package natstest

import (
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// Proxy stands between a client and a server, to cut the one off from the other.
// Its methods may be called from any goroutine.
type Proxy struct {
	Passed atomic.Int64 // bytes that the server sent

	server   string // host and port
	listener net.Listener
	running  sync.WaitGroup

	mu    sync.Mutex
	cut   bool
	muted bool
	conns map[net.Conn]struct{}
}

// NewProxy listens for clients of the server at url, until the test ends.
func NewProxy(t testing.TB, url string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{server: strings.TrimPrefix(url, "nats://"), listener: l, conns: make(map[net.Conn]struct{})}
	p.running.Go(p.accept)
	t.Cleanup(func() {
		p.Cut()
		_ = l.Close() // nobody can mind
		p.running.Wait()
	})
	return p
}

// URL is where clients connect.
func (p *Proxy) URL() string { return "nats://" + p.listener.Addr().String() }

// Cut ends all connections, and those to come.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = true
	for conn := range p.conns {
		_ = conn.Close() // it may have ended by itself
	}
}

// Mend undoes Cut and Mute.
func (p *Proxy) Mend() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut, p.muted = false, false
}

// Mute drops what the server sends from now on; what clients send gets through.
func (p *Proxy) Mute() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.muted = true
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.server)
		if err != nil || !p.add(client, server) {
			_ = client.Close() // as a server that is not there
			continue
		}
		p.running.Go(func() { p.pipe(server, client, false) })
		p.running.Go(func() { p.pipe(client, server, true) })
	}
}

func (p *Proxy) add(conns ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, conn := range conns {
		if p.cut {
			_ = conn.Close()
			continue
		}
		p.conns[conn] = struct{}{}
	}
	return !p.cut
}

// pipe copies until one of them ends, and ends the other.
func (p *Proxy) pipe(to io.WriteCloser, from io.Reader, fromServer bool) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		p.mu.Lock()
		drop := fromServer && p.muted
		p.mu.Unlock()
		if fromServer {
			p.Passed.Add(int64(n))
		}
		if n > 0 && !drop {
			if _, failed := to.Write(buf[:n]); failed != nil {
				err = failed
			}
		}
		if err != nil {
			_ = to.Close() // it may have ended by itself
			return
		}
	}
}
