package hub

import (
	"testing"

	"golang.org/x/sys/unix"
)

// When no descriptor is free, a goroutine watches the client; once there are some
// again, the epoll does.
func TestDepartureWhenDescriptorsAreBack(t *testing.T) {
	h := newHub(t, Options{})
	first, _, firstTCP := connPair(t, overTCP)
	second, _, secondTCP := connPair(t, overTCP)
	defer first.Close()
	defer second.Close()
	connected := func() *servedConn {
		v := &servedConn{Pending: connect(t, h, requestOf("alice")), ended: make(chan struct{})}
		v.endOnClosed()
		return v
	}
	one, two := connected(), connected()

	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	none := limit
	none.Cur = 3 // the numbers below are taken
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	one.TakeOver(firstTCP, firstTCP)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	h.departures.mu.Lock()
	want(t, "an epoll without descriptors", h.departures.epoll != nil, false)
	h.departures.mu.Unlock()

	two.TakeOver(secondTCP, secondTCP)
	watched(t, h, 1)
	first.Close()
	second.Close()
	<-one.ended
	<-two.ended
	want(t, "the first ended", one.reason, Gone)
	want(t, "the second ended", two.reason, Gone)
}
