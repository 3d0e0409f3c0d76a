package disk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/sys/unix"

	"github.com/ea766355/caddy-sse/hub"
)

// ownMounts gives the child process its own mount namespace. Without root it also gets a user
// namespace.
func ownMounts(cmd *exec.Cmd) {
	attr := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if os.Geteuid() != 0 {
		attr.Cloneflags |= syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	cmd.SysProcAttr = attr
}

// fullDisk mounts a file system of 4 MB at dir. Most of it is taken by the file that it returns.
func fullDisk(t *testing.T, dir string) (filler string) {
	t.Helper()
	if err := errors.Join(
		unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
		unix.Mount("tmpfs", dir, "tmpfs", 0, "size=4m"),
	); err != nil {
		t.Fatalf("this test mounts a small file system, which needs root or user namespaces: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	filler = filepath.Join(dir, "filler")
	if err := os.WriteFile(filler, make([]byte, 3<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	return filler
}

// Publishes are refused while the file system is full. They succeed when it has space again. Between
// the two, no status and no line of the log says that the file can be used.
func TestFullDiskRefusesAndResumes(t *testing.T) {
	if !inChild(t, ownMounts) {
		return
	}
	dir := t.TempDir()
	filler := fullDisk(t, dir)
	path := filepath.Join(dir, "history.db")
	core, logged := observer.New(zap.InfoLevel)
	cfg := quick(lockTimeout, 20*time.Millisecond)
	cfg.log = func() *zap.Logger { return zap.New(core) }
	s, err := open(path, cfg)
	if err != nil {
		t.Fatal(err)
	}
	h, stop := tail(s)
	answered := make(map[string]uint64)
	publish := func(key string) error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		e := hub.Entry{Key: key, Data: []byte(key + strings.Repeat(".", 10_000))}
		stored, err := s.Append(ctx, []hub.Entry{e})
		if err == nil {
			answered[key] = stored[0].Position.Seq
		}
		return err
	}
	for i := 0; err == nil; i++ {
		if err = publish(fmt.Sprint("before-", i)); i > 500 {
			t.Fatal("the disk did not become full")
		}
	}
	if !errors.Is(err, hub.ErrNotStored) || !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), path) {
		t.Errorf("error of Append on a full disk: got %v, want ErrNotStored with ENOSPC and the path", err)
	}
	for range 10 { // each try of the file is reported
		select {
		case problem := <-h.status:
			if problem == nil {
				t.Error("status on a full disk: got usable, want a problem")
			}
		case <-time.After(2 * time.Minute):
			t.Fatal("status on a full disk: got none, want more")
		}
		if err := publish("while full"); !errors.Is(err, hub.ErrNotStored) {
			t.Errorf("error of Append on a full disk: got %v, want ErrNotStored", err)
		}
	}
	if logged.Len() != 1 {
		t.Errorf("lines of the log on a full disk: got %d, want 1: %v", logged.Len(), logged.All())
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	h.await(t, true)
	deadline := time.Now().Add(2 * time.Minute)
	for i := 0; i < 20 && time.Now().Before(deadline); {
		if err := publish(fmt.Sprint("after-", i)); err == nil {
			i++
		} else {
			time.Sleep(5 * time.Millisecond)
		}
	}
	if answered["after-19"] == 0 {
		t.Error("publishing: got no 20 events after the disk had space, want them")
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	check(t, path, answered)
}

// A file that fails is not read again and again: reading it takes a small part of the time, also if
// it cannot be opened.
func TestFailedFileIsSeldomRead(t *testing.T) {
	for name, prepare := range map[string]func(t *testing.T, dir string) (fail func()){
		"full disk": func(t *testing.T, dir string) func() {
			fullDisk(t, dir)
			return func() {}
		},
		"disk that takes no writes": func(t *testing.T, _ string) func() {
			var fails atomic.Bool
			intercept(t, func(c *call) syscall.Errno {
				if c.number == unix.SYS_PWRITE64 && fails.Load() {
					return syscall.EIO
				}
				return 0
			})
			return func() { fails.Store(true) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			if inChild(t, ownMounts) {
				testSeldomRead(t, prepare)
			}
		})
	}
}

func testSeldomRead(t *testing.T, prepare func(t *testing.T, dir string) (fail func())) {
	dir := t.TempDir()
	fail := prepare(t, dir)
	const reading = 20 * time.Millisecond // at least
	var failed atomic.Bool
	opened := make(chan time.Time, 4)
	cfg := quick(lockTimeout, time.Millisecond)
	cfg.uptime = func() (string, time.Duration) { // opening the file calls it
		if failed.Load() {
			select {
			case opened <- time.Now():
			default:
			}
			time.Sleep(reading)
		}
		return testUptime()
	}
	s, err := open(filepath.Join(dir, "history.db"), cfg)
	if err != nil {
		t.Fatal(err)
	}
	h, stop := tail(s)
	fail()
	ctx, cancel := context.WithCancel(t.Context())
	var publishing sync.WaitGroup
	publishing.Go(func() {
		for i := 0; err == nil; i++ {
			_, err = s.Append(ctx, entries(fmt.Sprint("e", i), 1, 10_000))
		}
	})
	h.await(t, false)
	failed.Store(true)
	await := func() (at time.Time) {
		select {
		case at = <-opened:
		case <-time.After(2 * time.Minute):
			t.Fatal("tries to open the file: got no more, want more")
		}
		return at
	}
	await() // the wait before it was for an opening of the time before
	last := await()
	for range 2 {
		next := await()
		if wait := next.Sub(last); wait < retryFactor*reading {
			t.Errorf("time between two tries: got %v, want at least %v", wait, retryFactor*reading)
		}
		last = next
	}
	cancel()
	publishing.Wait()
	if err := stop(); err != nil {
		t.Error(err)
	}
	s.opening = time.Hour // the disk was slow
	if wait := s.retryWait(); wait != retryAtMost {
		t.Errorf("wait after an opening that took an hour: got %v, want %v", wait, retryAtMost)
	}
}

// A history in a read-only directory cannot be opened.
func TestReadOnlyFileSystemIsRefused(t *testing.T) {
	if !inChild(t, ownMounts) {
		return
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "history.db")
	mount := func(flags uintptr) {
		if err := unix.Mount("tmpfs", dir, "tmpfs", flags, "size=4m"); err != nil {
			t.Fatalf("this test mounts a small file system, which needs root or user namespaces: %v", err)
		}
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	mount(0)
	defer unix.Unmount(dir, unix.MNT_DETACH)
	if err := mustOpen(t, path).Close(); err != nil {
		t.Fatal(err)
	}
	mount(unix.MS_REMOUNT | unix.MS_RDONLY)
	refused(t, path, "able to write", "read-only")
	refused(t, filepath.Join(dir, "new.db"), "able to write", "read-only")
}
