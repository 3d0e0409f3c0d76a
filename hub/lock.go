//go:build !(holds && linux)

package hub

import (
	"sync"
	"time"
)

// lock counts how long those who change the hub wait for it. When it is free, that
// costs nothing.
type lock struct {
	sync.RWMutex
	waits latency
}

// Lock locks for writing.
func (l *lock) Lock() {
	if l.TryLock() {
		return
	}
	begun := time.Now()
	l.RWMutex.Lock()
	l.waits.observe(int64(time.Since(begun)))
}
