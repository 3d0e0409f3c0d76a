// Command raw is the lower bound for all hubs: one thread, one epoll, and one write(2) per event and
// connection. It has no history and no users, and notices only closed sockets. It loses no data: what a full
// socket does not accept waits in a backlog.
//
// GET opens a stream. POST publishes its body to all streams and is answered when every socket has been
// written to.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n"

type conn struct {
	request []byte // read so far, while the request is incomplete
	backlog []byte // not accepted by the socket yet
	stream  int    // index in server.streams, or -1
}

// server is owned by the goroutine of main.
type server struct {
	epoll   int
	conns   map[int]*conn
	streams []int
	seq     int
	block   []byte
	buf     [64 << 10]byte
}

func main() {
	listen := flag.String("listen", "127.0.0.1:8080", "IPv4 `address`")
	flag.Parse()
	runtime.LockOSThread()
	fmt.Fprintln(os.Stderr, run(*listen))
	os.Exit(1)
}

// run returns only after an error.
func run(listen string) error {
	addr, err := netip.ParseAddrPort(listen)
	if err != nil {
		return err
	}
	lfd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.Bind(lfd, &unix.SockaddrInet4{Addr: addr.Addr().As4(), Port: int(addr.Port())}); err != nil {
		return err
	}
	if err := unix.Listen(lfd, 4096); err != nil {
		return err
	}
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return err
	}
	s := &server{epoll: epoll, conns: make(map[int]*conn)}
	if err := s.watch(unix.EPOLL_CTL_ADD, lfd, unix.EPOLLIN); err != nil {
		return err
	}
	events := make([]unix.EpollEvent, 256)
	for {
		n, err := unix.EpollWait(epoll, events, -1)
		if err != nil && err != unix.EINTR {
			return err
		}
		for _, ev := range events[:max(n, 0)] {
			if fd := int(ev.Fd); fd == lfd {
				s.accept(lfd)
			} else {
				s.serve(fd, ev.Events)
			}
		}
	}
}

func (s *server) watch(op, fd int, events uint32) error {
	return unix.EpollCtl(s.epoll, op, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)})
}

func (s *server) accept(lfd int) {
	for {
		fd, _, err := unix.Accept4(lfd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		if err != nil {
			return
		}
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		if err := s.watch(unix.EPOLL_CTL_ADD, fd, unix.EPOLLIN|unix.EPOLLRDHUP); err != nil {
			unix.Close(fd)
			continue
		}
		s.conns[fd] = &conn{stream: -1}
	}
}

func (s *server) serve(fd int, events uint32) {
	c := s.conns[fd]
	if c == nil {
		return
	}
	if events&unix.EPOLLOUT != 0 {
		rest := c.backlog
		c.backlog = nil
		if !s.send(fd, c, rest) {
			return
		}
		if c.backlog == nil {
			_ = s.watch(unix.EPOLL_CTL_MOD, fd, unix.EPOLLIN|unix.EPOLLRDHUP)
		}
	}
	if events&(unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) == 0 {
		return
	}
	n, err := unix.Read(fd, s.buf[:])
	if err == unix.EAGAIN || err == unix.EINTR {
		return
	}
	if n <= 0 {
		s.drop(fd, c)
		return
	}
	c.request = append(c.request, s.buf[:n]...)
	s.requests(fd, c)
}

// requests answers every complete request of the connection.
func (s *server) requests(fd int, c *conn) {
	for {
		header, rest, ok := bytes.Cut(c.request, []byte("\r\n\r\n"))
		if !ok {
			return
		}
		if bytes.HasPrefix(header, []byte("GET ")) {
			c.request = nil
			c.stream = len(s.streams)
			s.streams = append(s.streams, fd)
			s.send(fd, c, []byte(head))
			return
		}
		length := contentLength(header)
		if len(rest) < length {
			return
		}
		s.publish(rest[:length])
		c.request = append(c.request[:0], rest[length:]...)
		if !s.send(fd, c, []byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")) {
			return
		}
	}
}

func contentLength(header []byte) int {
	const name = "content-length: "
	_, value, _ := bytes.Cut(bytes.ToLower(header), []byte(name))
	value, _, _ = bytes.Cut(value, []byte("\r"))
	n, _ := strconv.Atoi(string(value))
	return n
}

func (s *server) publish(data []byte) {
	s.seq++
	event := fmt.Appendf(nil, "event: b\ndata: %s\nid: raw-%d\n\n", data, s.seq)
	s.block = fmt.Appendf(s.block[:0], "%x\r\n%s\r\n", len(event), event)
	// Backwards: a connection that fails is replaced by the last one, which was already written to.
	for i := len(s.streams) - 1; i >= 0; i-- {
		fd := s.streams[i]
		s.send(fd, s.conns[fd], s.block)
	}
}

// send writes b, and keeps what the socket does not accept. It reports whether the connection is still open.
func (s *server) send(fd int, c *conn, b []byte) bool {
	if len(c.backlog) > 0 {
		c.backlog = append(c.backlog, b...)
		return true
	}
	for len(b) > 0 {
		n, errno := write(fd, b)
		switch {
		case errno == unix.EINTR:
		case errno == unix.EAGAIN:
			c.backlog = append(c.backlog, b...)
			_ = s.watch(unix.EPOLL_CTL_MOD, fd, unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLOUT)
			return true
		case errno != 0:
			s.drop(fd, c)
			return false
		default:
			b = b[n:]
		}
	}
	return true
}

func (s *server) drop(fd int, c *conn) {
	if last := len(s.streams) - 1; c.stream >= 0 {
		moved := s.streams[last]
		s.streams[c.stream] = moved
		s.conns[moved].stream = c.stream
		s.streams = s.streams[:last]
	}
	delete(s.conns, fd)
	unix.Close(fd)
}

// write calls write(2) without the Go scheduler.
func write(fd int, b []byte) (int, syscall.Errno) {
	n, _, errno := syscall.RawSyscall(syscall.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	return int(n), errno
}
