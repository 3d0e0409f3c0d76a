//go:build !linux

package hub

// departures notices when clients close their connection. A goroutine for each connection
// waits for that.
type departures struct{}

func (*departures) watch(c *Conn)  { c.readUntilGone() }
func (*departures) forget(c *Conn) {}
func (*departures) close()         {}
