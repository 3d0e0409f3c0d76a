package hub

import (
	"context"
	"io"
	"math"
	"time"
)

// Sink is how Open and Serve reach a client.
type Sink interface {
	// Write takes all of p, or fails. It fails when the client takes nothing for
	// Settings.Timeout, and keeps no reference to p.
	io.Writer

	// Flush sends what Write took on its way.
	Flush() error

	Aborter
}

// Cutter cuts a write off.
type Aborter interface {
	// Cut makes a write that is under way fail. It is called from any goroutine,
	// also while one writes, or when the stream has just ended, and does not wait.
	Abort()
}

// waiter is the queue of one connection, whose goroutine waits for it.
type goroutineQueue struct {
	woken chan struct{} // one slot
	alarm *time.Timer
}

func (w *goroutineQueue) push(*Conn) { w.woken <- struct{}{} }

// onAlarm wakes the goroutine of c. It may be in a write that takes long, so the
// alarm goes off again when the time of c is over, which cuts the write off.
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
	reason = Gone // if w panics
	defer func() {
		if reason != "" {
			c.endServing(reason)
		}
	}()
	return c.catchUp(w)
}

// release ends c, if nothing else has, and what Open has begun.
func (c *Conn) endServing(reason Reason) {
	reason = c.hub.finish(c, reason)
	c.setAborter(nil)
	c.queue.(*goroutineQueue).alarm.Stop()
	c.reportClosed(reason)
}

// serve implements [Stream.Serve] for a stream that has not ended yet.
func (c *Conn) serve(ctx context.Context, w Sink) Reason {
	defer c.endServing(Gone) // if w panics
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

// catchUp writes all that is between the cursor and the head, and whatever else
// is due. It returns why the connection has ended, or "".
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

// setCutter says what to cut, should c end while a write is stuck.
func (c *Conn) setAborter(w Aborter) {
	c.hub.lockQueued()
	defer c.hub.unlockQueued()
	c.setAborterLocked(w)
}

// cutBy is setCutter with the lock.
func (c *Conn) setAborterLocked(w Aborter) {
	c.aborter = w
	switch {
	case w == nil && c.abortTimer != nil:
		c.abortTimer.Stop()
	case c.graceOver:
		c.abortTimer.Reset(closeGrace / 8)
	}
}
