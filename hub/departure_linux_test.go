package hub

import (
	"testing"

	"golang.org/x/sys/unix"
)

// A goroutine watches a client while no file descriptor is free. The epoll watches later clients
// once descriptors are free again.
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
	none.Cur = 3 // descriptors 0 to 2 are in use
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	one.TakeOver(firstTCP, firstTCP)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	h.departures.mu.Lock()
	want(t, "there is an epoll without descriptors", h.departures.epoll != nil, false)
	h.departures.mu.Unlock()

	two.TakeOver(secondTCP, secondTCP)
	watched(t, h, 1)
	first.Close()
	second.Close()
	<-one.ended
	<-two.ended
	want(t, "reason of the first", one.reason, Gone)
	want(t, "reason of the second", two.reason, Gone)
}
