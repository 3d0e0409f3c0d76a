package hub

import (
	"net"
	"runtime"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// yield lets goroutines run that wait for the network, even on one CPU that is always busy.
func TestYieldPollsTheNetwork(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	clientEnd, serverEnd := tcpPair(t)
	defer clientEnd.Close()
	defer serverEnd.Close()
	var p netYielder
	defer p.close()
	for range 100 {
		var hasRead atomic.Bool
		done := make(chan struct{})
		go func() {
			defer close(done)
			var b [1]byte
			if _, err := clientEnd.Read(b[:]); err != nil {
				t.Error(err)
			}
			hasRead.Store(true)
		}()
		p.yield() // the reader begins to wait
		if _, err := serverEnd.Write([]byte{1}); err != nil {
			t.Fatal(err)
		}
		waitReadable(t, clientEnd, &hasRead)
		for yields := 0; !hasRead.Load(); yields++ {
			if yields == 3 {
				t.Fatalf("after %d yields the reader has not run, want it to have read the byte that arrived before", yields)
			}
			p.yield()
		}
		<-done
	}
}

// waitReadable waits, without the Go runtime, until there is something to read or the reader has
// read it.
func waitReadable(t *testing.T, c *net.TCPConn, hasRead *atomic.Bool) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) {
		for n := 0; n == 0 && !hasRead.Load(); {
			n, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 10)
		}
	}); err != nil {
		t.Fatal(err)
	}
}
