package disk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

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

// Publishes are refused while the file system is full. They succeed when it has space again.
func TestFullDiskRefusesAndResumes(t *testing.T) {
	if !inChild(t, ownMounts) {
		return
	}
	dir := t.TempDir()
	if err := errors.Join(
		unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
		unix.Mount("tmpfs", dir, "tmpfs", 0, "size=4m"),
	); err != nil {
		t.Fatalf("this test mounts a small file system, which needs root or user namespaces: %v", err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	filler := filepath.Join(dir, "filler")
	if err := os.WriteFile(filler, make([]byte, 3<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "history.db")
	s, err := open(path, quick(lockTimeout, 20*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	h, stop := tail(s)
	answered := make(map[string]uint64)
	publish := func(key string) error {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
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
	h.await(t, false)
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	h.await(t, true)
	deadline := time.Now().Add(10 * time.Second)
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
