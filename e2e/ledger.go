package e2e

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// Target is the target of an event: one field of the API with its names, or everybody.
type Target struct {
	Field string // user, session or topic; empty: everybody
	Names []string
}

// To returns a target with names.
func To(field string, names ...string) Target { return Target{field, names} }

// Everybody is the target of a broadcast.
var Everybody Target

// Matches reports whether the event is for the identity.
func (t Target) Matches(id Identity) bool {
	topics := id.Topics
	if len(topics) == 0 {
		topics = []string{"news/*", "sport/*"} // of Server.caddyfile
	}
	return t.Field == "" || slices.ContainsFunc(t.Names, func(name string) bool {
		switch t.Field {
		case "user":
			return name == id.User
		case "session":
			return name == id.Session
		}
		return slices.ContainsFunc(topics, func(topic string) bool {
			prefix, all := strings.CutSuffix(topic, "*")
			return topic == name || all && strings.HasPrefix(name, prefix)
		})
	})
}

// Entry is one acknowledged event.
type Entry struct {
	Position Position
	N        int64 // unique number of the event
	Size     int   // bytes of its data
	To       Target
	Sent     time.Time // first attempt
}

// Hole is a position whose record is gone or unreadable. The record may have been for any
// client.
type Hole struct {
	Position Position
	At       time.Time // upper bound of the time from which on the record was gone
}

// Ledger records the acknowledged events. It may be used from any goroutine.
type Ledger struct {
	mu      sync.Mutex
	entries []Entry
	holes   []Hole
}

// AddHole records a hole. It justifies a gap for clients that were before it, but does not
// require one: a node may have had the record in memory.
func (l *Ledger) AddHole(h Hole) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.holes = append(l.holes, h)
}

// Holes returns all holes.
func (l *Ledger) Holes() []Hole {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.holes)
}

// Justifies reports whether a hole explains a gap.
func (l *Ledger) Justifies(gap Received) bool {
	return slices.ContainsFunc(l.Holes(), func(h Hole) bool {
		return h.Position.Epoch == gap.After.Epoch && h.Position.Seq > gap.After.Seq && !h.At.After(gap.At)
	})
}

// Add records acknowledged events.
func (l *Ledger) Add(entries ...Entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries = append(l.entries, entries...)
}

// Len returns the number of acknowledged events.
func (l *Ledger) Len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.entries)
}

// Entries returns all entries, in the order of acknowledgment.
func (l *Ledger) Entries() []Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.entries)
}

// Last returns the entry that was acknowledged last, if there is one.
func (l *Ledger) Last() (last Entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.entries); n > 0 {
		last = l.entries[n-1]
	}
	return last
}

// Expected returns the events of an epoch for the identity after seq, in order.
func (l *Ledger) Expected(id Identity, epoch string, seq uint64) []Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	var expected []Entry
	for _, e := range l.entries {
		if e.Position.Epoch == epoch && e.Position.Seq > seq && e.To.Matches(id) {
			expected = append(expected, e)
		}
	}
	slices.SortFunc(expected, func(a, b Entry) int { return int(int64(a.Position.Seq - b.Position.Seq)) })
	return expected
}

// Received is an event or a gap that a follower received.
type Received struct {
	Position Position
	N        int64
	Size     int
	Gap      string   // reason of a gap; Position is then the position after it
	After    Position // position before the gap
	At       time.Time
	Stream   time.Time // when its stream sent sse.connected
}

func (r Received) String() string {
	if r.Gap != "" {
		return fmt.Sprintf("gap %s to %s", r.Gap, r.Position)
	}
	return fmt.Sprintf("event %d (%d B) at %s", r.N, r.Size, r.Position)
}

// Compare compares the events received from start on with the acknowledged ones. A gap
// excuses missing events before its position, in its epoch. It is a fault if no event is
// missing there and no hole explains it.
func (l *Ledger) Compare(id Identity, start Position, received []Received) error {
	expected := l.Expected(id, start.Epoch, start.Seq)
	last := start
	for i, r := range received {
		if r.Gap != "" {
			rest := slices.IndexFunc(expected, func(e Entry) bool { return e.Position.Seq > r.Position.Seq })
			switch {
			case r.Position.Epoch != last.Epoch:
				expected = l.Expected(id, r.Position.Epoch, r.Position.Seq)
			case (rest == 0 || len(expected) == 0) && !l.Justifies(r):
				return fmt.Errorf("%+v received %s after %s, want no gap because no event is missing", id, r, last)
			case rest < 0:
				expected = nil
			default:
				expected = expected[rest:]
			}
			last = r.Position
			continue
		}
		if len(expected) == 0 {
			return fmt.Errorf("%+v received %s (its %d. of %d), want no event that was never acknowledged or is for others", id, r, i+1, len(received))
		}
		e := expected[0]
		if !e.Position.Is(r.Position) || e.N != r.N || e.Size != r.Size {
			return fmt.Errorf("%+v received %s (its %d. of %d) after %s, want event %d (%d B) for %v at %s",
				id, r, i+1, len(received), last, e.N, e.Size, e.To, e.Position)
		}
		expected, last = expected[1:], r.Position
	}
	if len(expected) > 0 {
		return fmt.Errorf("%+v did not receive the last %d of its events, from %d at %s on; it has %d, the last at %s",
			id, len(expected), expected[0].N, expected[0].Position, len(received), last)
	}
	return nil
}
