package chaos

import (
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/ea766355/caddy-sse/e2e"
)

// verdict is the result of judging.
type verdict struct {
	events, deliveries, streams, clients int
	lost, doubled, disordered, foreign   int // deliveries
	disconnected                         int // deliveries to users that had been disconnected
	gaps, inDoubt, falseGaps             int // received gaps
	other                                int // faults found by clients and ledgers
	rights                               e2e.Rights
	findings                             []string
	of                                   *trace // client of the last gap in doubt
}

// bad returns the number of faults.
func (v *verdict) bad() int {
	return v.lost + v.doubled + v.disordered + v.foreign + v.disconnected + v.falseGaps + v.other +
		v.rights.Unlawful + v.rights.Withheld + v.rights.Misreported
}

// enough is how many faults are described in full.
const enough = 10

// find counts a fault of a client, or of a hub if tr is nil. It describes the first fault of each
// client.
func (v *verdict) find(count *int, n int, tr *trace, format string, args ...any) {
	*count += n
	if len(v.findings) == enough || tr != nil && tr == v.of {
		return
	}
	v.of = tr
	what := fmt.Sprintf(format, args...)
	if tr != nil {
		what = tr.String() + "\n" + what
	}
	v.findings = append(v.findings, what)
}

// disconnect is an answered request to disconnect.
type disconnect struct {
	user         string // empty: all users
	began, ended time.Time
}

// concerns reports whether the disconnect forbids to deliver an event on a stream that was open at
// that time.
func (d disconnect) concerns(id e2e.Identity, e e2e.Entry, opened time.Time) bool {
	return (d.user == "" || d.user == id.User) && opened.Before(d.began) && e.Sent.After(d.ended)
}

// hubJudge judges the clients of a hub.
type hubJudge struct {
	*verdict
	hub      *hub
	launched []time.Time
	entries  []e2e.Entry // by position
	epoch    string
}

// common judges the parts that are the same for all hubs.
func (v *verdict) common(tr *trace) {
	v.clients++
	v.streams += tr.streams
	if tr.err != nil {
		v.find(&v.other, 1, tr, "%v\n%s", tr.err, tr.around(len(tr.received)))
	}
	// Each config has a route for each hub, or is refused.
	if slices.Contains(tr.closings, "hub_closed") {
		v.find(&v.other, 1, tr, "it got the reason hub_closed: %q", tr.closings)
	}
	if tr.start.Epoch == "" && tr.final {
		v.find(&v.other, 1, tr, "it was never connected\n%s", tr.around(0))
	}
}

// ended judges a delivery against the disconnects.
func (v *verdict) ended(tr *trace, i int, e e2e.Entry) {
	for _, d := range tr.hub.disconnects {
		if d.concerns(tr.id, e, tr.received[i].Stream) {
			v.find(&v.disconnected, 1, tr, "%s was sent after a disconnect of %q had been answered, at %s\n%s",
				tr.received[i], d.user, d.ended.Format(time.TimeOnly+".000"), tr.around(i))
			return
		}
	}
}

func (w *world) judge() *verdict {
	v := new(verdict)
	for _, h := range w.hubs {
		var try func(*trace)
		if h.changes != nil {
			try = newFileJudge(v, h).try
		} else {
			try = newHubJudge(v, h, w.launched).try
		}
		for _, tr := range w.traces {
			if tr.hub == h {
				v.common(tr)
				try(tr)
			}
		}
		v.judgeMembers(h)
	}
	v.findings = append(v.findings, v.rights.Findings[:min(enough, len(v.rights.Findings))]...)
	return v
}

// newHubJudge also judges the ledger: a position that is neither an acknowledged event nor a command
// means that an event was stored twice.
func newHubJudge(v *verdict, h *hub, launched []time.Time) *hubJudge {
	c := &hubJudge{verdict: v, hub: h, launched: launched, entries: h.ledger.Entries()}
	slices.SortFunc(c.entries, func(a, b e2e.Entry) int { return int(int64(a.Position.Seq - b.Position.Seq)) })
	v.events += len(c.entries)
	unknown, due := 0, uint64(1)
	for i, e := range c.entries {
		if i == 0 {
			c.epoch = e.Position.Epoch
		}
		for ; due < e.Position.Seq; due++ {
			if _, command := h.commands[due]; !command {
				unknown++
			}
		}
		if e.Position.Epoch != c.epoch || e.Position.Seq != due || unknown > h.failed {
			v.find(&v.other, 1, nil, "%s: acknowledged event %d is at %s, where %s-%d is due, after %d positions without an event; %d changes of topics were not answered",
				h.name, e.N, e.Position, c.epoch, due, unknown, h.failed)
			break
		}
		due++
	}
	return c
}

