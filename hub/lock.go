//go:build !(holds && linux)

package hub

import (
	"sync"
	"time"
)

// timedMutex is an RWMutex that measures how long writers wait for it. It measures nothing
// when it is free, and nothing for readers. See [sync.RWMutex] for the methods.
type timedMutex struct {
	sync.RWMutex
	waits latencyCounts
}

// Lock locks for writing, and adds the time that it waited to l.waits. A goroutine that
// holds the lock must not call it.
func (l *timedMutex) Lock() {
	if l.TryLock() {
		return
	}
	begun := time.Now()
	l.RWMutex.Lock()
	l.waits.observe(int64(time.Since(begun)))
}
