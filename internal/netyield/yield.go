// Package netyield lets a goroutine that computes for long give way to goroutines that wait
// for the network.
package netyield

import (
	"sync/atomic"
	"time"
)

// every is how long a stretch of work lasts before it gives way.
const every = 500 * time.Microsecond

// Count is how often all Yielders gave way. It is for tests.
var Count atomic.Int64

// Yielder gives way in the middle of long work. The zero value is ready. One goroutine at a
// time uses it.
//
// The Go scheduler polls the network when a CPU has nothing to run, and otherwise every 10 ms.
// So a goroutine that only computes, even with runtime.Gosched, delays publishers whose
// requests have already arrived. On Linux a Yielder waits for the network itself: then the
// scheduler polls as soon as nothing else can run.
type Yielder struct {
	// Even lets a stretch of work last at least as long as the pause before it. So the work has
	// half of the time, however many other goroutines can run.
	Even bool

	since   time.Time     // when the stretch of work began
	stretch time.Duration // how long it lasts at least
}

// Begin begins a stretch of work.
func (y *Yielder) Begin() { y.since, y.stretch = time.Now(), every }

// Step is called after each small step of the work. It gives way, and begins another stretch,
// when the stretch has lasted long enough. It reports whether it gave way.
func (y *Yielder) Step() bool {
	if !y.IsDue() {
		return false
	}
	y.GiveWay()
	return true
}

// IsDue reports whether the stretch has lasted long enough.
func (y *Yielder) IsDue() bool { return time.Since(y.since) >= y.stretch }

// GiveWay gives way now, and begins another stretch.
func (y *Yielder) GiveWay() {
	paused := time.Now()
	waitForNetwork()
	Count.Add(1)
	y.Begin()
	if y.Even {
		y.stretch = max(every, y.since.Sub(paused))
	}
}
