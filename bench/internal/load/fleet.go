package load

import (
	"fmt"
	"net/netip"
	"time"
)

// openTimeout is the most time for opening all streams of a fleet.
const openTimeout = 3 * time.Minute

// Fleet is a set of streams whose events go to a [Recorder]. One goroutine may use it.
type Fleet interface {
	// Open opens n more streams and returns when all are answered. request(i) is the request of the i-th stream
	// of the fleet, from 0.
	Open(n int, request func(i int) Request) error
	// Run receives until done returns true. It calls done often.
	Run(done func() bool) error
	// Close closes all streams and waits for their goroutines.
	Close()
}

// Protocol is the protocol of a stream.
type Protocol string

const (
	H1    Protocol = "h1"
	H1TLS Protocol = "h1 TLS"
	H2    Protocol = "h2" // over TLS, one connection per stream, like separate browsers
	H3    Protocol = "h3" // over QUIC, one connection and one socket per stream
)

// New returns a fleet of streams to addr, an IP address and port of this machine.
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

// source returns the source address of the i-th stream: one address has at most 28,231 ports to the same
// server.
func source(i int) [4]byte { return [4]byte{127, 0, 0, byte(2 + i/20_000)} }
