package hub

// readUntilGone waits for the client of c to leave, where nothing cheaper does.
// What the client sends is of no interest.
func (c *Conn) readUntilGone() {
	conn := c.socket.conn
	c.hub.writers.Go(func() {
		var b [1]byte
		for {
			if _, err := conn.Read(b[:]); err != nil {
				c.hub.finish(c, Gone)
				return
			}
		}
	})
}
