//go:build linux

package hostile

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ea766355/caddy-sse/e2e"
)

// Limits for the effect of an attack on a p99.
const (
	worse    = 5                     // factor over the quiet value
	tolerate = 20 * time.Millisecond // allowed anyway
)

// quantile returns a quantile of the times. It sorts them.
func quantile(times []time.Duration, part float64) time.Duration {
	if len(times) == 0 {
		return 0
	}
	slices.Sort(times)
	return times[min(len(times)-1, int(part*float64(len(times))))]
}

// row is a row of the table.
func (in *innocent) row(a attack, did map[string]int64, atRest, peak int64) string {
	met := true
	cells := func(times [phases][]time.Duration) string {
		var cells []string
		for _, p := range []phase{quiet, attacked} {
			cells = append(cells, fmt.Sprintf("%s / %s", ms(quantile(times[p], 0.5)), ms(quantile(times[p], 0.99))))
		}
		met = met && quantile(times[attacked], 0.99) <= max(worse*quantile(times[quiet], 0.99), tolerate)
		return strings.Join(cells, " | ")
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	published, delivered := cells(in.answers), cells(in.deliveries())
	verdict := "yes"
	switch {
	case !*full:
		verdict = "not judged"
	case a.floor:
		verdict = "Caddy's own"
	case !met:
		verdict = "**no**"
	}
	var counts []string
	for _, what := range slices.Sorted(maps.Keys(did)) {
		counts = append(counts, fmt.Sprintf("%d %s", did[what], what))
	}
	row := fmt.Sprintf("| %s: %s | %s | %s | %d, %d | %s |\n", a.name, strings.Join(counts, ", "),
		published, delivered, atRest>>20, peak>>20, verdict)
	in.t.Logf("publish, deliver, quiet and under attack, p50 / p99 in ms; memory; bar\n%s", row)
	return row
}

func ms(d time.Duration) string { return fmt.Sprintf("%.1f", float64(d)/float64(time.Millisecond)) }

// report writes the table to the file, if there is one.
func report(t *testing.T, table string, exit time.Duration) {
	t.Helper()
	if *results == "" || t.Failed() {
		return
	}
	text := fmt.Sprintf(`%s.

    make hostile

Each attack on a server of its own, beside %d innocent streams, a quarter of them of each protocol, and a publisher that sends an event to them every %s, on time,
however long each takes. Quiet for %s and under attack for %s, in turn, %d times in one run. The server, the innocent and the attacker share the CPUs; the
attacker is a process of its own and gets the time that others leave (SCHED_IDLE), since an attacker brings its own CPUs. Times are p50 / p99 in milliseconds: from the request to
publish until the answer, and until a stream has the event. Memory is the server's resident memory in MiB, before the attack and at most. The bar: p99 under
attack is at most %d times what it is when quiet, or %s if that is more. A flood of requests keeps the CPUs of Go's HTTP/2 and HTTP/3
servers busy, whatever they ask for: the same flood of a page that answers with a word, with which the module has nothing to do, stands below it.

| attack, and what it did | publish, quiet | under attack | delivery, quiet | under attack | memory | bar met |
|---|---:|---:|---:|---:|---:|---|
%s
SIGTERM with %d streams that lag by thousands of events each, and take nothing: the process ended after %.1f s.
`, e2e.Machine(), innocents, every, quietFor, attackFor, rounds, worse, tolerate, table, lagging(), exit.Seconds())
	if err := e2e.WriteResults(*results, "Results of `make hostile`", text); err != nil {
		t.Error(err)
	}
}
