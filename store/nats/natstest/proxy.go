package natstest

import (
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// Proxy is between a client and a server and can cut the connection. Its methods may be called from any
// goroutine.
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
		_ = l.Close() // an error has no effect here
		p.running.Wait()
	})
	return p
}

// URL is where clients connect.
func (p *Proxy) URL() string { return "nats://" + p.listener.Addr().String() }

// Cut closes all connections, and new ones at once.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = true
	for conn := range p.conns {
		_ = conn.Close() // it may have ended by itself
	}
}

// Mend ends Cut and Mute.
func (p *Proxy) Mend() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut, p.muted = false, false
}

// Mute drops what the server sends from now on. The client's data is still passed on.
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
			_ = client.Close() // like a server that is down
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

// pipe copies until one end closes, and then closes the other.
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
