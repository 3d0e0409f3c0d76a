package hub

import (
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// The hub notices that a client has left, in whatever way it left, without a write to it.
func TestDeparture(t *testing.T) {
	for name, leave := range map[string]func(p *realClient){
		"closes":      func(p *realClient) { p.tcp.Close() },
		"half-closes": func(p *realClient) { p.tcp.CloseWrite() },
		"resets": func(p *realClient) {
			_ = p.tcp.SetLinger(0)
			p.tcp.Close()
		},
		"closes TLS": func(p *realClient) { p.Conn.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			overEachTransport(t, func(t *testing.T, kind writerKind) {
				h := newHub(t, Options{})
				silent := *defaultSettings
				silent.Heartbeat = time.Hour // no failed write shows that the client has left
				stays, p := dial(t, h, requestOf("stays").with(silent), kind), dial(t, h, requestOf("alice").with(silent), kind)
				publish(t, h, "1")
				p.readUntil(t, "data: 1")
				leave(p)
				want(t, "reason", p.wait(), Gone)
				publish(t, h, "2")
				stays.readUntil(t, "data: 2")
				want(t, "open", h.Stats().Connections["h1"], 1)
			})
		})
		t.Run(name+" before the take-over", func(t *testing.T) {
			h := newHub(t, Options{})
			p := &realClient{servedConn: &servedConn{Pending: connect(t, h, requestOf("alice")), ended: make(chan struct{})}}
			p.endOnClosed()
			clientEnd, conn, tcp := connPair(t, overTCP)
			p.attach(clientEnd)
			leave(p)
			p.servedConn.TakeOver(conn, tcp)
			want(t, "reason", p.wait(), Gone)
			clientEnd.Close()
		})
	}
}

// A client may leave while the hub writes to it.
func TestDepartureDuringWrites(t *testing.T) {
	overEachTransport(t, func(t *testing.T, kind writerKind) {
		h := newHub(t, Options{})
		stop, publishing := make(chan struct{}), sync.WaitGroup{}
		publishing.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					publish(t, h, strings.Repeat("x", 10_000))
				}
			}
		})
		for i := range 50 {
			p := dial(t, h, requestOf("alice"), kind)
			for range rand.N(4) {
				_, _ = p.block()
			}
			if i%2 == 0 {
				_ = p.tcp.SetLinger(0)
			}
			p.tcp.Close()
			want(t, "reason", p.wait(), Gone)
		}
		close(stop)
		publishing.Wait()
		want(t, "open", h.Stats().Connections["h1"], 0)
	})
}

// The kernel may still report the departure of a closed connection after its descriptor number was
// given to a new one. This does not end the new connection.
func TestDepartureOfAReusedNumber(t *testing.T) {
	h := newHub(t, Options{})
	for range 200 {
		first := dial(t, h, requestOf("first"), overTCP)
		go first.tcp.Close() // while the hub ends it
		h.DisconnectHere(Filter{IDs: []string{first.ID()}})
		second := dial(t, h, requestOf("second"), overTCP)
		first.wait()
		publish(t, h, "still there", user("second"))
		second.readUntil(t, "still there")
		h.DisconnectHere(Filter{IDs: []string{second.ID()}})
		want(t, "reason", second.wait(), Disconnected)
		second.tcp.Close()
	}
}

// 2,000 clients connect and leave during publishes, twice. No goroutine and no descriptor is left.
func TestChurn(t *testing.T) {
	h := newHub(t, Options{MaxEvents: 50})
	stop := make(chan struct{})
	var publishing sync.WaitGroup
	publishing.Go(func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-tick.C:
				publish(t, h, fmt.Sprint(i, strings.Repeat("x", rand.N(4_000))))
			}
		}
	})
	round := func() {
		var clients sync.WaitGroup
		for range 10 {
			clients.Go(func() {
				for range 200 {
					kind := overTCP
					if rand.N(40) == 0 {
						kind = overTLS
					}
					p := &realClient{servedConn: &servedConn{Pending: connect(t, h, requestOf("alice")), ended: make(chan struct{})}}
					p.endOnClosed()
					clientEnd, conn, tcp := connPair(t, kind)
					p.attach(clientEnd)
					p.servedConn.TakeOver(conn, tcp)
					for range rand.N(5) {
						_, _ = p.block()
					}
					if rand.N(2) == 0 {
						_ = p.tcp.SetLinger(0)
					}
					p.tcp.Close()
					p.wait()
				}
			})
		}
		clients.Wait()
		want(t, "open", h.Stats().Connections["h1"], 0)
		eventually(t, "the writers end", func() bool { return !strings.Contains(stacks(), "hub.(*Conn)") })
	}
	round()
	first, firstFiles := runtime.NumGoroutine(), openFiles(t)
	round()
	eventually(t, fmt.Sprintf("about the %d goroutines and %d files of the first round are left after the second", first, firstFiles), func() bool {
		return runtime.NumGoroutine() <= first+2 && openFiles(t) <= firstFiles+2
	})
	close(stop)
	publishing.Wait()
	want(t, "closed", h.Stats().Closed["gone"], 4000)
	watched(t, h, 0)
}

// openFiles counts the open files of this process on Linux, and returns 0 elsewhere.
func openFiles(t testing.TB) int {
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil && runtime.GOOS == "linux" {
		t.Fatal(err)
	}
	return len(files)
}
