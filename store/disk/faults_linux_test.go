package disk

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// call is a system call that this process is about to make.
type call struct {
	id        uint64
	pid       uint32
	flags     uint32
	number    int32
	arch      uint32
	ip        uint64
	arguments [6]uint64
}

type verdict struct {
	id    uint64
	value int64
	errno int32
	flags uint32
}

// intercept calls judge before each write and sync of this process. The call happens if
// judge returns 0, else it fails with the error. This cannot be undone, so it needs a
// process of its own.
func intercept(t *testing.T, judge func(*call) syscall.Errno) {
	numbers := []uint32{unix.SYS_PWRITE64, unix.SYS_FDATASYNC, unix.SYS_FSYNC}
	program := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}}
	for i, n := range numbers {
		program = append(program, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: uint8(len(numbers) - i), K: n})
	}
	program = append(program,
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_USER_NOTIF})
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	filter := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	const flags = unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_TSYNC | unix.SECCOMP_FILTER_FLAG_TSYNC_ESRCH
	listener, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&filter)))
	if errno != 0 {
		t.Fatalf("this test needs seccomp with user notification (Linux 5.7): %v", errno)
	}
	go func() {
		for {
			var c call
			if _, _, errno := unix.Syscall(unix.SYS_IOCTL, listener, unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(&c))); errno != 0 {
				continue
			}
			v := verdict{id: c.id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
			if errno := judge(&c); errno != 0 {
				v.errno, v.flags = -int32(errno), 0
			}
			_, _, _ = unix.Syscall(unix.SYS_IOCTL, listener, unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&v)))
		}
	}()
}

// Any write and any sync can fail, and some after it. No answered event is lost, and none is
// stored twice.
func TestFailingDiskLosesNothing(t *testing.T) {
	if !inChild(t, nil) {
		return
	}
	var countdown, failures atomic.Int64 // faults begin when countdown reaches 0
	var syncs, writes atomic.Int64
	countdown.Store(-1)
	intercept(t, func(c *call) syscall.Errno {
		if countdown.Load() < 0 || countdown.Add(-1) >= 0 {
			return 0
		}
		if failures.Add(-1) >= 0 {
			countdown.Store(0)
		}
		if c.number == unix.SYS_PWRITE64 {
			writes.Add(1)
		} else {
			syncs.Add(1)
		}
		return syscall.EIO
	})
	path := filepath.Join(t.TempDir(), "history.db")
	s, err := open(path, quick(lockTimeout, 5*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	_, stop := tail(s)
	ctx, cancel := context.WithCancel(t.Context())
	answers := newLedger()
	var publishing sync.WaitGroup
	publishing.Go(func() { answers.publish(ctx, t, s, "k", 16) })
	few := func() bool {
		answers.mu.Lock()
		defer answers.mu.Unlock()
		return writes.Load() < 10 || syncs.Load() < 10 || len(answers.refused) == 0
	}
	for round, until := 0, time.Now().Add(2*time.Minute); round < 100 || few() && time.Now().Before(until); round++ {
		time.Sleep(time.Duration(5+rand.IntN(15)) * time.Millisecond)
		failures.Store(rand.Int64N(4))
		countdown.Store(rand.Int64N(12))
	}
	time.Sleep(50 * time.Millisecond)
	countdown.Store(-1)
	before := len(answers.copy())
	for deadline := time.Now().Add(2 * time.Minute); len(answers.copy()) < before+100; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Error("publishing: got no 100 events after the faults, want them")
			break
		}
	}
	cancel()
	publishing.Wait()
	if err := stop(); err != nil {
		t.Error(err)
	}
	t.Logf("%d writes and %d syncs failed", writes.Load(), syncs.Load())
	if writes.Load() < 10 || syncs.Load() < 10 {
		t.Errorf("failed writes and syncs: got %d and %d, want at least 10 of each", writes.Load(), syncs.Load())
	}
	check(t, path, answers.answered)
	answers.checkRefused(t, path)
}

// write is a write that may or may not be on the disk after a power cut.
type write struct {
	offset int64
	data   []byte
}

