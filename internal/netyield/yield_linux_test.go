package netyield

import (
	"net"
	"runtime"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// Who waits for the network has its turn in a pause, also where there is one CPU
// and somebody always has something to do.
func TestPauseLetsTheNetworkIn(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	clientEnd, serverEnd := tcpPair(t)
	defer clientEnd.Close()
	defer serverEnd.Close()
	var n network
	defer n.close()
	for range 100 {
		var heard atomic.Bool
		done := make(chan struct{})
		go func() {
			defer close(done)
			var b [1]byte
			if _, err := clientEnd.Read(b[:]); err != nil {
				t.Error(err)
			}
			heard.Store(true)
		}()
		n.yield() // the reader begins to wait
		if _, err := serverEnd.Write([]byte{1}); err != nil {
			t.Fatal(err)
		}
		arrived(t, clientEnd, &heard)
		for pauses := 0; !heard.Load(); pauses++ {
			if pauses == 3 {
				t.Fatalf("after %d pauses what had come by then was not read", pauses)
			}
			n.yield()
		}
		<-done
	}
}

// arrived waits, without the Go runtime, until there is something to read, or somebody
// has read it.
func arrived(t *testing.T, c *net.TCPConn, heard *atomic.Bool) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) {
		for n := 0; n == 0 && !heard.Load(); {
			n, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 10)
		}
	}); err != nil {
		t.Fatal(err)
	}
}

func tcpPair(t *testing.T) (clientEnd, serverEnd *net.TCPConn) {
	t.Helper()
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if clientEnd, err = net.DialTCP("tcp", nil, l.Addr().(*net.TCPAddr)); err != nil {
		t.Fatal(err)
	}
	if serverEnd, err = l.AcceptTCP(); err != nil {
		t.Fatal(err)
	}
	return clientEnd, serverEnd
}
