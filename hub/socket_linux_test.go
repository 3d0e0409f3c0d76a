package hub

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A socket may be full at any byte. The stream continues at that byte: no event is lost, doubled
// or torn, even if events are appended or evicted meanwhile.
func TestFullAtEveryByte(t *testing.T) {
	const small = 7 // bytes that a full socket takes at a time
	eight := strings.Repeat("8", 300)
	stream := func(first int) []byte {
		h := New(Options{})
		useStore(t, h, NewMemory())
		defer h.Close()
		for i := range 5 {
			publish(t, h, fmt.Sprint(i+1))
		}
		v := &servedConn{Pending: connect(t, h, requestOf("alice").at("abcdefgh-1")), testSink: newTestSink(), ended: make(chan struct{})}
		v.endOnClosed()
		v.chunked = true
		c, b, left := v.Conn, new(batch), 0
		c.socket = newSocket(&fakeSocket{testSink: v.testSink, ended: v.ended, maxWrite: func() int { n := left; left = 0; return n }}, idleTCP())
		step := func() {
			for left = first; c.step(b) == stepBlocked; left = small {
				if rest := string(c.socket.unsent); c.sentPosition > c.cursor.Load() || len(rest) == 0 {
					t.Fatalf("a blocked step: got sentPosition %d, cursor %d and %q unsent, want sentPosition not past the cursor and something unsent", c.sentPosition, c.cursor.Load(), rest)
				}
			}
		}
		step()
		publish(t, h, "6")
		publish(t, h, "7", user("bob"))
		publish(t, h, eight)
		step()
		publish(t, h, "9", user("bob"))
		c.written = time.Now().Add(-time.Hour) // a heartbeat is due
		step()
		h.DisconnectHere(Filter{})
		c.sweeper = h.randomSweeper()
		h.takenOver.Add(1)
		step()
		<-v.ended
		_, sent := v.Sent()
		want(t, "bytes", sent, uint64(len(v.taken)))
		want(t, "deliveries", h.Stats().Deliveries, 7)
		return v.taken
	}
	for first := range len(stream(1 << 20)) {
		got := stream(first)
		c := (&client{t: t}).read(dechunk(got))
		want(t, "final chunk", final(got), true)
		want(t, fmt.Sprint("full at byte ", first, ": control events"), c.controlSummary(), "sse.gap epoch, sse.closing disconnected")
		want(t, fmt.Sprint("full at byte ", first, ": events"), c.data(), "1 2 3 4 5 6 "+eight)
		want(t, "heartbeats", c.positionMoves, 1)
		if t.Failed() {
			return
		}
	}
}

// A write of TLS blocks until the kernel has taken all of it. So room must not return more than
// the kernel takes, also for sockets with TCP_NOTSENT_LOWAT.
func TestSweeperDoesNotWaitForTLS(t *testing.T) {
	for _, lowat := range []int{0, 4 << 10} {
		clientEnd, conn, tcp := connPair(t, overTLS)
		defer clientEnd.Close()
		if lowat > 0 {
			raw, err := tcp.SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			_ = raw.Control(func(fd uintptr) {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, lowat)
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		s := newSocket(conn, tcp)
		defer s.close()
		done := make(chan int)
		go func() {
			sent := 0
			p := make([]byte, 300)
			for misses := 0; misses < 5; {
				n, err := s.tryWrite(p)
				if err != nil {
					t.Error(err)
				}
				if sent += n; n < len(p) {
					misses++
				}
			}
			done <- sent
		}()
		select {
		case sent := <-done:
			if sent < 8<<10 {
				t.Errorf("bytes written to an empty socket: got %d, want at least %d", sent, 8<<10)
			}
		case <-time.After(time.Minute):
			t.Errorf("a write with TCP_NOTSENT_LOWAT %d: got blocked, want it to return", lowat)
			clientEnd.Close()
			tcp.Close()
			<-done
		}
	}
}
