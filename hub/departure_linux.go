package hub

import (
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// departures notices when clients close their connection. It has an epoll of its own
// beside that of the Go runtime: one goroutine waits for all connections, and data from
// clients does not wake it. Its methods may be called from any goroutine.
type departures struct {
	mu     sync.Mutex
	epoll  *os.File // nil until the first watch
	fd     int
	closed bool
	next   uint64
	conns  map[uint64]*Conn // by Conn.watched, a number that, unlike an fd, is never used again
	waiter sync.WaitGroup
}

// watch starts to watch c: when the client closes the connection, c ends. If epoll is not
// available, readUntilGone does it. Only takeOver calls it, once for a connection, with the
// turn of c ([Conn.turn]).
func (d *departures) watch(c *Conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.open() || c.socket.fd < 0 {
		c.readUntilGone()
		return
	}
	d.next++
	c.watched = d.next
	d.conns[c.watched] = c
	event := unix.EpollEvent{
		Events: unix.EPOLLRDHUP | unix.EPOLLET | unix.EPOLLONESHOT,
		Fd:     int32(uint32(c.watched)),
		Pad:    int32(uint32(c.watched >> 32)),
	}
	if err := unix.EpollCtl(d.fd, unix.EPOLL_CTL_ADD, c.socket.fd, &event); err != nil {
		delete(d.conns, c.watched)
		c.watched = 0
		c.readUntilGone()
	}
}

// forget stops watching c. It must be called before the socket is closed, which removes the
// socket from the epoll. The caller has the turn of c ([Conn.turn]).
func (d *departures) forget(c *Conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.conns, c.watched)
}

// open creates the epoll if there is none yet, and starts the goroutine that waits for it.
// It returns false if there is none: it cannot be created now, or close was called. The Go
// runtime can wait for an epoll like for any file, and closing the file ends that wait. The
// caller holds d.mu.
func (d *departures) open() bool {
	if d.epoll != nil || d.closed {
		return !d.closed
	}
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		return false // perhaps no descriptor is free now: the next watch tries again
	}
	d.fd, d.epoll = fd, os.NewFile(uintptr(fd), "epoll")
	d.conns = make(map[uint64]*Conn)
	d.waiter.Go(d.wait)
	return true
}

// wait ends the connections whose clients have closed them. It runs on a goroutine of its
// own, which open starts, until close.
func (d *departures) wait() {
	raw, err := d.epoll.SyscallConn()
	if err != nil {
		return
	}
	events := make([]unix.EpollEvent, 128)
	for {
		var n int
		err := raw.Read(func(fd uintptr) bool {
			n, _ = unix.EpollWait(int(fd), events, 0)
			return n > 0
		})
		if err != nil {
			return // closed
		}
		for _, event := range events[:n] {
			token := uint64(uint32(event.Fd)) | uint64(uint32(event.Pad))<<32
			d.mu.Lock()
			c := d.conns[token]
			reason := Gone
			if c != nil && event.Events&unix.EPOLLERR != 0 {
				// forget precedes the close, so the descriptor still belongs to c.
				errno, _ := unix.GetsockoptInt(c.socket.fd, unix.SOL_SOCKET, unix.SO_ERROR)
				reason = reasonForError(unix.Errno(errno))
			}
			delete(d.conns, token)
			d.mu.Unlock()
			if c != nil {
				c.hub.finish(c, reason)
			}
		}
	}
}

// close closes the epoll and waits for the goroutine in wait. Only [Hub.Close] calls it,
// when no connection is taken over any more. The caller must not hold Hub.mu, which wait
// may need to end a connection.
func (d *departures) close() {
	d.mu.Lock()
	epoll := d.epoll
	d.closed = true
	d.mu.Unlock()
	if epoll != nil {
		_ = epoll.Close()
		d.waiter.Wait()
	}
}
