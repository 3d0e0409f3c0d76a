package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

// column is a figure of a mode: the median of the rounds, or the sum for failures.
type column struct {
	key    string
	title  string
	format string
	sum    bool
}

var (
	faults = []column{
		{key: "lost", title: "lost", format: "%.0f", sum: true},
		{key: "doubled", title: "doubled", format: "%.0f", sum: true},
		{key: "disordered", title: "out of order", format: "%.0f", sum: true},
	}
	ends = []column{
		{key: "gaps", title: "gaps told", format: "%.0f", sum: true},
		{key: "closed", title: "closed by server", format: "%.0f", sum: true},
	}
	broadcastColumns = slices.Concat([]column{
		{key: "cpu", title: "µs CPU / delivery", format: "%.2f"},
		{key: "deliveries", title: "deliveries/s", format: "%.0f"},
		{key: "events", title: "events/s", format: "%.1f"},
		{key: "p50", title: "p50 ms", format: "%.1f"},
		{key: "p99", title: "p99 ms", format: "%.1f"},
		{key: "max", title: "max ms", format: "%.1f"},
		{key: "publish50", title: "publish p50 ms", format: "%.2f"},
		{key: "publish99", title: "publish p99 ms", format: "%.2f"},
		{key: "busy", title: "server CPU %", format: "%.0f"},
		{key: "clientBusy", title: "client CPU %", format: "%.0f"},
	}, faults, ends)
	userColumns = slices.Concat([]column{
		{key: "cpuFew", title: "µs CPU / event, one of 100", format: "%.1f"},
		{key: "cpuMany", title: "one of 18,000", format: "%.1f"},
		{key: "ratio", title: "ratio", format: "%.2f"},
		{key: "events", title: "events/s", format: "%.0f"},
		{key: "p50", title: "p50 ms", format: "%.2f"},
		{key: "p99", title: "p99 ms", format: "%.2f"},
		{key: "publish50", title: "publish p50 ms", format: "%.2f"},
		{key: "publish99", title: "publish p99 ms", format: "%.2f"},
	}, faults, ends)
	stormColumns = slices.Concat([]column{
		{key: "cpu", title: "µs CPU / event, connecting included", format: "%.2f"},
		{key: "seconds", title: "s until all have all", format: "%.2f"},
	}, faults, ends)
	stormTLSColumns = slices.Concat([]column{
		{key: "tls", title: "h1 TLS µs CPU / event", format: "%.2f"},
		{key: "tlsSeconds", title: "s until all have all", format: "%.2f"},
		{key: "h2", title: "h2 µs CPU / event", format: "%.2f"},
		{key: "h2Seconds", title: "s until all have all", format: "%.2f"},
		{key: "h3", title: "h3 µs CPU / event", format: "%.2f"},
		{key: "h3Seconds", title: "s until all have all", format: "%.2f"},
	}, faults, ends)
	connectColumns = []column{
		{key: "h1", title: "h1 µs CPU / connect", format: "%.0f"},
		{key: "h1Rate", title: "connects/s", format: "%.0f"},
		{key: "tls", title: "h1 TLS µs CPU / connect", format: "%.0f"},
		{key: "tlsRate", title: "connects/s", format: "%.0f"},
		{key: "h2", title: "h2 µs CPU / connect", format: "%.0f"},
		{key: "h2Rate", title: "connects/s", format: "%.0f"},
		{key: "h3", title: "h3 µs CPU / connect", format: "%.0f"},
		{key: "h3Rate", title: "connects/s", format: "%.0f"},
	}
	stallColumns = slices.Concat([]column{
		{key: "p99A", title: "p99 ms without", format: "%.1f"},
		{key: "p99Stalled", title: "p99 ms with", format: "%.1f"},
		{key: "p99Again", title: "p99 ms without, again", format: "%.1f"},
		{key: "cpuA", title: "µs CPU / delivery without", format: "%.2f"},
		{key: "cpuStalled", title: "µs CPU / delivery with", format: "%.2f"},
		{key: "tookKB", title: "KB sent to the stalled one", format: "%.0f"},
	}, faults)
	idleColumns = []column{
		{key: "h1", title: "h1 KB", format: "%.1f"},
		{key: "h1Settled", title: "h1 settled", format: "%.1f"},
		{key: "h1Written", title: "h1 after 5 events", format: "%.1f"},
		{key: "tls", title: "h1 TLS KB", format: "%.1f"},
		{key: "tlsSettled", title: "h1 TLS settled", format: "%.1f"},
		{key: "tlsWritten", title: "h1 TLS after 5 events", format: "%.1f"},
		{key: "h2", title: "h2 KB", format: "%.1f"},
		{key: "h2Settled", title: "h2 settled", format: "%.1f"},
		{key: "h2Written", title: "h2 after 5 events", format: "%.1f"},
		{key: "h3", title: "h3 KB", format: "%.1f"},
		{key: "h3Settled", title: "h3 settled", format: "%.1f"},
		{key: "h3Written", title: "h3 after 5 events", format: "%.1f"},
	}
	peakColumns = []column{
		{key: "idleFound", title: "idle MB", format: "%.0f"},
		{key: "peakFound", title: "peak MB", format: "%.0f"},
		{key: "ratioFound", title: "ratio", format: "%.2f"},
		{key: "idleSettled", title: "settled MB", format: "%.0f"},
		{key: "peakSettled", title: "peak MB after", format: "%.0f"},
		{key: "ratioSettled", title: "ratio after", format: "%.2f"},
		{key: "lost", title: "lost", format: "%.0f", sum: true},
	}
	keepColumns = []column{
		{key: "diskProcess", title: "disk, events/s in process, 64 goroutines", format: "%.0f"},
		{key: "disk1", title: "over HTTP, 1 publisher", format: "%.0f"},
		{key: "disk1p99", title: "p99 ms", format: "%.1f"},
		{key: "disk64", title: "64 publishers", format: "%.0f"},
		{key: "disk64p99", title: "p99 ms", format: "%.1f"},
		{key: "diskBatch", title: "8, batches of 100", format: "%.0f"},
		{key: "diskBatchp99", title: "p99 ms", format: "%.1f"},
		{key: "memoryProcess", title: "memory, in process", format: "%.0f"},
		{key: "memory1", title: "1 publisher", format: "%.0f"},
		{key: "memory64", title: "64 publishers", format: "%.0f"},
		{key: "memoryBatch", title: "8, batches of 100", format: "%.0f"},
	}
	restartColumns = []column{{key: "seconds", title: "s until its first block", format: "%.2f"}}
	endureColumns  = []column{
		{key: "events", title: "events/s", format: "%.0f"},
		{key: "rss1", title: "MB resident, 1 min", format: "%.0f"},
		{key: "rss5", title: "5 min", format: "%.0f"},
		{key: "rss10", title: "10 min", format: "%.0f"},
		{key: "file1", title: "MB on disk, 1 min", format: "%.0f"},
		{key: "file5", title: "5 min", format: "%.0f"},
		{key: "file10", title: "10 min", format: "%.0f"},
	}
)

