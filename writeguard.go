package caddysse

import (
	"math"
	"sync/atomic"
	"time"
)

// writeGuard aborts a write when the client reads nothing for the timeout. Its timer is not
// set and stopped for each write, which would cost more than the rest of a small one: it
// stays set until the timeout has passed, and is set again only if a write is under way, or
// with the next one.
//
// One goroutine at a time calls begin and end.
type writeGuard struct {
	timeout time.Duration
	abort   func()
	timer   *time.Timer
	isSet   atomic.Bool  // the timer will look at began
	began   atomic.Int64 // when the write under way began, as a time since processStart; 0: there is none
}

var processStart = time.Now()

// init must be called once, before begin.
func (g *writeGuard) init(timeout time.Duration, abort func()) {
	g.timeout, g.abort = timeout, abort
	g.timer = time.AfterFunc(math.MaxInt64, g.check)
}

func (g *writeGuard) begin() {
	g.began.Store(int64(time.Since(processStart)))
	if !g.isSet.Load() { // after Store: check reads them in the other order
		g.isSet.Store(true)
		g.timer.Reset(g.timeout)
	}
}

func (g *writeGuard) end() { g.began.Store(0) }

// check runs when the timer is due.
func (g *writeGuard) check() {
	g.isSet.Store(false)
	began := g.began.Load()
	if began == 0 {
		return
	}
	if took := time.Since(processStart) - time.Duration(began); took < g.timeout {
		g.isSet.Store(true)
		g.timer.Reset(g.timeout - took)
		return
	}
	g.abort()
}
