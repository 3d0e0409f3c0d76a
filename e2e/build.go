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

// The binaries under test, built by Main. server has the race detector if the tests have
// it. The command line is built without it, so that it starts faster.
var binary, command string

// Main builds Caddy with this module, runs the tests and removes the binaries. Call it from
// TestMain.
func Main(m *testing.M) { os.Exit(Run(m, caddyPackage)) }

const caddyPackage = "github.com/ea766355/caddy-sse/cmd/caddy"

// MainWithClock is like Main, for tests that set the clock of the server.
func MainWithClock(m *testing.M) { os.Exit(run(m, caddyPackage, true)) }

// Run is like Main for another package, of the module of the tests. It returns the exit code.
func Run(m *testing.M, server string) int { return run(m, server, false) }

func run(m *testing.M, server string, clock bool) int {
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
	if clock {
		flags, err := clockFlags(dir, server)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		settable = true
		last := len(builds) - 1 // the server is built last
		builds[last] = append(builds[last], flags...)
	}
	for _, args := range builds {
		build := exec.Command("go", slices.Concat([]string{"build"}, args, []string{server})...)
		build.Stdout, build.Stderr = os.Stderr, os.Stderr
		if err := build.Run(); err != nil {
			fmt.Fprintln(os.Stderr, "building the server:", err)
			return 1
		}
	}
	return m.Run()
}
