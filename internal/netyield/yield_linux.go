package netyield

import (
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// network waits for an eventfd that it makes readable.
type network struct {
	file *os.File // nil before the first yield
	conn syscall.RawConn
}

func (n *network) yield() {
	if n.file == nil && !n.open() {
		runtime.Gosched()
		return
	}
	count := [8]byte{1} // not zero in either byte order
	raised := false
	_ = n.conn.Read(func(fd uintptr) bool { // fails only after close
		if raised {
			_, err := unix.Read(int(fd), count[:])
			return err != unix.EAGAIN
		}
		raised = true
		_, err := unix.Write(int(fd), count[:])
		return err != nil
	})
}

func (n *network) open() bool {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return false
	}
	n.file = os.NewFile(uintptr(fd), "eventfd")
	n.conn, err = n.file.SyscallConn()
	return err == nil
}

func (n *network) close() {
	if n.file != nil {
		_ = n.file.Close()
	}
}
