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

// yield lets other goroutines run: those that wait for the network, or, if there is no
// eventfd, only those that are ready. The caller must not hold a lock. It must not be
// called after close.
func (y *netYielder) yield() {
	if y.file == nil && !y.open() {
		runtime.Gosched()
		return
	}
	count := [8]byte{1} // not zero in either byte order
	raised := false
	_ = y.conn.Read(func(fd uintptr) bool { // fails only after close
		if raised {
			_, err := unix.Read(int(fd), count[:])
			return err != unix.EAGAIN
		}
		raised = true
		_, err := unix.Write(int(fd), count[:])
		return err != nil
	})
}

// open makes the eventfd, and reports whether there is one. Only yield calls it.
func (y *netYielder) open() bool {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return false
	}
	y.file = os.NewFile(uintptr(fd), "eventfd")
	y.conn, err = y.file.SyscallConn()
	return err == nil
}

// close closes the eventfd, if there is one. It is called once, at the end.
func (y *netYielder) close() {
	if y.file != nil {
		_ = y.file.Close()
	}
}
