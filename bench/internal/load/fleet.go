package load

import (
	"fmt"
	"net/netip"
	"time"
)

// openTimeout is how long all streams of a fleet together may take to open.
const openTimeout = 3 * time.Minute

// Fleet is a set of streams whose events go to a [Recorder]. It belongs to one
// goroutine.
type Fleet interface {
	// Open opens n more streams and returns when all have been answered. The request
	// of the i-th stream of the fleet, from 0, is request(i).
	Open(n int, request func(i int) Request) error
	// Run receives until done, which is asked often, says so.
	Run(done func() bool) error
	// Close closes all streams and waits for what served them.
	Close()
}

// Protocol is how a stream is carried.
type Protocol string

const (
	H1    Protocol = "h1"
	H1TLS Protocol = "h1 TLS"
	H2    Protocol = "h2" // over TLS, a connection for each stream, as with as many browsers
	H3    Protocol = "h3" // over QUIC, a connection and a socket for each stream
)

// New is a fleet of streams to addr, an IP address and port of this machine.
func New(p Protocol, addr string, rec *Recorder) (Fleet, error) {
	ap, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, fmt.Errorf("fleet: %w", err)
	}
	if p == H1 {
		return newEpollFleet(ap, rec)
	}
	return newTLSFleet(p, addr, rec), nil
}

// source is the address that the i-th stream comes from: one address has no more
// than 28,231 ports to the same server.
func source(i int) [4]byte { return [4]byte{127, 0, 0, byte(2 + i/20_000)} }
