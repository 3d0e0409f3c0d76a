package hub

// The scheduling state of a connection. One goroutine at a time has the turn: it looks up
// and writes for the connection. News is never lost, because releaseTurn fails if there was
// any. Nothing is written twice, because a connection is in a queue at most once.
const (
	turnTaken        uint32 = iota // a goroutine has the turn; at first the one that called Connect
	turnTakenAndNews               // a goroutine has the turn, and there is news since it began
	turnIdle
	turnQueued // it waits in its queue
)

// queue is where a connection waits for its turn. push must not block. Only Conn.wake,
// [sweeper.requeue] and [streamWriter.release] call it, after they have set the state to
// turnQueued.
type queue interface{ push(*Conn) }

// wake tells c that there is news for it. It does not block. Any goroutine may call it,
// with Hub.mu or without.
func (c *Conn) wake() {
	for {
		switch state := c.turn.Load(); state {
		case turnIdle:
			if c.turn.CompareAndSwap(turnIdle, turnQueued) {
				c.queue.push(c)
				return
			}
		case turnTaken:
			if c.turn.CompareAndSwap(turnTaken, turnTakenAndNews) {
				return
			}
		default:
			return
		}
	}
}

// takeTurn takes the turn of c, the right to look up and write for it. The caller took c
// from its queue, or has the turn already: no other goroutine may call it.
func (c *Conn) takeTurn() { c.turn.Store(turnTaken) }

// releaseTurn gives the turn back and returns true. If there is news it keeps the turn and
// returns false: the caller must write again, or requeue c. The caller has the turn. After
// true it must not use what the turn protects.
func (c *Conn) releaseTurn() bool { return c.turn.CompareAndSwap(turnTaken, turnIdle) }