// figure returns a column's value for a hub; ok is false if it was not measured.
func (e *entry) figure(mode, key string, sum bool) (v float64, ok bool) {
	var values []float64
	for _, s := range e.samples[mode] {
		if v, ok := s[key]; ok && !math.IsNaN(v) {
			values = append(values, v)
		}
	}
	if len(values) == 0 {
		return 0, false
	}
	if sum {
		for _, x := range values {
			v += x
		}
		return v, true
	}
	slices.Sort(values)
	return values[len(values)/2], true
}

// style is the format of tables.
type style func(w io.Writer, heads []string, rows [][]string) error

func plain(w io.Writer, heads []string, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range append([][]string{heads}, rows...) {
		fmt.Fprintln(t, strings.Join(row, "\t"))
	}
	return t.Flush()
}

func markdown(w io.Writer, heads []string, rows [][]string) error {
	rule := slices.Repeat([]string{"---:"}, len(heads))
	rule[0] = "---"
	for _, row := range append([][]string{heads, rule}, rows...) {
		if _, err := fmt.Fprintf(w, "| %s |\n", strings.Join(row, " | ")); err != nil {
			return err
		}
	}
	return nil
}

// table writes the table of a mode.
func (b *bench) table(w io.Writer, m *mode, draw style) error {
	heads := []string{""}
	for _, c := range m.columns {
		heads = append(heads, c.title)
	}
	var rows [][]string
	for _, e := range b.entries {
		row := []string{e.hub.Name()}
		switch {
		case e.missing != nil:
			row = append(row, "missing")
		case e.failed[m.name] != nil:
			row = append(row, "failed: "+strings.ReplaceAll(e.failed[m.name].Error(), "\n", " "))
		case !m.takes(e.hub.Abilities()):
			row = append(row, "not of this kind")
		default:
			for _, c := range m.columns {
				cell := "-"
				if v, ok := e.figure(m.name, c.key, c.sum); ok {
					cell = fmt.Sprintf(c.format, v)
				}
				row = append(row, cell)
			}
		}
		rows = append(rows, row)
	}
	if _, err := fmt.Fprintf(w, "\n## %s\n\n", m.title); err != nil {
		return err
	}
	return draw(w, heads, rows)
}

