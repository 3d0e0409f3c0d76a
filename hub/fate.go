package hub

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"time"
)

// StartedFrom says where the cursor of a connection began.
type StartedFrom string

// Values of StartedFrom.
const (
	StartedFromHead     StartedFrom = "fresh"    // the head: the client gave no position
	StartedFromState    StartedFrom = "state"    // the newest event of each slot: Request.State
	StartedFromEarliest StartedFrom = "earliest" // the oldest retained event: [Earliest]
	StartedFromPosition StartedFrom = "position" // the client's position
)

// startedFrom is an index in startedFromNames. Connections keep it because it is small.
type startedFrom uint8

var startedFromNames = [...]StartedFrom{StartedFromHead, StartedFromState, StartedFromEarliest, StartedFromPosition}

// startedFromOf returns where the cursor of a connection with this Request.Position and
// Request.State begins.
func startedFromOf(position string, state bool) startedFrom {
	how := StartedFromPosition
	switch {
	case position == "" && state:
		how = StartedFromState
	case position == "":
		how = StartedFromHead
	case position == Earliest:
		how = StartedFromEarliest
	}
	return startedFrom(slices.Index(startedFromNames[:], how))
}

// Fate says what became of an event for one connection.
type Fate string

// Values of Fate.
const (
	FateDelivered    Fate = "delivered"     // the event was written to the connection
	FatePending      Fate = "pending"       // it will be written
	FateBehind       Fate = "behind"        // it has not reached this node
	FateReplaced     Fate = "replaced"      // the newest event of its slot is sent instead
	FateExpired      Fate = "expired"       // its ttl passed before it was written
	FateLost         Fate = "lost"          // it was evicted, perhaps before it was written; the client gets sse.gap
	FateCut          Fate = "cut"           // the connection ended before it was written
	FateUnknown      Fate = "unknown"       // it was for the connection, and may have been written
	FatePassed       Fate = "passed"        // it is evicted; if it was for the connection, it was written
	FateNotAddressed Fate = "not_addressed" // it was for other connections
	FateRefused      Fate = "refused"       // the connection was not admitted
	FateCameLater    Fate = "came_later"    // the connection began after it
	FateEndedEarlier Fate = "ended_earlier" // the connection had ended before it
)

// Fates lists all fates, the best first.
var Fates = []Fate{
	FateDelivered, FatePending, FateBehind, FateReplaced, FateExpired, FateLost, FateCut, FateUnknown,
	FatePassed, FateNotAddressed, FateRefused, FateCameLater, FateEndedEarlier,
}

// fateOf returns what became of the event. lastLost returns the last position that is lost
// to the connection; it is called at most once, and may lock Hub.mu. f is a copy that
// nobody else has. The caller must not hold Hub.mu.
func (f *endedConn) fateOf(s *subject, lastLost func() uint64) Fate {
	open := f.ended.IsZero()
	switch {
	case f.id == "":
		return FateRefused
	case f.epoch != s.epoch:
		if open {
			return FatePending // it has yet to move to the new history
		}
		return FateEndedEarlier
	case s.seq <= f.start:
		return FateCameLater
	case s.Known == KnownAhead && open:
		return FateBehind
	case s.Known == KnownAhead || s.seq > f.limit:
		return FateEndedEarlier
	case s.Known == KnownEvicted:
		return f.fateOfEvicted(s, lastLost())
	case !f.isFor(s):
		return FateNotAddressed
	case s.seq <= f.stateEnd && !s.Slot:
		return FateCameLater
	case f.cursor >= s.seq && f.partialSeq != s.seq:
		return f.fateOfPassed(s)
	case s.Known == KnownExpired:
		return FateExpired
	case s.Known == KnownReplaced:
		return FateReplaced
	case open:
		return FatePending
	}
	return FateCut
}

// fateOfPassed is fateOf for an event that the cursor has passed: it was written, or was
// left out because it was replaced or its ttl had passed. FateUnknown: it is not known
// which. Only fateOf calls it.
func (f *endedConn) fateOfPassed(s *subject) Fate {
	switch {
	case s.Known == KnownReplaced && f.since.After(s.Replaced):
		return FateReplaced
	case s.Known == KnownReplaced: // no lane has it any more, so it is not known whether it was left out
		return FateUnknown
	case s.seq == f.skipped, s.Known == KnownExpired && !f.since.Before(s.Expires):
		return FateExpired
	case s.seq > f.skipped, s.Known == KnownRetained:
		return FateDelivered
	}
	return FateUnknown
}

// fateOfEvicted is fateOf for an evicted event. last is the last position that is lost to
// the connection; more is not known of evicted events. Events whose ttl had passed are not
// counted as lost. Only fateOf calls it.
func (f *endedConn) fateOfEvicted(s *subject, last uint64) Fate {
	switch {
	case last < s.seq:
		return FateNotAddressed
	case f.cursor < s.seq, f.lost >= s.seq:
		return FateLost
	}
	return FatePassed
}

