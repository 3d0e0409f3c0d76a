package hub

import (
	"bytes"
	"io"
	"net"
	"os"
	"os/exec"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// drainVariable is set in the process that runs the clients of BenchmarkDeliverToSockets. It has
// the address to connect to.
const drainVariable = "HUB_BENCH_DRAIN"

// sockets is how many streams BenchmarkDeliverToSockets has.
const sockets = 200

// BenchmarkDeliverToSockets publishes events to streams that were taken over. It publishes each
// event after all clients received the one before. The clients run in another process, so the
// benchmark measures the cost for the server alone, including the write.
func BenchmarkDeliverToSockets(b *testing.B) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	clients := exec.Command(os.Args[0], "-test.run=^TestDrain$")
	clients.Env = append(os.Environ(), drainVariable+"="+l.Addr().String())
	if err := clients.Start(); err != nil {
		b.Fatal(err)
	}
	defer func() {
		_ = clients.Process.Kill()
		_ = clients.Wait()
	}()
	accept := func() *net.TCPConn {
		conn, err := l.Accept()
		if err != nil {
			b.Fatal(err)
		}
		return conn.(*net.TCPConn)
	}
	received := accept() // it gets a byte for each event that all clients have
	defer received.Close()
	h := newHub(b, Options{})
	for range sockets {
		conn := accept()
		connect(b, h, requestOf("alice")).TakeOver(conn, conn)
	}
	await := func() {
		if _, err := io.ReadFull(received, make([]byte, 1)); err != nil {
			b.Fatal(err)
		}
	}
	await() // the first block
	before := usedCPUTime(b)
	for b.Loop() {
		mustPublish(b, h, Target{})
		await()
	}
	b.ReportMetric(float64(usedCPUTime(b)-before)/float64(b.N*sockets), "cpu-ns/delivery")
}

// usedCPUTime returns the CPU time that this process has used.
func usedCPUTime(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// TestDrain runs the clients of BenchmarkDeliverToSockets. It does nothing in a run of the tests.
func TestDrain(t *testing.T) {
	addr := os.Getenv(drainVariable)
	if addr == "" {
		return
	}
	dial := func() net.Conn {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	report := dial()
	var blocks atomic.Int64
	for range sockets {
		conn := dial()
		go func() {
			buf := make([]byte, 4096)
			for {
				n, err := conn.Read(buf)
				if err != nil {
					return
				}
				for range bytes.Count(buf[:n], []byte("\n\n")) {
					if blocks.Add(1)%sockets == 0 {
						_, _ = report.Write([]byte{0})
					}
				}
			}
		}()
	}
	select {}
}
