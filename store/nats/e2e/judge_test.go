package e2e_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ea766355/caddy-sse/e2e"
)

// verdict is what came of it all.
type verdict struct {
	events, deliveries, streams        int
	lost, doubled, disordered, foreign int // deliveries
	gaps                               int // told
	other                              int // what breaks a promise besides
}

// enough is how many findings are told in full.
const enough = 10

// judge holds what each client received against what was acknowledged.
func (w *world) judge() (v verdict) {
	entries := w.ledger.Entries()
	slices.SortFunc(entries, func(a, b e2e.Entry) int { return int(int64(a.Position.Seq - b.Position.Seq)) })
	v.events = len(entries)
	for i, e := range entries {
		// If something that was not acknowledged has a position, it was stored twice.
		if e.Position.Epoch != entries[0].Position.Epoch || e.Position.Seq != uint64(i+1) {
			w.t.Errorf("acknowledged event %d is at %s, where %s-%d is due", e.N, e.Position, entries[0].Position.Epoch, i+1)
			v.other++
			break
		}
	}
	findings := 0
	for _, f := range w.followers {
		opened, ends := f.Streams()
		v.streams += opened
		v.count(f, w.ledger)
		if err := f.Check(w.ledger); err != nil {
			if f.Err() != nil {
				v.other++
			}
			if findings++; findings <= enough {
				w.t.Errorf("%v; its last streams ended with %q", err, ends[max(0, len(ends)-5):])
			}
		}
	}
	if v.bad() > 0 {
		w.t.Errorf("%+v", v)
	}
	return v
}

// count adds what one client received.
func (v *verdict) count(f *e2e.Follower, l *e2e.Ledger) {
	start := f.Start()
	due := make(map[e2e.Position]e2e.Entry)
	for _, e := range l.Expected(f.Identity, start.Epoch, start.Seq) {
		due[e.Position] = e
	}
	seen := make(map[e2e.Position]bool)
	last := start.Seq
	for _, r := range f.Received() {
		if r.Gap != "" {
			v.gaps++
			continue
		}
		v.deliveries++
		e, ok := due[r.Position]
		switch {
		case seen[r.Position]:
			v.doubled++
		case !ok || e.N != r.N || e.Size != r.Size:
			v.foreign++
		case r.Position.Seq < last:
			v.disordered++
		}
		seen[r.Position] = true
		last = max(last, r.Position.Seq)
		delete(due, r.Position)
	}
	v.lost += len(due)
}

// bad is how much of it must not be. The history holds all, so any gap is false.
func (v *verdict) bad() int {
	return v.lost + v.doubled + v.disordered + v.foreign + v.gaps + v.other
}

// report logs the totals, and writes them to the file.
func (w *world) report(v verdict, took time.Duration) {
	var b strings.Builder
	fmt.Fprintf(&b, "%s. Took %s, with three nodes, three NATS servers, %d clients and %d publish requests a second. "+
		"A publish took up to %s to be acknowledged.\n\n",
		e2e.Machine(), took.Round(time.Second), *clients, *rate, w.longest.Round(100*time.Millisecond))
	fmt.Fprintf(&b, "    make soak-cluster DURATION=%s SEED=%d\n\n| total | |\n|---|---:|\n", *duration, *seed)
	row := func(name string, n int) { fmt.Fprintf(&b, "| %s | %d |\n", name, n) }
	row("events acknowledged", v.events)
	row("deliveries", v.deliveries)
	row("streams", v.streams)
	row("**lost**", v.lost)
	row("**doubled**", v.doubled)
	row("**out of order**", v.disordered)
	row("**not theirs, or never acknowledged**", v.foreign)
	row("**gaps told**", v.gaps)
	row("**other violations**", v.other)
	b.WriteString("\n| fault | |\n|---|---:|\n")
	cuts := int64(0)
	for _, n := range w.nodes {
		cuts += n.clients.Cuts.Load()
	}
	w.faults["clients' connections cut"] = int(cuts)
	w.faults["publish requests sent again"] = int(w.again)
	for _, name := range slices.Sorted(maps.Keys(w.faults)) {
		row(name, w.faults[name])
	}
	w.t.Logf("\n%s", b.String())
	if *results != "" {
		if err := e2e.WriteResults(*results, "Results of `make soak-cluster`", b.String()); err != nil {
			w.t.Error(err)
		}
	}
}
