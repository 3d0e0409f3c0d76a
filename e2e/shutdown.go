package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// Terminate sends SIGTERM and returns how long the process took to end. It fails the test if
// that is longer than within, besides the time that it had to wait for a CPU.
func (s *Server) Terminate(within time.Duration) time.Duration {
	s.t.Helper()
	began := time.Now()
	if err := s.process.Process.Signal(syscall.SIGTERM); err != nil {
		s.t.Fatal(err)
	}
	s.awaitExit(within)
	took := time.Since(began)
	if code := s.process.ProcessState.ExitCode(); code != 0 {
		s.t.Errorf("the server ended with %s\n%s", s.process.ProcessState, s.Tail())
	}
	return took
}

// awaitExit waits for the end of the process. It fails the test if that takes longer than within. The time
// that threads of the process and of the test wait for a CPU does not count: a busy machine does not make
// the exit slow.
func (s *Server) awaitExit(within time.Duration) {
	s.t.Helper()
	began, before := time.Now(), s.queued()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for waited := time.Duration(0); ; waited = max(waited, s.queued()-before) {
		select {
		case <-s.exited:
			return
		case <-tick.C:
		}
		if took := time.Since(began); took > within+waited || took > within+2*Patience {
			s.t.Fatalf("the server still runs after %s, of which it waited at most %s for a CPU, want an exit within %s\n%s", took, waited, within, s.stacks())
		}
	}
}

// queued returns how long the threads of the server and of the test have waited for a CPU. It is 0 if the
// system does not tell.
func (s *Server) queued() (sum time.Duration) {
	for _, pid := range []string{"self", strconv.Itoa(s.PID())} {
		threads, _ := filepath.Glob("/proc/" + pid + "/task/*/schedstat")
		for _, thread := range threads {
			text, _ := os.ReadFile(thread) // empty: the thread has just ended
			var running, waiting int64
			if _, err := fmt.Sscan(string(text), &running, &waiting); err == nil {
				sum += time.Duration(waiting)
			}
		}
	}
	return sum
}

// Kill sends SIGKILL.
func (s *Server) Kill() {
	s.t.Helper()
	if err := s.process.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		s.t.Fatal(err)
	}
	<-s.exited
}

// stacks ends a process that hangs, and writes its goroutines to the log.
func (s *Server) stacks() string {
	_ = s.process.Process.Signal(syscall.SIGABRT) // Caddy handles SIGQUIT itself
	select {
	case <-s.exited:
	case <-time.After(Patience):
		_ = s.process.Process.Kill()
		<-s.exited
	}
	return s.tail(3000)
}

func (s *Server) cleanup() {
	if s.process != nil {
		select {
		case <-s.exited:
		default:
			_ = s.process.Process.Signal(syscall.SIGTERM)
			select {
			case <-s.exited:
			case <-time.After(Patience):
				s.t.Errorf("the server did not end within %s of SIGTERM\n%s", Patience, s.stacks())
			}
		}
	}
	s.log.Close()
	log, err := os.ReadFile(s.log.Name())
	if err != nil {
		s.t.Error(err)
	}
	for _, bad := range []string{"DATA RACE", "panic", "fatal error:"} {
		if i := bytes.Index(log, []byte(bad)); i >= 0 {
			s.t.Errorf("the server's log says %q:\n%s", bad, log[max(0, i-200):min(len(log), i+6000)])
			return
		}
	}
}
