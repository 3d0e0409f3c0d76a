// Command bench measures this module and its peers in one run, as README.md describes. Linux only.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ea766355/caddy-sse/bench/internal/hub"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run() error {
	var (
		modes     = flag.String("modes", "all", "comma-separated `names`: "+modeNames())
		hubs      = flag.String("hubs", "all", "comma-separated `parts` of hub names, such as caddy-sse,raw")
		quick     = flag.Bool("quick", false, "a tenth of everything, one round: to check that all works; its figures are worth little")
		rounds    = flag.Int("rounds", 3, "interleaved `rounds` of the modes that take a median")
		output    = flag.String("o", "", "write the results to this `file`, in Markdown; RESULTS.md in a complete run")
		profiles  = flag.String("profiles", "", "put CPU profiles of the Caddy servers into this `directory`; the CPU figures then include them")
		serverCPU = flag.Int("server-cpu", 0, "the `CPU` that servers run on")
		clientCPU = flag.Int("client-cpu", 1, "the `CPU` that the load runs on")
	)
	flag.Parse()
	if flag.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flag.Arg(0))
	}
	if err := pin(*clientCPU); err != nil {
		return err
	}
	// The receiving loop never blocks, and publishers need another thread.
	runtime.GOMAXPROCS(4)

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process
	b, err := newBench(ctx, *serverCPU, *quick, *rounds)
	if err != nil {
		return err
	}
	defer os.RemoveAll(b.tmp)
	b.clientCPU = *clientCPU

	if b.profiles = *profiles; b.profiles != "" {
		if b.profiles, err = filepath.Abs(b.profiles); err != nil {
			return err
		}
		if err := os.MkdirAll(b.profiles, 0o755); err != nil {
			return err
		}
	}

	chosen, err := chooseModes(*modes)
	if err != nil {
		return err
	}
	for _, h := range hub.All() {
		if *hubs == "all" || slices.ContainsFunc(strings.Split(*hubs, ","), func(part string) bool { return strings.Contains(h.Name(), part) }) {
			b.prepare(ctx, h)
		}
	}
	if len(b.entries) == 0 {
		return fmt.Errorf("no hub is named like %q", *hubs)
	}
	if *output == "" && !*quick && *hubs == "all" && *modes == "all" {
		*output = filepath.Join(b.workshop.Module, "RESULTS.md")
	}

	for _, m := range chosen {
		began := time.Now()
		if err := b.measure(ctx, m); err != nil {
			return err
		}
		fmt.Fprintf(os.Stderr, "%s took %s\n", m.name, time.Since(began).Round(time.Second))
		if err := b.table(os.Stdout, m, plain); err != nil {
			return err
		}
	}
	if err := b.report(os.Stdout, nil, plain); err != nil || *output == "" {
		return err
	}
	f, err := os.Create(*output)
	if err != nil {
		return err
	}
	return errors.Join(b.report(f, chosen, markdown), f.Close())
}

func chooseModes(names string) ([]*mode, error) {
	if names == "all" {
		return allModes, nil
	}
	var chosen []*mode
	for name := range strings.SplitSeq(names, ",") {
		i := slices.IndexFunc(allModes, func(m *mode) bool { return m.name == name })
		if i < 0 {
			return nil, fmt.Errorf("no mode %q; there are %s", name, modeNames())
		}
		chosen = append(chosen, allModes[i])
	}
	return chosen, nil
}

// pin starts the program again on one CPU, with the limit of open files raised. The affinity is set per
// thread, and this process already has several.
func pin(cpu int) error {
	const mark = "CADDY_SSE_BENCH_PINNED"
	if os.Getenv(mark) != "" {
		return os.Unsetenv(mark)
	}
	runtime.LockOSThread()
	var set unix.CPUSet
	set.Set(cpu)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("CPU %d: %w", cpu, err)
	}
	// Go does not pass on its own limit, only one that was set explicitly.
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	raised := syscall.Rlimit{Cur: max(limit.Max, 100_000), Max: max(limit.Max, 100_000)}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &raised); err != nil {
		limit.Cur = limit.Max
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
			return err
		}
	}
	return syscall.Exec("/proc/self/exe", os.Args, append(os.Environ(), mark+"=1"))
}

// moduleDir is the directory of this module's source.
func moduleDir(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/ea766355/caddy-sse/bench").Output()
	if err != nil {
		return "", fmt.Errorf("run it in the bench directory: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}