// between returns the events for the identity between two positions, exclusive.
func (c *hubJudge) between(id e2e.Identity, after, before uint64) []e2e.Entry {
	var found []e2e.Entry
	from := sort.Search(len(c.entries), func(i int) bool { return c.entries[i].Position.Seq > after })
	for _, e := range c.entries[from:] {
		if e.Position.Seq >= before {
			break
		}
		if e.To.Matches(id) {
			found = append(found, e)
		}
	}
	return found
}

func (c *hubJudge) entry(seq uint64) (e2e.Entry, bool) {
	i, ok := slices.BinarySearchFunc(c.entries, seq, func(e e2e.Entry, seq uint64) int { return int(int64(e.Position.Seq - seq)) })
	if !ok {
		return e2e.Entry{}, false
	}
	return c.entries[i], true
}

// forever is after all positions.
const forever = ^uint64(0)

// try judges one client.
func (c *hubJudge) try(tr *trace) {
	if tr.start.Epoch == "" {
		return
	}
	at := tr.start.Seq
	if tr.start.Epoch != c.epoch && len(c.entries) > 0 {
		c.find(&c.other, 1, tr, "its epoch is not %s", c.epoch)
		return
	}
	seen := make(map[uint64]bool)
	for i, r := range tr.received {
		if r.Gap != "" {
			at = c.gap(tr, i, at)
			continue
		}
		c.deliveries++
		e, ok := c.entry(r.Position.Seq)
		switch seq := r.Position.Seq; {
		case !ok || !e.Position.Is(r.Position) || e.N != r.N || e.Size != r.Size:
			c.find(&c.foreign, 1, tr, "%s was never acknowledged\n%s", r, tr.around(i))
		case !e.To.Matches(tr.id):
			c.find(&c.foreign, 1, tr, "%s was for %v\n%s", r, e.To, tr.around(i))
		case seen[seq]:
			c.find(&c.doubled, 1, tr, "%s came again\n%s", r, tr.around(i))
		case seq <= at:
			c.find(&c.disordered, 1, tr, "%s came after %d\n%s", r, at, tr.around(i))
		default:
			c.missing(tr, i, c.between(tr.id, at, seq))
			c.ended(tr, i, e)
			seen[seq], at = true, seq
		}
	}
	end := tr.last.Seq + 1
	if tr.final {
		end = forever
	}
	c.missing(tr, len(tr.received), c.between(tr.id, at, end))
}

func (c *hubJudge) missing(tr *trace, i int, lost []e2e.Entry) {
	if len(lost) > 0 {
		c.find(&c.lost, len(lost), tr, "%d events are missing, the first is %d for %v at %s\n%s", len(lost), lost[0].N, lost[0].To, lost[0].Position, tr.around(i))
	}
}

// gap judges a gap of a client that has everything up to at. The gap is real if the history had
// passed the client's position and had lost an event for the client. A process that was started
// since does not know events that it did not load, and sends a gap in doubt.
func (c *hubJudge) gap(tr *trace, i int, at uint64) uint64 {
	c.gaps++
	g := tr.received[i]
	// Up to its position the client has all its events, or a fault was found before.
	c.missing(tr, i, c.between(tr.id, at, g.After.Seq+1))
	at = max(at, g.After.Seq)
	missed := c.between(tr.id, at, g.Position.Seq+1)
	// The first retained event is the one after the gap. This many later events were needed to
	// evict the one before it.
	last, ok := c.entry(g.Position.Seq + c.hub.bound)
	evicted := c.hub.bound > 0 && g.Gap == "evicted" && g.Position.Epoch == c.epoch && g.Position.Seq > at && ok && last.Sent.Before(g.At)
	switch {
	case !evicted || len(missed) == 0 && !c.isDoubtful(at, g.At):
		c.find(&c.falseGaps, 1, tr, "it got %s after %d, but nothing was lost\n%s", g, at, tr.around(i))
		c.missing(tr, i, missed)
	case len(missed) == 0:
		c.inDoubt++
	}
	return max(at, g.Position.Seq)
}

// isDoubtful reports whether a process that was started before then may not have loaded the event
// after at: more events were sent before its start than it certainly loads. The time at which the
// client received the events up to at proves nothing, since a slow client may have read data of
// the previous process.
func (c *hubJudge) isDoubtful(at uint64, then time.Time) bool {
	next, ok := c.entry(at + 1 + c.hub.bound)
	return ok && slices.ContainsFunc(c.launched, func(t time.Time) bool { return next.Sent.Before(t) && t.Before(then) })
}

// around describes what a client received at about that time, and how its streams ended.
func (tr *trace) around(i int) string {
	const some = 8
	var b strings.Builder
	for n := max(0, i-some); n < min(len(tr.received), i+some); n++ {
		mark := "  "
		if n == i {
			mark = "> "
		}
		fmt.Fprintf(&b, "\t%s%s %s\n", mark, tr.received[n].At.Format(time.TimeOnly+".000"), tr.received[n])
	}
	fmt.Fprintf(&b, "\tits last streams ended with %q", tr.ends[max(0, len(tr.ends)-some):])
	return b.String()
}
