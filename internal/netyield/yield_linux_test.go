package netyield

import (
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A goroutine that waits for the network runs while another one gives way, even if there is one
// CPU and a goroutine always has something to do.
func TestPauseLetsTheNetworkIn(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	clientEnd, serverEnd := tcpPair(t)
	defer clientEnd.Close()
	defer serverEnd.Close()
	const rounds = 100
	late := 0
	for range rounds {
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
		waitForNetwork() // the reader begins to wait
		if _, err := serverEnd.Write([]byte{1}); err != nil {
			t.Fatal(err)
		}
		arrived(t, clientEnd, &heard)
		for pauses := 0; !heard.Load(); pauses++ {
			if pauses == 3 {
				late++
			}
			waitForNetwork()
		}
		<-done
	}
	// On a busy machine, another thread may have polled the network, and may have lost its CPU
	// before it woke the reader.
	if late > rounds/10 {
		t.Errorf("rounds in which three pauses did not let the reader in: got %d of %d, want at most %d", late, rounds, rounds/10)
	}
}

// At most one eventfd for each CPU stays open, however many goroutines have given way.
func TestFewEventFDsStayOpen(t *testing.T) {
	for range 3 {
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(waitForNetwork)
		}
		wg.Wait()
		if n := countEventFDs(t); n > cap(idle)+1 { // the Go runtime has one, too
			t.Errorf("open eventfds: got %d, want at most %d", n, cap(idle)+1)
		}
	}
}

// countEventFDs returns how many eventfds the process has.
func countEventFDs(t *testing.T) (n int) {
	t.Helper()
	files, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if target, err := os.Readlink(file); err == nil && strings.Contains(target, "[eventfd]") {
			n++
		}
	}
	return n
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

// While other goroutines always have something to do, a pause is long. Then an even Yielder works
// for as long as it has paused.
func TestEvenWorkHasHalfOfTheTime(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	var stop atomic.Bool
	var others sync.WaitGroup
	for range 2 {
		others.Go(func() {
			for !stop.Load() {
				runtime.Gosched()
			}
		})
	}
	defer others.Wait()
	defer stop.Store(true)
	for _, even := range []bool{true, false} {
		y := Yielder{Even: even}
		longest := time.Duration(0)
		for range 20 {
			began := time.Now()
			y.GiveWay()
			paused := time.Since(began)
			if y.stretch > max(every, paused) {
				t.Errorf("even %t: a stretch of %v after a pause of %v", even, y.stretch, paused)
			}
			longest = max(longest, y.stretch)
		}
		if got := longest > every; got != even {
			t.Errorf("even %t: the longest stretch is %v", even, longest)
		}
	}
}
