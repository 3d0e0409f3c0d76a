package hub

import (
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// pause lets whoever waits for the network have the CPU. The scheduler looks at
// the network when nothing else can run, and else every 10 ms: who does not wait,
// or merely yields, keeps publishers waiting whose requests have come. So a pause
// waits for the network too, for a counter that is raised as the wait begins. It
// is used by one goroutine.
type netYielder struct {
	file *os.File // nil before the first
	conn syscall.RawConn
}

func (p *netYielder) yield() {
	if p.file == nil && !p.open() {
		runtime.Gosched()
		return
	}
	count := [8]byte{1} // more than 0 in either byte order
	raised := false
	_ = p.conn.Read(func(fd uintptr) bool { // fails only once it is closed
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
