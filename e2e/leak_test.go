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

// reading is the measurements that must not grow.
type reading struct {
	files, goroutines int
	heap              int64
}

// TestNoLeaks opens and closes clients at random during publishes. After they have left, the
// server must use no more than before.
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
				t.Errorf("gauge of %s: got %d, want 0", protocol, n)
			}
		}
		t.Logf("%s: %+v", what, now)
		return now
	}
	// The first stream of each kind makes the server allocate what it keeps.
	openAndClose(t, s, p, 100, seed)
	base := settled("the first clients to be closed", reading{1 << 20, 1 << 20, 1 << 40})

	// The connections of the publisher and of this test to the admin endpoint come and go, as
	// do those of the server itself.
	const slack = 5
	most := reading{base.files + slack, base.goroutines + slack, base.heap + 4<<20}
	opened := openAndClose(t, s, p, clients, seed+1)
	first := settled("the first round to be closed", most)
	// Pools and maps need some rounds to reach their size. An open client costs a multiple of
	// this: 1 KiB.
	most.heap = first.heap + clients<<10
	opened += openAndClose(t, s, p, clients, seed+2)
	settled("the second round to be closed", most)
	t.Logf("%d of %d clients stayed for their first block", opened, 2*clients)
	if opened < clients/2 {
		t.Errorf("clients that got their first block: got %d, want at least %d, or the test proves nothing", opened, clients/2)
	}
}

// openAndClose opens streams that end, most of them before or during a write. It returns how many
// of them got their first block.
func openAndClose(t *testing.T, s *Server, p *Publisher, n int, seed uint64) (opened int64) {
	t.Helper()
	defer publishing(t, p, nil, broadcasts)()
	var begun atomic.Int64
	var left atomic.Int64
	left.Store(int64(n))
	var workers sync.WaitGroup
	for worker := range 40 {
		random := rand.New(rand.NewPCG(seed, uint64(worker)))
		// Handshakes are slow under the race detector, so few streams have one.
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
