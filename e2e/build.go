package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"testing"
)

// The binaries under test, built by Main: the server, with the race detector if
// the tests have it, and the same without, as the command line starts faster that
// way.
var binary, command string

// Main builds them once, runs the tests and removes what was built. It is
// called by TestMain, from a directory directly below the module's root.
func Main(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "caddy-sse-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	command = filepath.Join(dir, "caddy")
	binary = command
	builds := [][]string{{"-o", command}}
	if info, ok := debug.ReadBuildInfo(); ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		binary = filepath.Join(dir, "caddy-race")
		builds = append(builds, []string{"-race", "-o", binary})
	}
	for _, args := range builds {
		build := exec.Command("go", slices.Concat([]string{"build"}, args, []string{"github.com/ea766355/caddy-sse/cmd/caddy"})...)
		build.Stdout, build.Stderr = os.Stderr, os.Stderr
		if err := build.Run(); err != nil {
			fmt.Fprintln(os.Stderr, "building the server:", err)
			return 1
		}
	}
	return m.Run()
}
