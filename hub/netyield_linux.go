package hub

import (
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// netYielder lets goroutines run that wait for the network. The Go scheduler polls the
// network when a CPU has nothing to run, and otherwise every 10 ms. So a goroutine that
// only computes, even with runtime.Gosched, delays publishers whose requests have
// already arrived. yield waits for the network itself, for an eventfd that it makes
// readable: then the scheduler has to poll. One goroutine uses a netYielder.
type netYielder struct {
	file *os.File // nil before the first yield
	conn syscall.RawConn
}

func (p *netYielder) yield() {
	if p.file == nil && !p.open() {
		runtime.Gosched()
		return
	}
	count := [8]byte{1} // not zero in either byte order
	raised := false
	_ = p.conn.Read(func(fd uintptr) bool { // fails only after close
		if raised {
			_, err := unix.Read(int(fd), count[:])
			return err != unix.EAGAIN
		}
		raised = true
		_, err := unix.Write(int(fd), count[:])
		return err != nil
	})
}

func (p *netYielder) open() bool {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return false
	}
	p.file = os.NewFile(uintptr(fd), "eventfd")
	p.conn, err = p.file.SyscallConn()
	return err == nil
}

func (p *netYielder) close() {
	if p.file != nil {
		_ = p.file.Close()
	}
}
