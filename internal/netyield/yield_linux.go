package netyield

import (
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// idle holds the events that no goroutine waits for. They stay open for the next wait: no
// more goroutines compute at the same time than there are CPUs.
var idle = make(chan *event, runtime.GOMAXPROCS(0))

// waitForNetwork makes an event readable and waits for it, as others wait for a connection.
// Any goroutine may call it.
func waitForNetwork() {
	var e *event
	select {
	case e = <-idle:
	default:
		if e = openEvent(); e == nil { // there are no file descriptors left
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

// event is an eventfd. One goroutine at a time uses it.
type event struct {
	file *os.File
	conn syscall.RawConn
}

// openEvent returns nil if it fails.
func openEvent() *event {
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
	return &event{file, conn}
}

// wait raises the event in the first call of the function, and takes it back in the second,
// which comes when the scheduler has polled the network.
func (e *event) wait() {
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
