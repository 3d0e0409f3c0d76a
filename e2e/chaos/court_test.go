package chaos

import (
	"testing"
	"time"

	"github.com/ea766355/caddy-sse/e2e"
)

// TestCourt shows the court all that it is to find.
func TestCourt(t *testing.T) {
	const epoch = "abc"
	began := time.Now()
	after := func(seconds int) time.Time { return began.Add(time.Duration(seconds) * time.Second) }
	at := func(seq uint64) e2e.Position { return e2e.Position{Epoch: epoch, Seq: seq} }
	// Each second an event: those with odd numbers are for alice, the others for bob.
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
		last     uint64 // 0: it was there to the end
		received []e2e.Received
		want     verdict
	}{
		"all":              {received: append(events(5, 7, 9), rest...), want: verdict{deliveries: 8}},
		"it left":          {last: 8, received: events(5, 7), want: verdict{deliveries: 2}},
		"it left too late": {last: 9, received: events(5, 7), want: verdict{deliveries: 2, lost: 1}},
		"none":             {want: verdict{lost: 8}},
		"one is missing":   {received: append(events(5, 9), rest...), want: verdict{deliveries: 7, lost: 1}},
		"the last":         {received: append(events(5, 7, 9), rest[:4]...), want: verdict{deliveries: 7, lost: 1}},
		"twice":            {received: append(events(5, 7, 7, 9), rest...), want: verdict{deliveries: 9, doubled: 1}},
		"before its start": {received: append(events(3, 5, 7, 9), rest...), want: verdict{deliveries: 9, disordered: 1}},
		"bob's":            {received: append(events(5, 6, 7, 9), rest...), want: verdict{deliveries: 9, foreign: 1}},
		"nobody's":         {received: append(append(events(5, 7, 9), rest...), event(21)), want: verdict{deliveries: 9, foreign: 1}},
		"a gap where all is retained": {
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
		"the same after a restart": {
			bound: 3, launched: after(14), received: append(append(events(5, 7, 9), gap(9, 10, 15)), rest...),
			want: verdict{deliveries: 8, gaps: 1, inDoubt: 1},
		},
		"the same, and what came before was read after the restart": {
			bound: 3, launched: after(14), received: append(append(events(5, 7), late(event(9), 15), gap(9, 10, 16)), rest...),
			want: verdict{deliveries: 8, gaps: 1, inDoubt: 1},
		},
		"the same after a restart that loads the next one": {
			bound: 3, launched: after(12), received: append(append(events(5, 7, 9), gap(9, 10, 15)), rest...),
			want: verdict{deliveries: 8, gaps: 1, falseGaps: 1},
		},
		"the same before a restart": {
			bound: 3, launched: after(16), received: append(append(events(5, 7, 9), gap(9, 10, 15)), rest...),
			want: verdict{deliveries: 8, gaps: 1, falseGaps: 1},
		},
		"a gap after one that is missing": {
			bound: 3, received: append(append(events(5), gap(8, 9, 12)), rest...),
			want: verdict{deliveries: 6, gaps: 1, lost: 1},
		},
		"a gap, and then one is missing": {
			bound: 3, received: append([]e2e.Received{gap(4, 9, 12)}, rest[1:]...),
			want: verdict{deliveries: 4, gaps: 1, lost: 1},
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := &hub{name: "default", bound: test.bound, ledger: ledger}
			c := newCourt(new(verdict), h, []time.Time{test.launched})
			c.try(&trace{
				hub: h, id: e2e.Identity{User: "alice"}, since: began, start: at(4), last: at(test.last),
				final: test.last == 0, received: test.received,
			})
			got := *c.verdict
			if test.want.events, test.want.clients = 20, 1; got.bad() > 0 != (len(got.findings) > 0) {
				t.Errorf("%d findings: %q", got.bad(), got.findings)
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
		if c := newCourt(new(verdict), &hub{ledger: ledger}, nil); c.other != 1 {
			t.Error("a position that nobody was given was not found")
		}
	})
}
