//go:build !(holds && linux)

package hub

import (
	"sync"
	"time"
)

// lock counts how long those who change the hub wait for it. When it is free, that
// costs nothing.
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
