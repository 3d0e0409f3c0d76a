package hub

import (
	"context"
	"io"
	"math"
	"time"
)

// Sink is how [Pending.Open] and [Stream.Serve] write to a client.
type Sink interface {
	// Write takes all of p, or fails. It must fail when the client takes nothing for
	// Settings.Timeout, and must not keep p.
	io.Writer

	// Flush sends what Write has buffered.
	Flush() error

	Aborter
}

// Aborter can abort a write.
type Aborter interface {
	// Abort makes a write that is under way fail. It must not block. Any goroutine
	// may call it, during a write, between two writes, or just after the stream has ended.
	Abort()
}

// goroutineQueue is the queue of one connection, which a goroutine serves.
type goroutineQueue struct {
	woken chan struct{} // one slot
	alarm *time.Timer
}

func (w *goroutineQueue) push(*Conn) { w.woken <- struct{}{} }

// onAlarm wakes the goroutine of c. That goroutine may be stuck in a write, so the alarm
// is set again for the end of c, which aborts the write.
func (c *Conn) onAlarm() {
	now := time.Now()
	c.expire(now)
	c.hub.lockQueued()
	if c.reason == "" && !c.end.IsZero() {
		c.queue.(*goroutineQueue).alarm.Reset(c.end.Sub(now))
	}
	c.hub.unlockQueued()
	c.wake()
}

// open implements [Pending.Open]. It returns why the stream has already ended, or "".
func (c *Conn) open(w Sink) (reason Reason) {
	wait := &goroutineQueue{make(chan struct{}, 1), time.AfterFunc(math.MaxInt64, c.onAlarm)}
	c.queue = wait
	if !c.end.IsZero() {
		wait.alarm.Reset(time.Until(c.end))
	}
	c.setAborter(w)
	reason = Gone // in case w panics
	defer func() {
		if reason != "" {
			c.endServing(reason)
		}
	}()
	return c.catchUp(w)
}

// endServing ends c, unless it has already ended, and stops what open has started.
func (c *Conn) endServing(reason Reason) {
	reason = c.hub.finish(c, reason)
	c.setAborter(nil)
	c.queue.(*goroutineQueue).alarm.Stop()
	c.reportClosed(reason)
}

// serve implements [Stream.Serve] for a stream that has not ended yet.
func (c *Conn) serve(ctx context.Context, w Sink) Reason {
	defer c.endServing(Gone) // in case w panics
	wait := c.queue.(*goroutineQueue)
	for {
		wait.alarm.Reset(time.Until(c.nextAlarm()))
		if c.releaseTurn() {
			select {
			case <-wait.woken:
			case <-ctx.Done():
				return c.hub.finish(c, Gone)
			}
		}
		c.takeTurn()
		if reason := c.catchUp(w); reason != "" {
			return reason
		}
	}
}

// catchUp writes everything between the cursor and the head, and what else is due. It
// returns why the connection has ended, or "".
func (c *Conn) catchUp(w Sink) Reason {
	b := batches.Get().(*batch)
	defer b.release()
	var pacer pacer
	defer pacer.end()
	for {
		now := time.Now()
		l := c.compose(now, b)
		if l.mustClose() {
			return l.reason
		}
		if b.hasBlocks() {
			n, err := b.writeTo(w)
			if err == nil && !l.more {
				err = w.Flush()
			}
			c.countBytes(n)
			if err != nil {
				if time.Since(now) >= c.settings.Timeout {
					return c.hub.finish(c, Timeout)
				}
				return c.hub.finish(c, Gone)
			}
			c.account(b, l, len(b.items), true)
		} else {
			c.cursor.Store(l.cursor)
		}
		if !l.more {
			return l.reason
		}
		pacer.pause(c, time.Since(now))
	}
}

// setAborter sets what is aborted if c ends while a write is stuck; nil: nothing.
func (c *Conn) setAborter(w Aborter) {
	c.hub.lockQueued()
	defer c.hub.unlockQueued()
	c.setAborterLocked(w)
}

// setAborterLocked is setAborter for a caller that holds Hub.mu.
func (c *Conn) setAborterLocked(w Aborter) {
	c.aborter = w
	switch {
	case w == nil && c.abortTimer != nil:
		c.abortTimer.Stop()
	case c.graceOver:
		c.abortTimer.Reset(closeGrace / 8)
	}
}
