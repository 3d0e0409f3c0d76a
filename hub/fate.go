package hub

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"time"
)

// Came is how a connection came to its first position.
type StartedFrom string

// How connections come.
const (
	StartedFromHead     StartedFrom = "fresh"    // without a position: it began at the head
	StartedFromState    StartedFrom = "state"    // without one, for the newest event of each slot
	StartedFromEarliest StartedFrom = "earliest" // for all that is retained
	StartedFromPosition StartedFrom = "position" // with one that it had
)

// came is a Came as connections keep it, of which there are many: its place in cames.
type startedFrom uint8

var startedFromNames = [...]StartedFrom{StartedFromHead, StartedFromState, StartedFromEarliest, StartedFromPosition}

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

// Fate is what became of an event for one connection.
type Fate string

// What may become of an event.
const (
	FateDelivered    Fate = "delivered"     // it was written to the connection
	FatePending      Fate = "pending"       // it is to be written
	FateBehind       Fate = "behind"        // it has not reached this node
	FateReplaced     Fate = "replaced"      // the newest event of its slot takes its place
	FateExpired      Fate = "expired"       // its ttl passed before it was written
	FateLost         Fate = "lost"          // it was evicted, and may not have been written; sse.gap tells
	FateCut          Fate = "cut"           // the connection ended before it was written
	FateUnknown      Fate = "unknown"       // it was for the connection, and may have been written
	FatePassed       Fate = "passed"        // it is evicted; if it was for the connection, it was written
	FateNotAddressed Fate = "not_addressed" // it was for others
	FateRefused      Fate = "refused"       // the connection was not admitted
	FateCameLater    Fate = "came_later"    // the connection began after it
	FateEndedEarlier Fate = "ended_earlier" // the connection had ended
)

// Fates lists all, the best first.
var Fates = []Fate{
	FateDelivered, FatePending, FateBehind, FateReplaced, FateExpired, FateLost, FateCut, FateUnknown,
	FatePassed, FateNotAddressed, FateRefused, FateCameLater, FateEndedEarlier,
}

// judge says what became of the event. lastLost is the last event that is lost to the
// connection.
func (f *endedConn) fateOf(s *subject, lastLost func() uint64) Fate {
	open := f.ended.IsZero()
	switch {
	case f.id == "":
		return FateRefused
	case f.epoch != s.epoch:
		if open {
			return FatePending // it has yet to learn of the new history
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

// judgePassed is for an event that the connection has passed: it was written, or left
// out since it was over already.
func (f *endedConn) fateOfPassed(s *subject) Fate {
	switch {
	case s.Known == KnownReplaced && f.since.After(s.Replaced):
		return FateReplaced
	case s.Known == KnownReplaced: // no lane has it any more, so nobody has noticed whether it was left out
		return FateUnknown
	case s.seq == f.skipped, s.Known == KnownExpired && !f.since.Before(s.Expires):
		return FateExpired
	case s.seq > f.skipped, s.Known == KnownRetained:
		return FateDelivered
	}
	return FateUnknown
}

// judgeEvicted is for an event of which no more is known than the last one that is
// lost to the connection. Events that were over when they were evicted do not count
// there.
func (f *endedConn) fateOfEvicted(s *subject, last uint64) Fate {
	switch {
	case last < s.seq:
		return FateNotAddressed
	case f.cursor < s.seq, f.lost >= s.seq:
		return FateLost
	}
	return FatePassed
}

// addressed reports whether the event was for the connection, with the topics that it
// had in the end.
func (f *endedConn) isFor(s *subject) bool {
	return slices.ContainsFunc(f.targets(), func(t Target) bool { return s.isFor(t) && f.addedAt(t) < s.seq })
}

// targets are all those by which the connection receives events.
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

// from is where the connection was given the target; 0: it came with it.
func (f *endedConn) addedAt(t Target) uint64 {
	if i := slices.IndexFunc(f.addedTopics, func(l addedTopic) bool { return l.topic == t }); i >= 0 {
		return f.addedTopics[i].from
	}
	return 0
}

// writtenBy is by when an event was written that was published at a time.
func (f *endedConn) writtenBy(published, now time.Time) time.Time {
	if published.Before(f.since) {
		published = f.since
	}
	if by := published.Add(f.slowest); by.Before(now) {
		return by
	}
	return now
}

// lastLost is the last event that is lost to a connection, at least the floor. known
// keeps what was looked up.
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

// explainTopics says where the connection was given, or lost, a topic of the event. If
// it lost the topic after the event, this may have been written before.
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

// change is what a change of topics took from a connection.
type change struct {
	seq     uint64
	removed []string
}

// mostChanges is how many of the last events for a connection alone are looked at.
const maxChanges = 1000

// changesOf lists the retained changes of a connection's topics, the last one first.
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

// name is the type of the event, or empty.
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

// data is the payload. Its lines end with LF.
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
