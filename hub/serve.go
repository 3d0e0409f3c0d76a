package hub

import (
	"context"
	"io"
	"math"
	"sync/atomic"
	"time"
)

// Sink is how [Pending.Open], [Stream.Serve] and [Stream.ServeDetached] write to a client.
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

// streamWriter is the queue of one connection that is written through a [Sink]. A goroutine
// of Hub.stacks writes when the connection has the turn. With [Stream.Serve] a
// goroutine waits for the end. With [Stream.ServeDetached] none does.
type streamWriter struct {
	task  stackTask // one turn
	alarm *time.Timer

	// How the end is reported. Set by serve or serveDetached before it first gives the turn up.
	ended      chan ending  // one slot; nil: the stream is detached
	onDetached func(Reason) // called at the end of a detached stream
	unwatch    func() bool  // of a detached stream: leave is not called any more

	// Owned by the goroutine that has the turn of the connection.
	conn *Conn
	sink Sink

	// Any goroutine may use these.
	isSet  atomic.Bool // the alarm is set for what is due next, or for earlier
	isGone atomic.Bool // the client has left: the next turn is the last one
}

// ending is how a stream ended.
type ending struct {
	reason  Reason
	failure failure // of the writer
}

// newStreamWriter returns the queue of c. Only Conn.open calls it.
func newStreamWriter(c *Conn, w Sink) *streamWriter {
	q := &streamWriter{alarm: time.AfterFunc(math.MaxInt64, c.onAlarm), conn: c, sink: w}
	q.task.perform = q.writeTurn
	q.task.failed = func(f failure) { q.finish(ending{reason: Gone, failure: f}) }
	return q
}

// push implements [queue]. It does not block.
func (q *streamWriter) push(c *Conn) { c.hub.stacks.start(&q.task) }

// writeTurn is one turn of the connection. It runs on a large stack. If the stream has
// ended, writeTurn keeps the turn, so that no other follows.
func (q *streamWriter) writeTurn() {
	q.conn.takeTurn()
	reason := Gone
	if !q.isGone.Load() {
		reason = q.conn.catchUp(q.sink)
	}
	if reason != "" {
		q.finish(ending{reason: reason})
		return
	}
	q.release()
}

// finish reports how the stream has ended. If the stream is detached, finish ends c, and panics if
// the sink has panicked. The caller has the turn of c ([Conn.turn]), and keeps it.
func (q *streamWriter) finish(end ending) {
	if q.ended != nil {
		q.ended <- end
		return
	}
	q.unwatch()
	reason := q.conn.endServing(end.reason)
	q.onDetached(reason)
	q.conn.hub.takenOver.Done()
	end.failure.raise()
}

// leave ends the stream of a client that has left. Any goroutine may call it. The caller must not
// hold Hub.mu.
func (q *streamWriter) leave() {
	c := q.conn
	if c.turn.CompareAndSwap(turnIdle, turnTaken) {
		q.finish(ending{reason: Gone}) // nobody writes, and nobody will
		return
	}
	// A turn is under way, or comes. It may know a better reason: that a write took too long.
	q.isGone.Store(true)
	c.wake()
}

// release sets the alarm and gives the turn back, or queues the connection again if there
// is news. The caller has the turn of the connection ([Conn.turn]).
//
// Each write moves the next alarm to later. An alarm that is already set stays: it costs one
// turn in which nothing is due, and a new alarm would cost more with each write.
func (q *streamWriter) release() {
	c := q.conn
	if !q.isSet.Load() {
		q.isSet.Store(true)
		q.alarm.Reset(time.Until(c.nextAlarm()))
	}
	if !c.releaseTurn() {
		c.turn.Store(turnQueued)
		q.push(c)
	}
}

// onAlarm ends c if its time has come, and wakes the writer of c. The writer may be stuck in
// a write, so the alarm is set again for the end of c, which aborts the write. The next turn
// sets it for what is due then. Only the timer calls it, on a goroutine of its own. The caller
// must not hold Hub.mu.
func (c *Conn) onAlarm() {
	q := c.queue.(*streamWriter)
	now := time.Now()
	c.expire(now)
	c.hub.lockQueued()
	if c.reason == "" && !c.end.IsZero() {
		q.alarm.Reset(c.end.Sub(now))
	}
	c.hub.unlockQueued()
	q.isSet.Store(false) // after Reset: a turn that sets the alarm now overrules c.end
	c.wake()             // and there is such a turn
}