// After a power cut the disk has everything that was synced, and some of the sectors that were
// written since. No answered event is lost.
func TestPowerCutKeepsAnsweredEvents(t *testing.T) {
	if !inChild(t, nil) {
		return
	}
	dir := t.TempDir()
	path, image := filepath.Join(dir, "history.db"), filepath.Join(dir, "image.db")
	s := mustOpen(t, path)
	disk, err := os.ReadFile(path) // the synced content
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var unsynced []write
	apply := func(to []byte, w write) []byte {
		if end := int(w.offset) + len(w.data); end > len(to) {
			to = append(to, make([]byte, end-len(to))...)
		}
		copy(to[w.offset:], w.data)
		return to
	}
	intercept(t, func(c *call) syscall.Errno {
		if name, _ := os.Readlink("/proc/self/fd/" + strconv.FormatUint(c.arguments[0], 10)); name != path {
			return 0
		}
		mu.Lock()
		defer mu.Unlock()
		if c.number != unix.SYS_PWRITE64 {
			for _, w := range unsynced {
				disk = apply(disk, w)
			}
			unsynced = nil
			return 0
		}
		w := write{int64(c.arguments[3]), make([]byte, c.arguments[2])}
		local := []unix.Iovec{{Base: &w.data[0]}}
		local[0].SetLen(len(w.data))
		remote := []unix.RemoteIovec{{Base: uintptr(c.arguments[1]), Len: len(w.data)}}
		if _, err := unix.ProcessVMReadv(os.Getpid(), local, remote, 0); err != nil {
			t.Error(err)
		}
		unsynced = append(unsynced, w)
		return 0
	})
	_, stop := tail(s)
	ctx, cancel := context.WithCancel(t.Context())
	answers := newLedger()
	var publishing sync.WaitGroup
	publishing.Go(func() { answers.publish(ctx, t, s, "k", 16) })
	const least = 100 // answered events
	for round, until := 0, time.Now().Add(2*time.Minute); round < 40 || len(answers.copy()) < least && time.Now().Before(until); round++ {
		time.Sleep(time.Duration(rand.IntN(20_000)) * time.Microsecond)
		answered := answers.copy()
		mu.Lock()
		content := append([]byte(nil), disk...)
		for _, w := range unsynced {
			for at := 0; at < len(w.data); at += 512 {
				if rand.IntN(2) == 0 {
					content = apply(content, write{w.offset + int64(at), w.data[at:min(at+512, len(w.data))]})
				}
			}
		}
		mu.Unlock()
		if info, err := os.Stat(path); err == nil && int(info.Size()) > len(content) {
			content = append(content, make([]byte, int(info.Size())-len(content))...)
		}
		if err := os.WriteFile(image, content, 0o600); err != nil {
			t.Fatal(err)
		}
		check(t, image, answered)
	}
	cancel()
	publishing.Wait()
	if err := stop(); err != nil {
		t.Error(err)
	}
	if len(answers.answered) < least {
		t.Errorf("answered events: got %d, want at least %d", len(answers.answered), least)
	}
}

// The status reports a commit that hangs, and reports its end.
func TestStatusReportsStuckCommit(t *testing.T) {
	if !inChild(t, nil) {
		return
	}
	var stuck atomic.Bool
	resume := make(chan struct{})
	intercept(t, func(c *call) syscall.Errno {
		if c.number != unix.SYS_PWRITE64 && stuck.Load() {
			<-resume
		}
		return 0
	})
	path := filepath.Join(t.TempDir(), "history.db")
	cfg := quick(lockTimeout, retryAfter)
	cfg.slow = 20 * time.Millisecond
	s, err := open(path, cfg)
	if err != nil {
		t.Fatal(err)
	}
	h, stop := tail(s)
	stuck.Store(true)
	answer := make(chan error)
	go func() {
		_, err := s.Append(t.Context(), entries("stuck", 1, 0))
		answer <- err
	}()
	if problem := h.await(t, false); !strings.Contains(problem.Error(), path) {
		t.Errorf("problem: got %v, want one with the name of the file", problem)
	}
	stuck.Store(false)
	close(resume)
	h.await(t, true)
	if err := <-answer; err != nil {
		t.Error(err)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// The parent of every directory that is created for the file is synced.
func TestDirectoriesSurviveAPowerCut(t *testing.T) {
	if !inChild(t, nil) {
		return
	}
	var mu sync.Mutex
	synced := make(map[string]bool)
	intercept(t, func(c *call) syscall.Errno {
		name, _ := os.Readlink("/proc/self/fd/" + strconv.FormatUint(c.arguments[0], 10))
		mu.Lock()
		defer mu.Unlock()
		synced[name] = synced[name] || c.number != unix.SYS_PWRITE64
		return 0
	})
	top := t.TempDir()
	if err := mustOpen(t, filepath.Join(top, "a", "b", "c", "history.db")).Close(); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	for _, dir := range []string{"", "a", "a/b", "a/b/c"} {
		if !synced[filepath.Join(top, dir)] {
			t.Errorf("directory %q: got not synced, want synced", dir)
		}
	}
}

// If the path is a symbolic link, the directory of the file itself is synced.
func TestLinkedFileSurvivesAPowerCut(t *testing.T) {
	if !inChild(t, nil) {
		return
	}
	path, link := filepath.Join(t.TempDir(), "history.db"), filepath.Join(t.TempDir(), "link.db")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	var synced atomic.Bool
	intercept(t, func(c *call) syscall.Errno {
		name, _ := os.Readlink("/proc/self/fd/" + strconv.FormatUint(c.arguments[0], 10))
		if name == filepath.Dir(path) && c.number != unix.SYS_PWRITE64 {
			synced.Store(true)
		}
		return 0
	})
	if err := mustOpen(t, link).Close(); err != nil {
		t.Fatal(err)
	}
	if !synced.Load() {
		t.Error("directory of the file that the link names: got not synced, want synced")
	}
}
