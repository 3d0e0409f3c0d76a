package load

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// opening is the number of connections that are opened at the same time. It is less than the backlog of any
// server, so that no SYN is dropped and repeated after a second.
const opening = 64

// epollFleet reads cleartext HTTP/1.1 streams with one epoll and one buffer, in the goroutine of its caller.
type epollFleet struct {
	addr  unix.SockaddrInet4
	host  string
	rec   *Recorder
	epoll int
	conns []stream
	ready int // answered streams

	found  found
	events [256]unix.EpollEvent
	buf    [256 << 10]byte
}

type stream struct {
	fd      int // -1: closed
	parser  parser
	request []byte // until it is sent
}

func newEpollFleet(addr netip.AddrPort, rec *Recorder) (*epollFleet, error) {
	if !addr.Addr().Is4() {
		return nil, fmt.Errorf("fleet: %s is no IPv4 address", addr)
	}
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	return &epollFleet{
		addr:  unix.SockaddrInet4{Addr: addr.Addr().As4(), Port: int(addr.Port())},
		host:  addr.String(),
		rec:   rec,
		epoll: epoll,
	}, nil
}

func (f *epollFleet) Open(n int, request func(i int) Request) error {
	until := Now() + openTimeout
	want := len(f.conns) + n
	for f.ready < want {
		for len(f.conns) < want && len(f.conns)-f.ready < opening {
			if err := f.dial(request(len(f.conns))); err != nil {
				return fmt.Errorf("stream %d: %w", len(f.conns), err)
			}
		}
		if err := f.poll(100 * time.Millisecond); err != nil {
			return err
		}
		if Now() > until {
			return fmt.Errorf("%d of %d streams were answered within %s", f.ready, want, openTimeout)
		}
	}
	return nil
}

func (f *epollFleet) dial(r Request) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	i := len(f.conns)
	f.conns = append(f.conns, stream{fd: fd, request: r.http1(f.host)})
	if err := lateBind(fd); err != nil {
		return err
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: source(i)}); err != nil {
		return err
	}
	if err := unix.Connect(fd, &f.addr); err != nil && err != unix.EINPROGRESS {
		return err
	}
	return unix.EpollCtl(f.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLOUT, Fd: int32(i)})
}

func (f *epollFleet) Run(done func() bool) error {
	for !done() {
		if err := f.poll(5 * time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

func (f *epollFleet) poll(wait time.Duration) error {
	n, err := unix.EpollWait(f.epoll, f.events[:], int(wait.Milliseconds()))
	if err == unix.EINTR {
		return nil
	}
	if err != nil {
		return err
	}
	for _, ev := range f.events[:n] {
		i := int(ev.Fd)
		if err := f.serve(i, &f.conns[i]); err != nil {
			return fmt.Errorf("stream %d: %w", i, err)
		}
	}
	return nil
}

func (f *epollFleet) serve(i int, s *stream) error {
	if s.request != nil {
		n, err := unix.Write(s.fd, s.request)
		if err != nil {
			return err
		}
		if n < len(s.request) {
			return errors.New("a fresh socket did not take the request")
		}
		s.request = nil
		return unix.EpollCtl(f.epoll, unix.EPOLL_CTL_MOD, s.fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(i)})
	}
	n, err := unix.Read(s.fd, f.buf[:])
	if err == unix.EAGAIN || err == unix.EINTR {
		return nil
	}
	if err != nil || n == 0 {
		if !s.parser.body {
			return fmt.Errorf("closed before the answer: %w", cmp.Or(err, io.ErrUnexpectedEOF))
		}
		f.end(s)
		return nil
	}
	now := Now()
	f.found.reset()
	if err := s.parser.feed(f.buf[:n], &f.found); err != nil {
		return err
	}
	if f.found.ready {
		f.ready++
	}
	f.rec.receive(i, now, &f.found)
	if f.found.ended {
		f.end(s)
	}
	return nil
}

// end records that the server has ended a stream.
func (f *epollFleet) end(s *stream) {
	unix.Close(s.fd)
	s.fd = -1
	f.rec.closed()
}

func (f *epollFleet) Close() {
	for i := range f.conns {
		if s := &f.conns[i]; s.fd >= 0 {
			unix.Close(s.fd)
			s.fd = -1
		}
	}
	f.conns, f.ready = nil, 0
	if f.epoll >= 0 {
		unix.Close(f.epoll)
		f.epoll = -1
	}
}