// open implements [Pending.Open]. It returns why the stream has already ended, or "": then
// serve or serveDetached must be called. The caller made c with Connect, and so has the turn ([Conn.turn]).
// It must be called once, and not after takeOver. If w panics, c ends.
func (c *Conn) open(w Sink) (reason Reason) {
	q := newStreamWriter(c, w)
	c.queue = q
	if !c.end.IsZero() {
		q.alarm.Reset(time.Until(c.end))
	}
	c.setAborter(w)
	reason = Gone // in case w panics
	defer func() {
		if reason != "" {
			reason = c.endServing(reason)
		}
	}()
	return c.catchUp(w)
}

// endServing ends c, unless it has already ended, stops what open has started, and reports
// the end. It returns why c has ended. It takes the lock once, because thousands may end at
// the same time. It is called once, and nothing is written to c
// afterwards. The caller must not hold Hub.mu.
func (c *Conn) endServing(reason Reason) Reason {
	h := c.hub
	h.lockQueued()
	h.detach(c, reason)
	reason = c.reason
	c.setAborterLocked(nil)
	h.unlockQueued()
	c.queue.(*streamWriter).alarm.Stop()
	c.reportClosed(reason)
	return reason
}

// serve implements [Stream.Serve] for a stream that has not ended yet. It returns why c has
// ended. The caller has had the turn ([Conn.turn]) since open, and calls serve once.
func (c *Conn) serve(ctx context.Context) (reason Reason) {
	reason = Gone // in case w panics
	defer func() { reason = c.endServing(reason) }()
	q := c.queue.(*streamWriter)
	q.ended = make(chan ending, 1)
	q.release()
	var end ending
	select {
	case end = <-q.ended:
	case <-ctx.Done():
		q.leave()
		end = <-q.ended
	}
	end.failure.raise()
	return end.reason
}

// serveDetached implements [Stream.ServeDetached] for a stream that has not ended yet. The caller
// has had the turn ([Conn.turn]) since open, and calls it once.
func (c *Conn) serveDetached(ctx context.Context, w Sink, ended func(Reason)) {
	q := c.queue.(*streamWriter)
	q.sink = w
	c.hub.lockQueued()
	c.setAborterLocked(w)
	isKept := c.hub.keepLocked(c)
	c.hub.unlockQueued()
	if !isKept {
		ended(c.serve(ctx))
		return
	}
	q.onDetached, q.unwatch = ended, context.AfterFunc(ctx, q.leave)
	q.release()
}

// catchUp writes everything between the cursor and the head, and what else is due. It
// returns why c has ended; "": c is still open. It may block in every write. The caller has
// the turn of c ([Conn.turn]), and must not hold Hub.mu.
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
			pacer.beginWrite()
			n, err := c.writeBatch(w, b)
			if err == nil && !l.more {
				err = w.Flush()
			}
			pacer.endWrite()
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
		b.resetItems() // the history may evict them during the pause, which may be long
		pacer.pause(c, time.Since(now))
	}
}

// writeBatch writes b. It pins a large event while it writes it ([pinned]), because w may
// block. It returns how many bytes w took. The caller has the turn of c ([Conn.turn]). The
// caller must not hold Hub.mu.
func (c *Conn) writeBatch(w Sink, b *batch) (int, error) {
	if b.size > batchBytes {
		c.pin(b.items[0], false)
		defer c.unpin()
	}
	return b.writeTo(w)
}

// setAborter sets what is aborted if c ends while a write is stuck; nil: nothing. Only the
// goroutine that opens or closes c calls it. The caller must not hold Hub.mu.
func (c *Conn) setAborter(w Aborter) {
	c.hub.lockQueued()
	defer c.hub.unlockQueued()
	c.setAborterLocked(w)
}

// setAborterLocked does the work of setAborter. The caller holds Hub.mu for writing.
func (c *Conn) setAborterLocked(w Aborter) {
	c.aborter = w
	switch {
	case w == nil && c.abortTimer != nil:
		c.abortTimer.Stop()
	case c.graceOver:
		c.abortTimer.Reset(closeGrace / 8)
	}
}
