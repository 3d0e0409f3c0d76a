package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// reading is what must not grow.
type reading struct {
	files, goroutines int
	heap              int64
}

// TestNoLeaks has clients come and vanish at random while events flow. When they
// are gone, so must be all that they cost.
func TestNoLeaks(t *testing.T) {
	const clients = 2000
	s := Start(t, Config{Hub: "history 100"})
	p := s.Publisher()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)

	settled := func(what string, most reading) reading {
		t.Helper()
		var now reading
		Wait(t, Patience, what, func() error {
			if n := s.Status().Connections; n > 0 {
				return fmt.Errorf("%d connections are open", n)
			}
			now = reading{s.Files(), s.Goroutines(), s.Heap()}
			if now.files > most.files || now.goroutines > most.goroutines || now.heap > most.heap {
				return fmt.Errorf("%+v is more than %+v", now, most)
			}
			return nil
		})
		for _, protocol := range Protocols {
			if n := s.Connections(protocol); n != 0 {
				t.Errorf("the gauge of %s says %d", protocol, n)
			}
		}
		t.Logf("%s: %+v", what, now)
		return now
	}
	// The first of each kind makes the server take what it keeps.
	vanish(t, s, p, 100, seed)
	base := settled("the first to be gone", reading{1 << 20, 1 << 20, 1 << 40})

	// The publisher's and the test's own connections to the admin endpoint, and
	// the server's own business, come and go.
	const slack = 5
	most := reading{base.files + slack, base.goroutines + slack, base.heap + 4<<20}
	opened := vanish(t, s, p, clients, seed+1)
	first := settled("the first round to be gone", most)
	// Pools and maps take some rounds to reach their size. What a client costs
	// while it is there is a multiple of this: 1 KiB.
	most.heap = first.heap + clients<<10
	opened += vanish(t, s, p, clients, seed+2)
	settled("the second round to be gone", most)
	t.Logf("%d of %d clients stayed for their first block", opened, 2*clients)
	if opened < clients/2 {
		t.Error("too few for the test to mean anything")
	}
}

// vanish opens streams, most of which end before or while something is sent, and
// returns how many saw their first block.
func vanish(t *testing.T, s *Server, p *Publisher, n int, seed uint64) (opened int64) {
	t.Helper()
	defer publishing(t, p, nil, broadcasts)()
	var begun atomic.Int64
	var left atomic.Int64
	left.Store(int64(n))
	var workers sync.WaitGroup
	for worker := range 40 {
		random := rand.New(rand.NewPCG(seed, uint64(worker)))
		// Handshakes under the race detector are slow, so most have none.
		protocol := H1
		switch {
		case worker%10 == 0:
			protocol = H3
		case worker%10 == 1:
			protocol = H1TLS
		case worker%10 < 5:
			protocol = H2
		}
		workers.Go(func() {
			c := s.Client(protocol)
			defer c.Close()
			for left.Add(-1) >= 0 {
				ctx, cancel := context.WithCancel(t.Context())
				if random.IntN(2) == 0 {
					time.AfterFunc(time.Duration(random.IntN(50))*time.Millisecond, cancel)
				}
				if stream, err := c.Open(ctx, Identity{User: fmt.Sprint("user ", random.IntN(10))}, ""); err == nil {
					for block := range random.IntN(6) {
						_, err := stream.Next()
						if errors.As(err, new(Violation)) {
							t.Error(err)
						}
						if err != nil {
							break
						}
						if block == 0 {
							begun.Add(1)
						}
					}
					stream.Close()
				}
				cancel()
			}
		})
	}
	workers.Wait()
	return begun.Load()
}
