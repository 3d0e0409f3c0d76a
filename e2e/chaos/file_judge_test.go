package chaos

import (
	"slices"

	"github.com/ea766355/caddy-sse/e2e"
)

// fileChanges records how the file of a hub is copied, restored, truncated and removed. Only the
// goroutine of the test uses it.
type fileChanges struct {
	file     string // path of the file in use
	copied   string // epoch at the time when it was copied from the other file; empty: no copy
	restores []restore
	touches  int // changes after which a new epoch may begin
}

// other is the file that is not in use.
func (l *fileChanges) other() string {
	if l.file == "a.db" {
		return "b.db"
	}
	return "a.db"
}

// restore is a copy that was put back while no server ran. Events that were acknowledged before
// may not be in it.
type restore struct {
	acknowledged int // number of events acknowledged before
	head         e2e.Position
}

// fileJudge judges the clients of such a hub. A restore starts a new branch of an epoch. On a
// branch no event may be missing without a gap. Between branches and between epochs a gap is
// required, after which come the retained events.
type fileJudge struct {
	*verdict
	hub     *hub
	at      map[e2e.Position]int // index in the ledger of each position
	numbers map[int64]e2e.Entry
	epochs  map[string][]int // ledger indexes of an epoch's entries, by seq
	entries []e2e.Entry
	final   string // epoch at the end
}

func newFileJudge(v *verdict, h *hub) *fileJudge {
	c := &fileJudge{
		verdict: v, hub: h, entries: h.ledger.Entries(),
		at: make(map[e2e.Position]int), numbers: make(map[int64]e2e.Entry), epochs: make(map[string][]int),
	}
	v.events += len(c.entries)
	for i, e := range c.entries {
		if other, twice := c.at[e.Position]; twice {
			v.find(&v.other, 1, nil, "%s: events %d and %d were both acknowledged at %s", h.name, c.entries[other].N, e.N, e.Position)
		}
		c.at[e.Position], c.numbers[e.N], c.final = i, e, e.Position.Epoch
		c.epochs[e.Position.Epoch] = append(c.epochs[e.Position.Epoch], i)
	}
	for _, places := range c.epochs {
		slices.SortStableFunc(places, func(a, b int) int {
			return int(int64(c.entries[a].Position.Seq - c.entries[b].Position.Seq))
		})
	}
	if len(c.epochs) > 1+h.changes.touches {
		v.find(&v.other, 1, nil, "%s: got %d epochs after %d changes of the file, want at most one more than changes", h.name, len(c.epochs), h.changes.touches)
	}
	return c
}

// isUndone reports whether a restore undid an event before the event at another index was
// acknowledged.
func (l *fileChanges) isUndone(place int, at e2e.Position, before int) bool {
	return slices.ContainsFunc(l.restores, func(r restore) bool {
		return place < r.acknowledged && r.acknowledged <= before && r.head.Epoch == at.Epoch && at.Seq > r.head.Seq
	})
}

// between returns the events for the identity between two positions of an epoch, on the branch of
// the event at an index.
func (c *fileJudge) between(id e2e.Identity, epoch string, after, before uint64, branch int) (found []e2e.Entry) {
	for _, place := range c.epochs[epoch] {
		e := c.entries[place]
		// Events of a later branch do not belong to the branch of that index.
		if e.Position.Seq > after && e.Position.Seq < before && e.To.Matches(id) &&
			!c.hub.changes.isUndone(place, e.Position, branch) && !c.hub.changes.isUndone(branch, e.Position, place) {
			found = append(found, e)
		}
	}
	return found
}

// try judges one client.
func (c *fileJudge) try(tr *trace) {
	if tr.start.Epoch == "" {
		return
	}
	at := tr.start
	seen := make(map[int64]bool) // events since the last gap
	before := -1                 // ledger index of the last event since then; -1: not known
	for i, r := range tr.received {
		if r.Gap != "" {
			c.gap(tr, i)
			at, before = r.Position, -1
			clear(seen)
			continue
		}
		c.deliveries++
		e, known := c.numbers[r.N]
		place, here := c.at[r.Position]
		switch {
		case !known || here && c.entries[place].N != r.N || e.Size != r.Size:
			c.find(&c.foreign, 1, tr, "%s was never acknowledged\n%s", r, tr.around(i))
		case !e.To.Matches(tr.id):
			c.find(&c.foreign, 1, tr, "%s was for %v\n%s", r, e.To, tr.around(i))
		case seen[r.N]:
			c.find(&c.doubled, 1, tr, "%s came again\n%s", r, tr.around(i))
		case r.Position.Epoch != at.Epoch || r.Position.Seq <= at.Seq:
			c.find(&c.disordered, 1, tr, "%s came after %s\n%s", r, at, tr.around(i))
		case before >= 0 && here && c.hub.changes.isUndone(before, at, place):
			c.find(&c.falseGaps, 1, tr, "it got no gap between %s and %s\n%s", at, r, tr.around(i))
			at = r.Position
		default:
			c.ended(tr, i, e)
			before = -1
			if here { // else it was acknowledged after another restore, and sent again
				c.missing(tr, i, c.between(tr.id, at.Epoch, at.Seq, r.Position.Seq, place))
				before = place
			}
			at = r.Position
		}
		seen[r.N] = true
	}
	end := len(tr.received)
	if place, here := c.at[tr.last]; here && !tr.final && tr.last.Epoch == at.Epoch {
		c.missing(tr, end, c.between(tr.id, at.Epoch, at.Seq, tr.last.Seq+1, place))
	}
	if tr.final {
		if at.Epoch != c.final {
			c.find(&c.other, 1, tr, "its epoch is %s, but that of the history is %s\n%s", at.Epoch, c.final, tr.around(end))
		}
		c.missing(tr, end, c.between(tr.id, at.Epoch, at.Seq, forever, len(c.entries)))
	}
}

func (c *fileJudge) missing(tr *trace, i int, lost []e2e.Entry) {
	if len(lost) > 0 {
		c.find(&c.lost, len(lost), tr, "%d events are missing, the first is %d for %v at %s\n%s", len(lost), lost[0].N, lost[0].To, lost[0].Position, tr.around(i))
	}
}

// gap judges a gap: the client was in another epoch, or on an abandoned branch.
func (c *fileJudge) gap(tr *trace, i int) {
	c.gaps++
	g := tr.received[i]
	left := slices.ContainsFunc(c.hub.changes.restores, func(r restore) bool {
		return r.head.Epoch == g.After.Epoch && g.After.Seq > r.head.Seq
	})
	if !left && (g.Gap != "epoch" || g.After.Epoch == g.Position.Epoch) {
		c.find(&c.falseGaps, 1, tr, "it got %s after %s, but the history did not change\n%s", g, g.After, tr.around(i))
	}
}

// isBehind reports whether a client has events to receive.
func (l *fileChanges) isBehind(ledger *e2e.Ledger, id e2e.Identity, last e2e.Position) bool {
	entries := ledger.Entries()
	if n := len(entries); n > 0 && entries[n-1].Position.Epoch != last.Epoch {
		return true
	}
	for i, e := range entries {
		if e.Position.Epoch == last.Epoch && e.Position.Seq > last.Seq && e.To.Matches(id) && !l.isUndone(i, e.Position, len(entries)) {
			return true
		}
	}
	return false
}
