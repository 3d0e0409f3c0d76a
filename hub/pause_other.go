//go:build !linux

package hub

// pause does nothing where goroutines wait for every socket.
type pause struct{}

func (*pause) take()  {}
func (*pause) close() {}
