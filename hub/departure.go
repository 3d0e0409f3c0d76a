package hub

// readUntilGone starts a goroutine that reads from the client of c until the client is
// gone, and then ends c. It is the fallback where epoll is not available. Only
// departures.watch calls it, once: the goroutine ends when the socket is closed.
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
