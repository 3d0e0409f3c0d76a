package e2e

import (
	"context"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Faults bounds the faults of a proxy on each connection. The faults are drawn from the
// proxy's seed.
type Faults struct {
	CutAfter int           // a connection is cut after at most this many bytes to the client; 0: never
	Stall    time.Duration // longest pause, once per connection
	Piece    int           // most bytes that are passed on at once; 0: no limit
	Rate     int           // least bytes per second of a slow connection; 0: no slow connections
}

// Proxy is a bad network between clients and a server.
type Proxy struct {
	Addr string

	// Numbers of connections that were cut, paused, and slowed down.
	Cuts, Stalls, Slow atomic.Int64

	target   string
	faults   Faults
	listener net.Listener
	ctx      context.Context
	cancel   context.CancelFunc
	running  sync.WaitGroup

	mu     sync.Mutex
	random *rand.Rand
	calm   bool
	held   chan struct{} // not nil: nothing is passed on until it is closed
}

// NewProxy starts a proxy in front of an address. It ends with the test.
func NewProxy(t testing.TB, target string, seed uint64, faults Faults) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{
		Addr: l.Addr().String(), target: target, faults: faults,
		listener: l, random: rand.New(rand.NewPCG(seed, 0)),
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.running.Go(p.accept)
	t.Cleanup(func() {
		p.cancel()
		l.Close()
		p.running.Wait()
	})
	return p
}

// Calm stops all faults for new connections, and lets existing ones go on at full speed.
func (p *Proxy) Calm() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calm = true
}

// Hold stops reading from the server. A read that waits already is still passed on.
func (p *Proxy) Hold() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held = make(chan struct{})
}

// Release resumes reading.
func (p *Proxy) Release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.held)
	p.held = nil
}

// wait returns when data may be passed on, and reports whether the proxy is still open.
func (p *Proxy) wait() bool {
	p.mu.Lock()
	held := p.held
	p.mu.Unlock()
	if held == nil {
		return true
	}
	select {
	case <-held:
		return true
	case <-p.ctx.Done():
		return false
	}
}

func (p *Proxy) isCalm() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.calm
}

// fate is the faults of one connection.
type fate struct {
	cutAfter int  // bytes; negative: never
	reset    bool // it is cut by RST, not by FIN
	stallAt  int  // bytes; negative: never
	stall    time.Duration
	piece    int
	rate     int // bytes a second; 0: all that come
}

func (p *Proxy) draw() fate {
	p.mu.Lock()
	defer p.mu.Unlock()
	f := fate{cutAfter: -1, stallAt: -1, piece: 32 << 10}
	if p.calm {
		return f
	}
	if n := p.faults.CutAfter; n > 0 {
		// Most cuts are early, so that handshakes, headers and first blocks are cut as often as
		// the middle of a replay.
		f.cutAfter = p.random.IntN(1 + p.random.IntN(n))
		f.reset = p.random.IntN(2) == 0
		f.stallAt = p.random.IntN(2 * n)
	}
	if p.faults.Stall > 0 {
		f.stall = time.Duration(p.random.Int64N(int64(p.faults.Stall)))
	}
	if p.faults.Piece > 0 && p.random.IntN(2) == 0 {
		f.piece = 1 + p.random.IntN(p.faults.Piece)
	}
	if p.faults.Rate > 0 && p.random.IntN(4) == 0 {
		f.rate = p.faults.Rate * (1 + p.random.IntN(4))
		f.piece = min(f.piece, f.rate/8)
		p.Slow.Add(1)
	}
	return f
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.running.Go(func() { p.serve(client.(*net.TCPConn), p.draw()) })
	}
}

func (p *Proxy) serve(client *net.TCPConn, f fate) {
	defer client.Close()
	conn, err := new(net.Dialer).DialContext(p.ctx, "tcp", p.target)
	if err != nil {
		return
	}
	server := conn.(*net.TCPConn)
	defer server.Close()
	defer context.AfterFunc(p.ctx, func() {
		client.Close()
		server.Close()
	})()

	var up sync.WaitGroup
	up.Go(func() {
		// Data of the client is short, so it has no faults. The copy ends when either side closes.
		_, _ = io.Copy(server, client)
		server.CloseWrite()
	})
	if p.down(client, server, f) {
		p.Cuts.Add(1)
		if f.reset {
			_ = client.SetLinger(0)
			_ = server.SetLinger(0)
		}
	}
	client.Close()
	server.Close()
	up.Wait()
}

// down passes data of the server on, and reports whether the connection is to be cut.
func (p *Proxy) down(client, server net.Conn, f fate) (cut bool) {
	buf := make([]byte, f.piece)
	for passed := 0; ; {
		if f.cutAfter >= 0 && passed >= f.cutAfter {
			return true
		}
		if f.stall > 0 && f.stallAt >= 0 && passed >= f.stallAt {
			p.Stalls.Add(1)
			if !p.pause(f.stall) {
				return false
			}
			f.stallAt = -1
		}
		if !p.wait() {
			return false
		}
		piece := buf
		if f.cutAfter >= 0 {
			piece = buf[:min(len(buf), f.cutAfter-passed)]
		}
		n, err := server.Read(piece)
		if n > 0 {
			if _, err := client.Write(piece[:n]); err != nil {
				return false
			}
			passed += n
		}
		if err != nil {
			return false
		}
		if f.rate > 0 && !p.isCalm() && !p.pause(time.Duration(n)*time.Second/time.Duration(f.rate)) {
			return false
		}
	}
}

// pause waits, and reports whether the proxy is still open.
func (p *Proxy) pause(d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-p.ctx.Done():
		return false
	}
}
