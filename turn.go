package caddysse

import (
	"context"
	"runtime"

	"github.com/ea766355/caddy-sse/internal/netyield"
)

// beginTurns limits how many requests for streams are worked on at the same time, to the
// number of CPUs. When thousands of clients connect at once, the others wait here. If they
// waited in the queue of the Go scheduler, or for the hub's lock, then publishers and open
// streams would wait behind all of them.
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
func (t turns) take(ctx context.Context) (*turn, error) {
	held := &turn{from: t}
	return held, held.take(ctx)
}

// turn is the right of one request to be worked on. It must not be held while the request
// waits for a client or for a store. One goroutine at a time uses it.
type turn struct {
	from    turns
	yielder *netyield.Yielder // nil: the turn is given back
}

func (t *turn) take(ctx context.Context) error {
	// A client can reset streams as fast as it opens them.
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case t.yielder = <-t.from:
		t.yielder.Begin()
		return nil
	default:
	}
	select {
	case t.yielder = <-t.from:
		t.yielder.Step()
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// giveBack gives the turn back. It does nothing if the turn is given back already.
func (t *turn) giveBack() {
	if t.yielder != nil {
		t.from <- t.yielder
		t.yielder = nil
	}
}

// suspend gives the turn back, waits, and takes a turn again. If the wait fails, or ctx
// ends, then it returns the error without a turn.
func (t *turn) suspend(ctx context.Context, wait func() error) error {
	t.giveBack()
	if err := wait(); err != nil {
		return err
	}
	return t.take(ctx)
}
