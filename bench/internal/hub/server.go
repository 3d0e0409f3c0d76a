package hub

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Server is a running server and its processes.
type Server struct {
	H1, TLS, API string // addresses
	Launched     time.Time
	settle       string // URL that makes it return free memory, or empty
	profile      string // URL of its CPU profile, or empty

	cmd   *exec.Cmd
	ended chan struct{} // closed when cmd has ended
	pids  []int
	log   *os.File
}

// launch starts a command on the site's CPU and waits until s.H1 accepts connections.
func (s *Server) launch(ctx context.Context, site Site, name string, args ...string) error {
	var err error
	if s.log, err = os.Create(filepath.Join(site.Dir, "server.log")); err != nil {
		return err
	}
	s.cmd = exec.Command(name, args...)
	s.cmd.Dir = site.Dir
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	s.cmd.Env = append(os.Environ(), "HOME="+site.Dir, "XDG_DATA_HOME="+site.Dir, "XDG_CONFIG_HOME="+site.Dir)
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // so that Stop ends the workers too
	s.Launched = time.Now()
	if err := startOn(s.cmd, site.CPU); err != nil {
		s.log.Close()
		return err
	}
	s.ended = make(chan struct{})
	go func() {
		defer close(s.ended)
		_ = s.cmd.Wait() // the log has the reason
	}()
	if err := s.await(ctx); err != nil {
		s.Stop()
		log, _ := os.ReadFile(s.log.Name())
		log = bytes.TrimSpace(log)
		return fmt.Errorf("%w; its last words: %s", err, log[bytes.LastIndexByte(log, '\n')+1:])
	}
	s.pids, err = family(s.cmd.Process.Pid)
	return err
}

// startOn starts a command with its affinity set from the first instruction on: Go programs count their
// CPUs once.
func startOn(cmd *exec.Cmd, cpus ...int) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var here, there unix.CPUSet
	if err := unix.SchedGetaffinity(0, &here); err != nil {
		return err
	}
	for _, cpu := range cpus {
		there.Set(cpu)
	}
	if err := unix.SchedSetaffinity(0, &there); err != nil {
		return fmt.Errorf("CPUs %v: %w", cpus, err)
	}
	return errors.Join(cmd.Start(), unix.SchedSetaffinity(0, &here))
}

// await waits for any answer: nginx listens before it has a worker.
func (s *Server) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.H1+"/", nil)
		if err != nil {
			return err
		}
		if resp, err := client.Do(req); err == nil {
			return resp.Body.Close()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the server did not come up: %w", ctx.Err())
		case <-s.ended:
			return errors.New("the server ended at once")
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Stop kills the server.
func (s *Server) Stop() {
	_ = syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL)
	<-s.ended
	s.log.Close()
}

// Profile writes a CPU profile of some seconds to a file. It does nothing for a server without profiles.
func (s *Server) Profile(ctx context.Context, seconds int, file string) error {
	if s.profile == "" {
		return nil
	}
	resp, err := s.call(ctx, http.MethodGet, fmt.Sprintf("%s?seconds=%d", s.profile, seconds))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, resp.Body)
	return errors.Join(err, f.Close())
}

func (s *Server) call(ctx context.Context, method, url string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, fmt.Errorf("%s: %s", url, resp.Status)
	}
	return resp, nil
}

// Settle makes the server collect garbage and return free memory, if it can, and waits until it is idle.
func (s *Server) Settle(ctx context.Context) error {
	if s.settle != "" {
		resp, err := s.call(ctx, http.MethodPost, s.settle)
		if err != nil {
			return err
		}
		resp.Body.Close()
	}
	select {
	case <-ctx.Done():
	case <-time.After(500 * time.Millisecond):
	}
	return ctx.Err()
}

// CPU returns the user and system time of the server so far, in nanosecond resolution: the CPU-time
// clocks of its processes (clock_getcpuclockid(3)).
func (s *Server) CPU() (time.Duration, error) {
	const sched = 2 // CPUCLOCK_SCHED
	var sum time.Duration
	for _, pid := range s.pids {
		var ts unix.Timespec
		if err := unix.ClockGettime(int32(^pid<<3|sched), &ts); err != nil {
			return 0, fmt.Errorf("CPU time of the server: %w (did it end?)", err)
		}
		sum += time.Duration(ts.Nano())
	}
	return sum, nil
}

// RSS returns the resident memory of the server in bytes.
func (s *Server) RSS() (int64, error) { return s.memory("VmRSS:") }

// PeakRSS returns the highest resident memory since [Server.ResetPeak].
func (s *Server) PeakRSS() (int64, error) { return s.memory("VmHWM:") }

// ResetPeak sets the peak to the current resident memory.
func (s *Server) ResetPeak() error {
	var errs []error
	for _, pid := range s.pids {
		errs = append(errs, os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0))
	}
	return errors.Join(errs...)
}

func (s *Server) memory(field string) (int64, error) {
	var sum int64
	for _, pid := range s.pids {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			return 0, err
		}
		_, rest, _ := bytes.Cut(status, []byte(field))
		kb, _, _ := bytes.Cut(bytes.TrimSpace(rest), []byte(" kB"))
		n, err := strconv.ParseInt(string(kb), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/%d/status: %s %w", pid, field, err)
		}
		sum += n << 10
	}
	return sum, nil
}

// family returns a process and its descendants.
func family(pid int) ([]int, error) {
	pids := []int{pid}
	for i := 0; i < len(pids); i++ {
		lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pids[i]))
		if err != nil {
			return nil, err
		}
		for _, list := range lists {
			children, err := os.ReadFile(list)
			if err != nil {
				return nil, err
			}
			for child := range strings.FieldsSeq(string(children)) {
				n, err := strconv.Atoi(child)
				if err != nil {
					return nil, err
				}
				pids = append(pids, n)
			}
		}
	}
	return pids, nil
}

// addresses returns n free loopback addresses.
func addresses(n int) ([]string, error) {
	var out []string
	for range n {
		ln, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer ln.Close()
		out = append(out, ln.Addr().String())
	}
	return out, nil
}

// build compiles servers/name, which may be a module of its own, and returns the path of the binary.
func build(ctx context.Context, w Workshop, name string) (string, error) {
	bin := filepath.Join(w.Bin, name)
	cmd := exec.CommandContext(ctx, "go", "build", "-o", bin, ".")
	cmd.Dir = w.server(name)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build in servers/%s: %w: %s", name, err, bytes.TrimSpace(out))
	}
	return bin, nil
}

// version returns the version of a module that servers/name is built with.
func version(ctx context.Context, w Workshop, name, module string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Path}} {{.Version}}", module)
	cmd.Dir = w.server(name)
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("go list -m %s: %w", module, err)
	}
	return strings.TrimSpace(string(out)), nil
}

// port returns the port of an address.
func port(addr string) string { return addr[strings.LastIndexByte(addr, ':')+1:] }
