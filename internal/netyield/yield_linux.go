package netyield

import (
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// idle holds the eventfds that no goroutine waits for. They stay open for the next wait. At
// most one for each CPU is needed, because no more goroutines compute at the same time.
var idle = make(chan *eventFD, runtime.GOMAXPROCS(0))

// waitForNetwork makes an eventfd readable, and waits for it as a goroutine waits for a
// connection. Any goroutine may call it.
func waitForNetwork() {
	var e *eventFD
	select {
	case e = <-idle:
	default:
		if e = openEventFD(); e == nil { // no file descriptor is left
			runtime.Gosched()
			return
		}
	}
	e.wait()
	select {
	case idle <- e:
	default:
		_ = e.file.Close()
	}
}

// eventFD is an eventfd of Linux. One goroutine at a time uses it.
type eventFD struct {
	file *os.File
	conn syscall.RawConn
}

// openEventFD returns nil if it fails. Any goroutine may call it.
func openEventFD() *eventFD {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil
	}
	file := os.NewFile(uintptr(fd), "eventfd")
	conn, err := file.SyscallConn()
	if err != nil {
		_ = file.Close()
		return nil
	}
	return &eventFD{file, conn}
}

// wait returns when the scheduler has polled the network. The first call of the function
// makes the eventfd readable. The second call comes after the poll, and reads it.
func (e *eventFD) wait() {
	count := [8]byte{1} // not zero in either byte order
	raised := false
	_ = e.conn.Read(func(fd uintptr) bool { // fails only after Close
		if raised {
			_, err := unix.Read(int(fd), count[:])
			return err != unix.EAGAIN
		}
		raised = true
		_, err := unix.Write(int(fd), count[:])
		return err != nil
	})
}
