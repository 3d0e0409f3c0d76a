package caddysse

import (
	"context"
	"runtime"

	"github.com/ea766355/caddy-sse/internal/netyield"
)

// beginTurns limits how many requests for streams are worked on at the same time, to the
// number of CPUs. When thousands of clients connect at once, the others wait here. If they
// waited in the queue of the Go scheduler, then publishers and open streams would wait behind
// all of them. A turn ends before anything that may wait for a client or for a store.
var beginTurns = newTurns(runtime.GOMAXPROCS(0))

// turns hands out turns. Its elements are the turns that are free.
type turns chan *netyield.Yielder

func newTurns(n int) turns {
	t := make(turns, n)
	for range n {
		t <- new(netyield.Yielder)
	}
	return t
}

// take waits for a turn, or until ctx ends. While others wait too, it gives way now and then
// to what is not a beginning stream. The turn must be given back.
func (t turns) take(ctx context.Context) (*netyield.Yielder, error) {
	// A client can reset streams as fast as it opens them.
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	select {
	case y := <-t:
		y.Begin()
		return y, nil
	default:
	}
	select {
	case y := <-t:
		y.Step()
		return y, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (t turns) giveBack(y *netyield.Yielder) { t <- y }
