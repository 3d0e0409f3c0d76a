package hub

// The turn of a connection: one goroutine at a time looks up and writes for it.
// News is never lost, since whoever gives the turn back sees whether there was
// any, and never doubled, since a connection waits in a queue once.
const (
	turnTaken        uint32 = iota // somebody has the turn; first whoever made the connection
	turnTakenAndNews               // somebody has it, and there is news
	turnIdle
	turnQueued // it waits for its writer
)

// queue is where connections wait for their turn.
type queue interface{ push(*Conn) }

// poke says that there is news for c.
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

// take takes the turn, for whoever took c from its queue, or has it already.
func (c *Conn) takeTurn() { c.turn.Store(turnTaken) }

// yield gives the turn back, unless there is news.
func (c *Conn) releaseTurn() bool { return c.turn.CompareAndSwap(turnTaken, turnIdle) }
