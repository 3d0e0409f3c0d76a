//go:build holds && linux

package hub

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// timedMutex, in a build with the tag holds, measures how long each call holds the lock. It
// measures the CPU time of the thread, so that a busy machine does not matter. It does not
// measure a goroutine that has changed its thread meanwhile. Only tests use this build. See
// [sync.RWMutex] for who may call what.
type timedMutex struct {
	sync.RWMutex
	waits latencyCounts

	written cpuTime // of the last Lock

	mu    sync.Mutex
	reads map[int]time.Duration // thread -> the time of its RLock
	most  time.Duration         // the longest hold
}

// cpuTime is a time by the CPU clock of one thread.
type cpuTime struct {
	thread int
	at     time.Duration
}

// cpuNow returns the CPU time of the thread that the calling goroutine runs on.
func cpuNow() cpuTime {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t)
	return cpuTime{unix.Gettid(), time.Duration(t.Nano())}
}

// longest returns the longest hold since the last call. Any goroutine may call it.
func (l *timedMutex) longest() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	most := l.most
	l.most = 0
	return most
}

// Lock locks for writing, and notes when the hold began.
func (l *timedMutex) Lock() {
	l.RWMutex.Lock()
	l.written = cpuNow()
}

// TryLock locks for writing if the lock is free, and reports whether it did. Then it notes
// when the hold began.
func (l *timedMutex) TryLock() bool {
	ok := l.RWMutex.TryLock()
	if ok {
		l.written = cpuNow()
	}
	return ok
}

// Unlock ends Lock or TryLock. It first measures the hold, unless the goroutine has changed
// its thread.
func (l *timedMutex) Unlock() {
	if now := cpuNow(); now.thread == l.written.thread {
		l.mu.Lock()
		l.most = max(l.most, now.at-l.written.at)
		l.mu.Unlock()
	}
	l.RWMutex.Unlock()
}

// RLock locks for reading, and notes in l.reads when the hold began. The key is the thread,
// because RUnlock knows nothing else of the reader. If two readers hold the lock on one
// thread, only one of them is measured, from the later time.
func (l *timedMutex) RLock() {
	l.RWMutex.RLock()
	now := cpuNow()
	l.mu.Lock()
	if l.reads == nil {
		l.reads = make(map[int]time.Duration)
	}
	l.reads[now.thread] = now.at
	l.mu.Unlock()
}

// RUnlock ends RLock. It first measures the hold, unless the goroutine has changed its
// thread.
func (l *timedMutex) RUnlock() {
	now := cpuNow()
	l.mu.Lock()
	if began, ok := l.reads[now.thread]; ok {
		l.most = max(l.most, now.at-began)
		delete(l.reads, now.thread)
	}
	l.mu.Unlock()
	l.RWMutex.RUnlock()
}