// isFor reports whether the event was for the connection, with the topics that the
// connection had at its end. It reads only static fields.
func (f *endedConn) isFor(s *subject) bool {
	return slices.ContainsFunc(f.targets(), func(t Target) bool { return s.isFor(t) && f.addedAt(t) < s.seq })
}

// targets returns all targets by which the connection receives events. The result is new.
// It reads only static fields.
func (f *endedConn) targets() []Target {
	targets := append(make([]Target, 0, len(f.topics)+4), Target{}, Target{Connection, f.id})
	if f.user != "" {
		targets = append(targets, Target{User, f.user})
	}
	if f.session != "" {
		targets = append(targets, Target{Session, f.session})
	}
	return append(targets, f.topics...)
}

// addedAt returns the position where the connection was given the target; 0: it began with
// it, or does not have it.
func (f *endedConn) addedAt(t Target) uint64 {
	if i := slices.IndexFunc(f.addedTopics, func(l addedTopic) bool { return l.topic == t }); i >= 0 {
		return f.addedTopics[i].from
	}
	return 0
}

// writtenBy returns a time by which the event that was published at this time was written,
// if it was. It is not later than now.
func (f *endedConn) writtenBy(published, now time.Time) time.Time {
	if published.Before(f.since) {
		published = f.since
	}
	if by := published.Add(f.slowest); by.Before(now) {
		return by
	}
	return now
}

// lastLost returns the last position that is lost to a connection, and at least the floor
// of the history. known caches the result by target. Any goroutine may call it, with a
// cache of its own. The caller must not hold Hub.mu.
func (h *Hub) lastLost(f *endedConn, known map[Target]uint64) (last uint64) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	for _, t := range f.targets() {
		lost, looked := known[t]
		if !looked {
			lost = h.history.lastLost(t)
			known[t] = lost
		}
		if lost > last && lost > f.addedAt(t) {
			last = lost
		}
	}
	return last
}

// explainTopics finds out where the connection was given or lost a topic of the event, and
// sets j.added and j.removed. If it lost the topic after the event, the event may have been
// written before: then the fate becomes FateUnknown. The caller must not hold Hub.mu.
func (h *Hub) explainTopics(j *judged, s *subject) {
	for _, l := range j.addedTopics {
		if s.isFor(l.topic) {
			j.added = l.from
		}
	}
	for _, c := range h.changesOf(j.id) {
		if slices.ContainsFunc(c.removed, func(name string) bool { return s.isFor(Target{Topic, name}) }) {
			j.removed = c.seq
			break
		}
	}
	if j.removed > s.seq && j.cursor >= s.seq {
		j.fate = FateUnknown
	}
}

// change says which topics a command took from a connection.
type change struct {
	seq     uint64
	removed []string
}

// maxChanges bounds how many of the events for a connection changesOf looks at.
const maxChanges = 1000

// changesOf lists the retained changes of a connection's topics, newest first. It looks at
// maxChanges events at most. Any goroutine may call it. The caller must not hold Hub.mu.
func (h *Hub) changesOf(id string) (changes []change) {
	type record struct {
		seq   uint64
		frame frame
	}
	var records []record
	h.mu.RLock()
	if l := h.history.lanes[Target{Connection, id}]; l != nil {
		for _, seq := range slices.Backward(l.seqs[max(0, len(l.seqs)-maxChanges):]) {
			if f := h.history.entry(seq).frame; f.name() == EventTopics {
				records = append(records, record{seq, f})
			}
		}
	}
	h.mu.RUnlock()
	for _, r := range records {
		var c struct{ Removed []string }
		if json.Unmarshal([]byte(r.frame.data()), &c) == nil {
			changes = append(changes, change{r.seq, c.Removed})
		}
	}
	return changes
}

// name returns the type of the event; "": it has none, or f is the zero frame. It needs no
// lock, because the bytes of a frame never change.
func (f frame) name() string {
	if f.bytes == nil {
		return ""
	}
	line, _, _ := bytes.Cut(f.block(), []byte{'\n'})
	if name, ok := bytes.CutPrefix(line, []byte("event: ")); ok {
		return string(name)
	}
	return ""
}

// data returns the payload; "": there is none, or f is the zero frame. Its lines end with
// LF. It needs no lock, because the bytes of a frame never change.
func (f frame) data() string {
	if f.bytes == nil {
		return ""
	}
	var lines []string
	for line := range strings.Lines(string(f.block())) {
		if value, ok := strings.CutPrefix(line, "data: "); ok {
			lines = append(lines, strings.TrimSuffix(value, "\n"))
		}
	}
	return strings.Join(lines, "\n")
}