// report writes the environment, the method, and the tables of modes.
func (b *bench) report(w io.Writer, modes []*mode, draw style) error {
	ew := &errWriter{w: w}
	fmt.Fprintf(ew, "\n# Results\n\nWritten by `bench %s` on %s.\n", strings.Join(os.Args[1:], " "), time.Now().Format("2 January 2006"))
	if b.quick {
		fmt.Fprint(ew, "\n**A quick run: a tenth of the connections, a second each. It shows that all works and nothing else.**\n")
	}
	fmt.Fprintf(ew, "\n%s\n", b.machine())
	fmt.Fprint(ew, "\nFigures are medians of the interleaved rounds; faults are their sums.\n\n")
	var rows [][]string
	for _, e := range b.entries {
		version := e.version
		if e.missing != nil {
			version = "missing: " + strings.ReplaceAll(e.missing.Error(), "\n", " ")
		}
		rows = append(rows, []string{e.hub.Name(), version})
	}
	ew.try(draw(ew, []string{"hub", "version"}, rows))
	fmt.Fprint(ew, "\n## The bars\n\n")
	ew.try(draw(ew, []string{"what", "bar", "measured", ""}, b.bars()))
	for _, m := range modes {
		ew.try(b.table(ew, m, draw))
	}
	return ew.err
}

// errWriter keeps the first error.
type errWriter struct {
	w   io.Writer
	err error
}

func (w *errWriter) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	n, err := w.w.Write(p)
	w.try(err)
	return n, err
}

func (w *errWriter) try(err error) {
	if w.err == nil {
		w.err = err
	}
}

func (b *bench) machine() string {
	model := "unknown CPU"
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if _, rest, ok := strings.Cut(string(info), "model name\t: "); ok {
			model, _, _ = strings.Cut(rest, "\n")
		}
	}
	var uts unix.Utsname
	kernel := "unknown kernel"
	if unix.Uname(&uts) == nil {
		kernel = "Linux " + unix.ByteSliceToString(uts.Release[:])
	}
	commit := "unknown commit"
	cmd := exec.CommandContext(context.Background(), "git", "describe", "--always", "--dirty", "--abbrev=12")
	cmd.Dir = b.workshop.Module
	if out, err := cmd.Output(); err == nil {
		commit = "commit " + strings.TrimSpace(string(out))
	}
	return fmt.Sprintf("%d CPUs (%s), %s, %s, %s. Servers on CPU %d, load on CPU %d. Load average before the run: %s.",
		onlineCPUs(), model, kernel, runtime.Version(), commit, b.workshop.CPU, b.clientCPU, b.loadBefore)
}

// loadAverage returns the load of the machine in the last minute.
func loadAverage() string {
	load, _ := os.ReadFile("/proc/loadavg")
	first, _, _ := strings.Cut(string(load), " ")
	return first
}

// onlineCPUs counts the CPUs of the machine, also those that this process may not use.
func onlineCPUs() int {
	info, _ := os.ReadFile("/proc/cpuinfo")
	return strings.Count(string(info), "processor\t:")
}
