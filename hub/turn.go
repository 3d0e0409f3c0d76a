package hub

// The turn of a connection: one goroutine at a time looks up and writes for it.
// News is never lost, since whoever gives the turn back sees whether there was
// any, and never doubled, since a connection waits in a queue once.
const (
	running uint32 = iota // somebody has the turn; first whoever made the connection
	again                 // somebody has it, and there is news
	idle
	queued // it waits for its writer
)

// queue is where connections wait for their turn.
type queue interface{ push(*Conn) }

// poke says that there is news for c.
func (c *Conn) poke() {
	for {
		switch state := c.turn.Load(); state {
		case idle:
			if c.turn.CompareAndSwap(idle, queued) {
				c.queue.push(c)
				return
			}
		case running:
			if c.turn.CompareAndSwap(running, again) {
				return
			}
		default:
			return
		}
	}
}

// take takes the turn, for whoever took c from its queue, or has it already.
func (c *Conn) take() { c.turn.Store(running) }

// yield gives the turn back, unless there is news.
func (c *Conn) yield() bool { return c.turn.CompareAndSwap(running, idle) }
