//go:build !linux

package hub

// departures notices when clients leave.
type departures struct{}

func (*departures) watch(c *Conn)  { c.readUntilGone() }
func (*departures) forget(c *Conn) {}
func (*departures) close()         {}
