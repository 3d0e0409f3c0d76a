package e2e

import (
	endian "encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// clockVariable names a file with the number of seconds that the server's clock is ahead.
const clockVariable = "CADDY_SSE_TEST_CLOCK"

// settable says that MainWithClock built the server.
var settable bool

// SetClock sets the wall clock of the server and of its siblings: it is ahead by whole
// seconds, or behind if negative. Their monotonic clock is not changed, as on a real machine.
// The setting outlives restarts.
func (s *Server) SetClock(ahead time.Duration) {
	s.t.Helper()
	if !settable {
		s.t.Fatal("the server's clock cannot be set: call e2e.MainWithClock in TestMain")
	}
	s.writeClock(ahead)
}

func (s *Server) clockFile() string { return s.Path("clock") }

// writeClock writes the file with one call, since servers read it without a lock.
func (s *Server) writeClock(ahead time.Duration) {
	s.t.Helper()
	file, err := os.OpenFile(s.clockFile(), os.O_WRONLY|os.O_CREATE, 0o600)
	if err == nil {
		_, err = file.WriteAt(endian.NativeEndian.AppendUint64(nil, uint64(int64(ahead/time.Second))), 0)
		err = errors.Join(err, file.Close())
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// Go reads the time with a kernel function that is mapped into each process. The two files
// below are added to the command. They replace this function by one that calls it and adds
// the seconds from a file in memory. So only the command itself must be compiled again.
var clockSources = map[string]string{
	"zz_clock.go": `package main

import (
	"os"
	"syscall"
	"unsafe"
)

//go:linkname kernelsClock runtime.vdsoClockgettimeSym
var kernelsClock uintptr

var (
	readKernelsClock uintptr
	secondsAhead     *int64
)

func readClock()
func addressOfReadClock() uintptr

func init() {
	if kernelsClock == 0 {
		panic("the clock cannot be set: the kernel has no function to read it (vDSO), or this version of Go " +
			"does not keep it in runtime.vdsoClockgettimeSym: adapt e2e/clock.go")
	}
	file, err := os.Open(os.Getenv("` + clockVariable + `"))
	if err != nil {
		panic(err)
	}
	page, err := syscall.Mmap(int(file.Fd()), 0, 8, syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		panic(err)
	}
	secondsAhead, readKernelsClock = (*int64)(unsafe.Pointer(&page[0])), kernelsClock
	kernelsClock = addressOfReadClock()
}
`,
	// It is called with the C calling convention: clock_gettime(DI, SI).
	"zz_clock_amd64.s": `#include "textflag.h"

TEXT ·readClock(SB), NOSPLIT|NOFRAME, $0
	PUSHQ DI
	PUSHQ SI
	SUBQ  $8, SP
	MOVQ  ·readKernelsClock(SB), AX
	CALL  AX
	ADDQ  $8, SP
	POPQ  SI
	POPQ  DI
	CMPL  DI, $0 // CLOCK_REALTIME
	JNE   done
	MOVQ  ·secondsAhead(SB), CX
	MOVQ  (CX), CX
	ADDQ  CX, (SI)
done:
	RET

TEXT ·addressOfReadClock(SB), NOSPLIT, $0-8
	LEAQ ·readClock(SB), AX
	MOVQ AX, ret+0(FP)
	RET
`,
}

// clockFlags writes the files for a command with a settable clock into a directory, and
// returns the flags for go build.
func clockFlags(dir, command string) (flags []string, err error) {
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		return nil, fmt.Errorf("the server's clock can be set on linux/amd64 only, and not on %s/%s", runtime.GOOS, runtime.GOARCH)
	}
	list := exec.Command("go", "list", "-f", "{{.Dir}}", command)
	list.Stderr = os.Stderr
	source, err := list.Output()
	if err != nil {
		return nil, fmt.Errorf("go list %s: %w", command, err)
	}
	replace := make(map[string]string)
	for name, text := range clockSources {
		here := filepath.Join(dir, name)
		if err := os.WriteFile(here, []byte(text), 0o600); err != nil {
			return nil, err
		}
		replace[filepath.Join(strings.TrimSpace(string(source)), name)] = here
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "overlay.json")
	// The linker gives no other package access to the runtime's variables.
	return []string{"-overlay=" + file, "-ldflags=-checklinkname=0"}, os.WriteFile(file, overlay, 0o600)
}
