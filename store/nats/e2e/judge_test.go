package e2e_test

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/ea766355/caddy-sse/e2e"
)

// verdict is the result of judging.
type verdict struct {
	events, deliveries, streams        int
	lost, doubled, disordered, foreign int // deliveries
	gaps, falseGaps                    int // received gaps
	late                               int // events received after a disconnect
	unlawful, withheld                 int // events received without the right, or not received despite it
	other                              int // other broken promises
}

// enough is how many faults are described in full.
const enough = 10

// judge compares what each client received with the acknowledged events.
func (w *world) judge() (v verdict) {
	entries := w.ledger.Entries()
	v.events = len(entries)
	v.other += w.unexplained(entries)
	v.late = w.late(entries)
	w.judgeMembers(entries, &v)
	findings := 0
	for _, f := range w.followers {
		opened, ends := f.Streams()
		v.streams += opened
		v.count(f, w)
		if err := f.Check(w.ledger); err != nil {
			if f.Err() != nil {
				v.other++
			}
			if findings++; findings <= enough {
				w.t.Errorf("%v; its last streams ended with %q; its last gaps are %v", err, ends[max(0, len(ends)-5):], lastGaps(f))
			}
		}
	}
	if v.bad() > 0 {
		w.t.Errorf("%+v", v)
	}
	return v
}

// lastGaps describes the last gaps of a client.
func lastGaps(f *e2e.Follower) (gaps []string) {
	for _, r := range f.Received() {
		if r.Gap != "" {
			gaps = append(gaps, fmt.Sprintf("%s: after %s, %s", r.At.Format("04:05.000"), r.After, r))
		}
	}
	return gaps[max(0, len(gaps)-5):]
}

// unexplained counts positions without an acknowledged event or another known record. An event that was
// stored twice has such a position.
func (w *world) unexplained(entries []e2e.Entry) (n int) {
	at := make(map[string]map[uint64]int64) // numbers of events by epoch and seq
	last := make(map[string]uint64)
	for _, e := range entries {
		p := e.Position
		if at[p.Epoch] == nil {
			at[p.Epoch] = make(map[uint64]int64)
		}
		if other, taken := at[p.Epoch][p.Seq]; taken && other != e.N {
			w.t.Errorf("events %d and %d were both acknowledged at %s", other, e.N, p)
			n++
		}
		at[p.Epoch][p.Seq] = e.N
		last[p.Epoch] = max(last[p.Epoch], p.Seq)
	}
	for epoch, events := range at {
		if more := int(last[epoch]) - len(events); more > w.commands+w.foreign {
			w.t.Errorf("epoch %s has %d positions without an acknowledged event, with %d commands and %d foreign messages",
				epoch, more, w.commands, w.foreign)
			n++
		}
	}
	return n
}

// count adds the result of one client.
func (v *verdict) count(f *e2e.Follower, w *world) {
	last := f.Start()
	due := make(map[e2e.Position]e2e.Entry)
	excuse := func(epoch string, upTo uint64) (n int) {
		before := len(due)
		maps.DeleteFunc(due, func(p e2e.Position, _ e2e.Entry) bool { return p.Epoch == epoch && p.Seq <= upTo })
		return before - len(due)
	}
	expect := func(epoch string, after uint64) {
		for _, e := range w.ledger.Expected(f.Identity, epoch, after) {
			due[e.Position.Place()] = e
		}
	}
	expect(last.Epoch, last.Seq)
	seen := make(map[e2e.Position]bool)
	for _, r := range f.Received() {
		switch {
		case r.Gap == "":
			v.deliveries++
			e, ok := due[r.Position.Place()]
			switch {
			case seen[r.Position.Place()]:
				v.doubled++
			case !ok || e.N != r.N || e.Size != r.Size:
				v.foreign++
			case r.Position.Seq < last.Seq:
				v.disordered++
			}
			seen[r.Position.Place()] = true
			delete(due, r.Position.Place())
		case r.Position.Epoch != last.Epoch:
			v.gaps++
			if w.restored == 0 {
				v.falseGaps++
			}
			excuse(last.Epoch, math.MaxUint64)
			expect(r.Position.Epoch, r.Position.Seq)
			maps.DeleteFunc(seen, func(p e2e.Position, _ bool) bool { return p.Epoch == r.Position.Epoch })
		default:
			v.gaps++
			if missed := excuse(r.Position.Epoch, r.Position.Seq); r.Gap != "evicted" || missed == 0 && !w.ledger.Justifies(r) {
				v.falseGaps++
			}
		}
		last = r.Position
	}
	v.lost += len(due)
}

// bad returns the number of faults.
func (v *verdict) bad() int {
	return v.lost + v.doubled + v.disordered + v.foreign + v.falseGaps + v.late + v.unlawful + v.withheld + v.other
}

// report logs the totals and writes them to the file.
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
	row("gaps told", v.gaps)
	row("**lost**", v.lost)
	row("**doubled**", v.doubled)
	row("**out of order**", v.disordered)
	row("**not theirs, or never acknowledged**", v.foreign)
	row("**received after a disconnect**", v.late)
	row("**received without the right**", v.unlawful)
	row("**not received with the right**", v.withheld)
	row("**gaps told without a reason**", v.falseGaps)
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
