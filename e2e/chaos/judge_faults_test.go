package chaos

import (
	"slices"
	"testing"
	"time"

	"github.com/ea766355/caddy-sse/e2e"
)

// TestHubJudge: the judge finds each kind of fault.
func TestHubJudge(t *testing.T) {
	const epoch = "abc"
	began := time.Now()
	after := func(seconds int) time.Time { return began.Add(time.Duration(seconds) * time.Second) }
	at := func(seq uint64) e2e.Position { return e2e.Position{Epoch: epoch, Seq: seq} }
	// One event per second: odd numbers are for alice, even ones for bob.
	ledger := new(e2e.Ledger)
	for n := range uint64(20) {
		user := "alice"
		if n%2 == 1 {
			user = "bob"
		}
		ledger.Add(e2e.Entry{Position: at(n + 1), N: int64(n + 1), Size: 10, To: e2e.To("user", user), Sent: after(int(n))})
	}
	event := func(seq uint64) e2e.Received {
		return e2e.Received{Position: at(seq), N: int64(seq), Size: 10, At: after(int(seq))}
	}
	gap := func(from, to uint64, seconds int) e2e.Received {
		return e2e.Received{Position: at(to), Gap: "evicted", After: at(from), At: after(seconds)}
	}
	late := func(r e2e.Received, seconds int) e2e.Received {
		r.At = after(seconds)
		return r
	}
	events := func(seqs ...uint64) (r []e2e.Received) {
		for _, seq := range seqs {
			r = append(r, event(seq))
		}
		return r
	}
	rest := events(11, 13, 15, 17, 19)

	for name, test := range map[string]struct {
		bound    uint64
		launched time.Time
		last     uint64 // 0: the client was open at the end
		received []e2e.Received
		want     verdict
	}{
		"all events":               {received: append(events(5, 7, 9), rest...), want: verdict{deliveries: 8}},
		"all events until it left": {last: 8, received: events(5, 7), want: verdict{deliveries: 2}},

		"its last position is past a missing event": {last: 9, received: events(5, 7), want: verdict{deliveries: 2, lost: 1}},

		"no events":                            {want: verdict{lost: 8}},
		"one is missing":                       {received: append(events(5, 9), rest...), want: verdict{deliveries: 7, lost: 1}},
		"the last is missing":                  {received: append(events(5, 7, 9), rest[:4]...), want: verdict{deliveries: 7, lost: 1}},
		"an event twice":                       {received: append(events(5, 7, 7, 9), rest...), want: verdict{deliveries: 9, doubled: 1}},
		"an event from before its start":       {received: append(events(3, 5, 7, 9), rest...), want: verdict{deliveries: 9, disordered: 1}},
		"an event of bob":                      {received: append(events(5, 6, 7, 9), rest...), want: verdict{deliveries: 9, foreign: 1}},
		"an event that was never acknowledged": {received: append(append(events(5, 7, 9), rest...), event(21)), want: verdict{deliveries: 9, foreign: 1}},
		"a gap on a hub that retains everything": {
			received: append([]e2e.Received{gap(4, 9, 19)}, rest...),
			want:     verdict{deliveries: 5, gaps: 1, falseGaps: 1, lost: 3},
		},
		"a gap": {
			bound: 3, received: append([]e2e.Received{gap(4, 9, 12)}, rest...),
			want: verdict{deliveries: 5, gaps: 1},
		},
		"a gap too early": {
			bound: 3, received: append([]e2e.Received{gap(4, 9, 10)}, rest...),
			want: verdict{deliveries: 5, gaps: 1, falseGaps: 1, lost: 3},
		},
		"a gap in which nothing was lost": {
			bound: 3, received: append(append(events(5, 7, 9), gap(9, 10, 15)), rest...),
			want: verdict{deliveries: 8, gaps: 1, falseGaps: 1},
		},
		"a gap in which nothing was lost, after a restart": {
			bound: 3, launched: after(14), received: append(append(events(5, 7, 9), gap(9, 10, 15)), rest...),
			want: verdict{deliveries: 8, gaps: 1, inDoubt: 1},
		},
		"a gap in which nothing was lost, and an event that was read after the restart": {
			bound: 3, launched: after(14), received: append(append(events(5, 7), late(event(9), 15), gap(9, 10, 16)), rest...),
			want: verdict{deliveries: 8, gaps: 1, inDoubt: 1},
		},
		"a gap in which nothing was lost, after a restart that loads the next event": {
			bound: 3, launched: after(12), received: append(append(events(5, 7, 9), gap(9, 10, 15)), rest...),
			want: verdict{deliveries: 8, gaps: 1, falseGaps: 1},
		},
		"a gap in which nothing was lost, before a restart": {
			bound: 3, launched: after(16), received: append(append(events(5, 7, 9), gap(9, 10, 15)), rest...),
			want: verdict{deliveries: 8, gaps: 1, falseGaps: 1},
		},
		"a gap after a missing event": {
			bound: 3, received: append(append(events(5), gap(8, 9, 12)), rest...),
			want: verdict{deliveries: 6, gaps: 1, lost: 1},
		},
		"a missing event after a gap": {
			bound: 3, received: append([]e2e.Received{gap(4, 9, 12)}, rest[1:]...),
			want: verdict{deliveries: 4, gaps: 1, lost: 1},
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := &hub{name: "default", bound: test.bound, ledger: ledger}
			c := newHubJudge(new(verdict), h, []time.Time{test.launched})
			tr := &trace{
				hub: h, id: e2e.Identity{User: "alice"}, since: began, start: at(4), last: at(test.last),
				final: test.last == 0, received: test.received,
			}
			c.common(tr)
			c.try(tr)
			got := *c.verdict
			if test.want.events, test.want.clients = 20, 1; got.bad() > 0 != (len(got.findings) > 0) {
				t.Errorf("findings: got %q, want some for %d faults", got.findings, got.bad())
			}
			findings := got.findings
			if got.String() != test.want.String() {
				t.Errorf("got\n%s\nwant\n%s\n%q", got.String(), test.want.String(), findings)
			}
		})
	}

	t.Run("stored twice", func(t *testing.T) {
		ledger := new(e2e.Ledger)
		ledger.Add(e2e.Entry{Position: at(1), N: 1}, e2e.Entry{Position: at(3), N: 2})
		if c := newHubJudge(new(verdict), &hub{ledger: ledger}, nil); c.other != 1 {
			t.Errorf("faults of a position without an event: got %d, want 1", c.other)
		}
	})
}

