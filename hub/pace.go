package hub

import (
	"runtime"
	"sync/atomic"
	"time"
)

// pacer slows the replay of one connection, so that live streams and publishers get
// their share of the CPUs. A replay is everything that takes more than one batch. One
// goroutine uses a pacer. The zero value is ready.
type pacer struct {
	replay *replay // nil: the connection has not replayed
	owed   time.Duration
}

// replay is a replay that has begun. Any goroutine may call uncount.
type replay struct {
	hub     *Hub
	counted atomic.Bool // in Hub.replays
	stall   *time.Timer // calls uncount while the replay waits for its client
}

const (
	// replayShare is the share of the CPUs that all replays together may use, in percent.
	// If they used all, a live stream would wait for each of them in turn.
	replayShare = 60

	// minPause is the shortest sleep. The timers of the Go runtime are not more precise.
	minPause = time.Millisecond

	// stallAfter is how long a write takes before the replay waits for its client. A client
	// that is waited for takes no CPU from other replays.
	stallAfter = 100 * time.Millisecond

	// pauseSlice is how long a sleep goes on after the stream must close.
	pauseSlice = 100 * time.Millisecond

	// maxBatchCost bounds the assumed cost of one batch: a write may have waited for the
	// client, which costs no CPU.
	maxBatchCost = time.Millisecond
)

// pause sleeps if the replay has used more than its share. It is called after each batch
// except the last, with the time that the batch took. The first call begins the replay: the
// caller must call end afterwards. The caller must not hold a lock.
func (p *pacer) pause(c *Conn, cost time.Duration) {
	h := c.hub
	if p.replay == nil {
		p.replay = &replay{hub: h}
	}
	if p.replay.counted.CompareAndSwap(false, true) {
		h.replays.Add(1)
	}
	cpus := time.Duration(runtime.GOMAXPROCS(0))
	replays := time.Duration(h.replays.Load())
	// Each of n replays may use replayShare/n of the CPUs.
	p.owed += max(0, min(cost, maxBatchCost)*(replays*100-cpus*replayShare)/(cpus*replayShare))
	if p.owed < minPause {
		runtime.Gosched()
		return
	}
	for ; p.owed > 0 && !c.mustClose(); p.owed -= pauseSlice {
		time.Sleep(min(p.owed, pauseSlice))
	}
	p.owed = 0
}

// mustClose reports whether c must be closed without another block. Any goroutine may call
// it. The caller must not hold Hub.mu.
func (c *Conn) mustClose() bool {
	c.hub.mu.RLock()
	defer c.hub.mu.RUnlock()
	return lookup{reason: c.reason, graceOver: c.graceOver}.mustClose()
}

// beginWrite notes that a write begins, which may wait for the client. If it waits for long, the
// replay does not count meanwhile. It does nothing if there is no replay. The caller calls
// endWrite after the write.
func (p *pacer) beginWrite() {
	switch r := p.replay; {
	case r == nil:
	case r.stall == nil:
		r.stall = time.AfterFunc(stallAfter, r.uncount)
	default:
		r.stall.Reset(stallAfter)
	}
}

// endWrite ends beginWrite.
func (p *pacer) endWrite() {
	if p.replay != nil {
		p.replay.stall.Stop()
	}
}

// end ends the replay, or stops counting it while it waits for its client. It does nothing
// if there was none, or if it was called before.
func (p *pacer) end() {
	if p.replay != nil {
		p.replay.uncount()
	}
}

func (r *replay) uncount() {
	if r.counted.CompareAndSwap(true, false) {
		r.hub.replays.Add(-1)
	}
}
