//go:build !(holds && linux)

package hub

import (
	"sync"
	"time"
)

// timedMutex is an RWMutex that measures how long writers wait for it. It measures
// nothing when it is free.
type timedMutex struct {
	sync.RWMutex
	waits latencyCounts
}

// Lock locks for writing.
func (l *timedMutex) Lock() {
	if l.TryLock() {
		return
	}
	begun := time.Now()
	l.RWMutex.Lock()
	l.waits.observe(int64(time.Since(begun)))
}