// TestDisconnects: the judge finds deliveries to users that were disconnected before.
func TestDisconnects(t *testing.T) {
	began := time.Now()
	after := func(seconds int) time.Time { return began.Add(time.Duration(seconds) * time.Second) }
	at := func(seq uint64) e2e.Position { return e2e.Position{Epoch: "abc", Seq: seq} }
	ledger := new(e2e.Ledger)
	ledger.Add(e2e.Entry{Position: at(1), N: 1, Sent: after(10)})
	for name, test := range map[string]struct {
		d      disconnect
		opened time.Time
		want   int
	}{
		"of all":               {disconnect{began: after(5), ended: after(6)}, after(4), 1},
		"of alice":             {disconnect{"alice", after(5), after(6)}, after(4), 1},
		"of bob":               {disconnect{"bob", after(5), after(6)}, after(4), 0},
		"another stream since": {disconnect{began: after(5), ended: after(6)}, after(5), 0},
		"not yet answered":     {disconnect{began: after(5), ended: after(11)}, after(4), 0},
	} {
		t.Run(name, func(t *testing.T) {
			for _, l := range []*fileChanges{nil, {}} {
				h := &hub{name: "default", ledger: ledger, changes: l, disconnects: []disconnect{test.d}}
				tr := &trace{
					hub: h, id: e2e.Identity{User: "alice"}, start: at(0), final: true,
					received: []e2e.Received{{Position: at(1), N: 1, At: after(20), Stream: test.opened}},
				}
				v := (&world{hubs: []*hub{h}, traces: []*trace{tr}}).judge()
				if v.disconnected != test.want || v.bad() != test.want {
					t.Errorf("deliveries after a disconnect: got %d, want %d: %q", v.disconnected, test.want, v.findings)
				}
			}
		})
	}
	h := &hub{name: "default", ledger: ledger}
	tr := &trace{hub: h, start: at(1), last: at(1), closings: []string{"shutdown", "hub_closed"}}
	if v := (&world{hubs: []*hub{h}, traces: []*trace{tr}}).judge(); v.other != 1 {
		t.Errorf("faults of the reason hub_closed: got %d, want 1", v.other)
	}
}

