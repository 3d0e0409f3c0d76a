package hub

import (
	"runtime"
	"time"
)

// pacer makes one connection's replay leave time to others. A replay is
// everything that takes more than one batch. It is used by one goroutine, and the
// zero value is ready.
type pacer struct {
	hub  *Hub // nil as long as the connection does not replay
	owed time.Duration
}

const (
	// paceShare is which part of the CPUs all replays together may use, in percent.
	// While they use all of it, what is live waits for each of them in turn.
	replayShare = 60

	// paceLeast is the shortest sleep: the timers of the runtime are no finer.
	minPause = time.Millisecond

	// paceSlice is how long a sleep may go on after the stream is to be closed.
	pauseSlice = 100 * time.Millisecond

	// paceMost bounds what one batch is taken to have cost, since a write may have
	// waited for the client.
	maxBatchCost = time.Millisecond
)

// pause is called after each batch that is not the last, with what it has cost.
func (p *pacer) pause(c *Conn, cost time.Duration) {
	h := c.hub
	if p.hub == nil {
		p.hub = h
		h.replays.Add(1)
	}
	cpus := time.Duration(runtime.GOMAXPROCS(0))
	replays := time.Duration(h.replays.Load())
	// With n replays each may use paceShare/n of the CPUs.
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

// closes reports whether c is to be closed without another block.
func (c *Conn) mustClose() bool {
	c.hub.mu.RLock()
	defer c.hub.mu.RUnlock()
	return lookup{reason: c.reason, graceOver: c.graceOver}.mustClose()
}

// end is called when the replay is over, or there was none.
func (p *pacer) end() {
	if p.hub != nil {
		p.hub.replays.Add(-1)
		p.hub = nil
	}
}
