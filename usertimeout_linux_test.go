package caddysse

import (
	"math"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestUserTimeout: the kernel gets the timeout in milliseconds, and its largest timeout for a longer one.
func TestUserTimeout(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for d, want := range map[time.Duration]int{
		75 * time.Second:           75_000,
		30 * 24 * time.Hour:        math.MaxInt32, // does not fit into a signed int
		50 * 24 * time.Hour:        math.MaxInt32, // does not fit into an unsigned int
		250 * 365 * 24 * time.Hour: math.MaxInt32,
	} {
		setUserTimeout(c.(*net.TCPConn), d)
		raw, err := c.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		var got int
		if err := raw.Control(func(fd uintptr) {
			got, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT)
		}); err != nil {
			t.Fatal(err)
		}
		if err != nil || got != want {
			t.Errorf("timeout of the kernel for %s: got %d ms, %v; want %d ms", d, got, err, want)
		}
	}
}