// TestFileJudge: the judge finds each kind of fault of a hub whose file was changed. Epoch a was
// restored to its position 3 and continued; then epoch b began.
func TestFileJudge(t *testing.T) {
	at := func(epoch string, seq uint64, tag string) e2e.Position {
		return e2e.Position{Epoch: epoch, Seq: seq, Tag: tag}
	}
	ledger := new(e2e.Ledger)
	n := int64(0)
	add := func(to e2e.Target, positions ...e2e.Position) {
		for _, p := range positions {
			n++
			ledger.Add(e2e.Entry{Position: p, N: n, Size: 10, To: to})
		}
	}
	add(e2e.Everybody, at("a", 1, "1111"), at("a", 2, "2222"), at("a", 3, "3333"), at("a", 4, "44ff"), at("a", 5, "55ff"))
	l := &fileChanges{restores: []restore{{acknowledged: 5, head: at("a", 3, "")}}, touches: 2}
	add(e2e.Everybody, at("a", 4, "4444"), at("a", 5, "5555")) // 6, 7
	add(e2e.To("user", "bob"), at("a", 6, "6666"))             // 8
	add(e2e.Everybody, at("b", 1, "1111"), at("b", 2, "2222")) // 9, 10

	event := func(n int64) e2e.Received {
		e := ledger.Entries()[n-1]
		return e2e.Received{Position: e.Position, N: n, Size: 10}
	}
	events := func(numbers ...int64) (r []e2e.Received) {
		for _, n := range numbers {
			r = append(r, event(n))
		}
		return r
	}
	gap := func(after, to e2e.Position) e2e.Received {
		return e2e.Received{Gap: "epoch", After: after, Position: to}
	}
	toB := gap(at("a", 6, "6666"), at("b", 0, ""))
	branched := gap(at("a", 5, "55ff"), at("a", 0, ""))
	another := event(9)
	another.N = 2
	copied := event(2) // from a copy that started another epoch
	copied.Position = at("c", 1, "2222")
	twice := new(e2e.Ledger)
	twice.Add(e2e.Entry{Position: at("a", 1, "1111"), N: 1}, e2e.Entry{Position: at("a", 1, "1111"), N: 2})

	for name, test := range map[string]struct {
		received []e2e.Received
		last     e2e.Position // none: the client was open at the end
		want     verdict
	}{
		"all events with the required gaps": {
			received: slices.Concat(events(1, 2, 3, 4, 5), []e2e.Received{branched}, events(1, 2, 3, 6, 7), []e2e.Received{toB}, events(9, 10)),
			want:     verdict{deliveries: 12, gaps: 2},
		},
		"disconnected during the restore": {
			received: slices.Concat(events(1, 2, 3, 6, 7), []e2e.Received{toB}, events(9, 10)),
			want:     verdict{deliveries: 7, gaps: 1},
		},
		"from one branch to another without a gap": {
			received: slices.Concat(events(1, 2, 3, 4, 7), []e2e.Received{toB}, events(9, 10)),
			want:     verdict{deliveries: 7, gaps: 1, falseGaps: 1},
		},
		"an event is missing on the first branch": {
			received: events(1, 2, 3, 5), last: at("a", 5, "55ff"),
			want: verdict{deliveries: 4, lost: 1},
		},
		"the last is missing on the first branch": {
			received: events(1, 2, 3, 4), last: at("a", 5, "55ff"),
			want: verdict{deliveries: 4, lost: 1},
		},
		"a restored event is missing": {
			received: events(1, 3, 6, 7), last: at("a", 5, "5555"),
			want: verdict{deliveries: 4, lost: 1},
		},
		"the last is missing": {
			received: slices.Concat(events(1, 2, 3, 6, 7), []e2e.Received{toB}, events(9)),
			want:     verdict{deliveries: 6, gaps: 1, lost: 1},
		},
		"it stayed in the previous epoch": {
			received: events(1, 2, 3, 6, 7),
			want:     verdict{deliveries: 5, other: 1},
		},
		"another event than the acknowledged one": {
			received: []e2e.Received{toB, another, event(10)},
			want:     verdict{deliveries: 2, gaps: 1, foreign: 1, lost: 1},
		},
		"an event of a copy": {
			received: slices.Concat([]e2e.Received{gap(at("a", 6, "6666"), at("c", 0, "")), copied, gap(copied.Position, at("b", 0, ""))}, events(9, 10)),
			want:     verdict{deliveries: 3, gaps: 2},
		},
		"an event twice": {
			received: slices.Concat(events(1, 2, 3, 3), []e2e.Received{toB}, events(9, 10)),
			want:     verdict{deliveries: 6, gaps: 1, doubled: 1},
		},
		"out of order": {
			received: events(1, 3, 2), last: at("a", 3, "3333"),
			want: verdict{deliveries: 3, lost: 1, disordered: 1},
		},
		"an event of bob": {
			received: events(1, 2, 3, 6, 7, 8), last: at("a", 6, "6666"),
			want: verdict{deliveries: 6, foreign: 1},
		},
		"a gap but nothing was restored": {
			received: slices.Concat([]e2e.Received{gap(at("a", 2, "2222"), at("a", 2, "2222"))}, events(3, 6, 7)), last: at("a", 5, "5555"),
			want: verdict{deliveries: 3, gaps: 1, falseGaps: 1},
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := &hub{name: "files", ledger: ledger, changes: l}
			tr := &trace{
				hub: h, id: e2e.Identity{User: "alice"}, start: at("a", 0, ""), last: test.last,
				final: test.last.Epoch == "", received: test.received,
			}
			got := (&world{hubs: []*hub{h}, traces: []*trace{tr}}).judge()
			if test.want.events, test.want.clients = 10, 1; got.String() != test.want.String() {
				t.Errorf("got\n%s\nwant\n%s\n%q", got, test.want.String(), got.findings)
			}
		})
	}
	for name, h := range map[string]*hub{
		"two events with one position": {ledger: twice, changes: new(fileChanges)},
		"too many epochs":              {ledger: ledger, changes: new(fileChanges)},
	} {
		if v := (&world{hubs: []*hub{h}}).judge(); v.other != 1 {
			t.Errorf("faults of %s: got %d, want 1", name, v.other)
		}
	}
}
