//go:build !linux

package hub

// departures notices when clients close their connection: a goroutine for each connection
// waits for that. The caller of watch and forget has the turn of c ([Conn.turn]).
type departures struct{}

func (*departures) watch(c *Conn)  { c.readUntilGone() }
func (*departures) forget(c *Conn) {}
func (*departures) close()         {}
