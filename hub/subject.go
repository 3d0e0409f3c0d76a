package hub

import (
	"math"
	"slices"
	"time"
)

// Known says what the history knows of a position.
type Known string

// Values of Known.
const (
	KnownRetained Known = "retained" // an event that can be delivered
	KnownExpired  Known = "expired"  // an event whose ttl has passed
	KnownReplaced Known = "replaced" // an event of whose slot there is a newer one
	KnownEvicted  Known = "evicted"  // a record that was evicted
	KnownCommand  Known = "command"  // no event, but a command or a record that cannot be read
	KnownHole     Known = "hole"     // a record that the store has lost
	KnownAhead    Known = "ahead"    // a position after the head
	KnownEpoch    Known = "epoch"    // a position of another epoch
	KnownEnded    Known = "ended"    // a position of an epoch that has ended since the hub began
	KnownOther    Known = "tag"      // the record at the position has another tag
	KnownStart    Known = "start"    // position 0, where no record is
)

// EventInfo describes a position, and the event there as far as it is known.
type EventInfo struct {
	ID        string       `json:"id"`
	Known     Known        `json:"known"`
	Type      string       `json:"type,omitempty"`
	Targets   []TargetInfo `json:"targets,omitempty"` // at most maxNames
	Count     int          `json:"count,omitempty"`   // number of all targets
	Slot      bool         `json:"slot,omitempty"`    // the event is a state
	Published time.Time    `json:"published,omitzero"`
	Expires   time.Time    `json:"expires,omitzero"`
	Newer     string       `json:"newer,omitempty"`   // position of the newest event of its slot
	Replaced  time.Time    `json:"replaced,omitzero"` // when that event was published
	Bound     Bound        `json:"bound,omitempty"`   // why it was evicted
	Evicted   time.Time    `json:"evicted,omitzero"`  // it was evicted no later than this
}

// TargetInfo is a [Target] as the API shows it.
type TargetInfo struct {
	Kind string `json:"kind"` // all, user, connection, session or topic
	Name string `json:"name,omitempty"`
}

var kindNames = [...]string{All: "all", User: "user", Connection: "connection", Session: "session", Topic: "topic"}

// subject is the position that Why is asked about, as it is known at one moment. It refers
// to nothing in the history.
type subject struct {
	EventInfo
	epoch     string
	seq       uint64
	targets   map[Target]struct{} // of the event, and the patterns that match them
	hasTopics bool
}

// isFor reports whether t is a target of the event, or a pattern that matches one.
func (s *subject) isFor(t Target) bool {
	_, ok := s.targets[t]
	return ok
}

// concernsConnections reports whether there may be an event at the position.
func (s *subject) concernsConnections() bool {
	return slices.Contains([]Known{KnownRetained, KnownExpired, KnownReplaced, KnownEvicted, KnownAhead}, s.Known)
}

// subject returns what the history knows of a position now. Any goroutine may call it. The
// caller must not hold Hub.mu.
func (h *Hub) subject(p Position) subject {
	s, targets := h.describePosition(p, time.Now())
	s.targets = make(map[Target]struct{}, len(targets))
	for _, t := range targets {
		s.targets[t] = struct{}{}
	}
	slices.SortFunc(targets, compareTargets)
	for _, t := range targets {
		s.hasTopics = s.hasTopics || t.Kind == Topic
		if t.Kind == pattern {
			continue
		}
		if s.Count++; s.Count <= maxNames {
			s.Targets = append(s.Targets, TargetInfo{kindNames[t.Kind], t.Name})
		}
	}
	return s
}

// describePosition does the work of subject, but for the targets, which it returns. They
// contain patterns. Only subject calls it. The caller must not hold Hub.mu.
func (h *Hub) describePosition(p Position, now time.Time) (s subject, targets []Target) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	hi := h.history
	s = subject{EventInfo: EventInfo{ID: p.String()}, epoch: p.Epoch, seq: p.Seq}
	known := hi.position(p.Seq).Tag
	switch {
	case p.Epoch != hi.epoch:
		s.Known = KnownEpoch
		if slices.ContainsFunc(h.endedHistories, func(end Position) bool { return end.Epoch == p.Epoch }) {
			s.Known = KnownEnded
		}
	case p.Seq == 0:
		s.Known = KnownStart
	case p.Seq > hi.head:
		s.Known = KnownAhead
	case p.Tag != (Tag{}) && known != (Tag{}) && p.Tag != known:
		s.Known = KnownOther
	case p.Seq < hi.oldest:
		s.Known = KnownEvicted
		s.Bound, s.Evicted = hi.evictionOf(p.Seq)
	default:
		targets = s.describe(hi, hi.entry(p.Seq), now)
	}
	return s, targets
}

// describe sets what s says of an event from e, the entry at s.seq of the history h. It
// returns the targets of the event, with patterns that match; nil: the record is no event.
// The caller holds Hub.mu.
func (s *subject) describe(h *history, e *entry, now time.Time) (targets []Target) {
	s.ID = h.position(s.seq).String()
	s.Type = e.frame.name()
	s.Published = atMonotonic(e.accepted, now)
	s.Slot = e.slot != 0
	switch {
	case e.tag == (Tag{}):
		s.Known = KnownHole
		return nil
	case len(e.lanes) == 0, s.Type == EventTopics:
		s.Known = KnownCommand
		return nil
	case e.expires == math.MinInt64:
		s.Known = KnownReplaced
		if newest, ok := h.slots[e.slot]; ok {
			s.Newer, s.Replaced = h.position(newest).String(), atMonotonic(h.entry(newest).accepted, now)
		}
	default:
		s.Known = KnownRetained
		if e.expires != math.MaxInt64 {
			s.Expires = time.Unix(0, e.expires)
		}
		if e.expires <= now.UnixNano() {
			s.Known = KnownExpired
		}
	}
	targets = make([]Target, len(e.lanes))
	for i, l := range e.lanes {
		targets[i] = l.target
	}
	return targets
}

// Data returns the payload of a retained event. Its lines end with LF. ok is false if the
// payload is not there: the event is evicted or replaced, or the position is not in the
// history. Any goroutine may call it.
func (h *Hub) Data(p Position) (data string, ok bool) {
	h.mu.RLock()
	hi := h.history
	var f frame
	if p.Epoch == hi.epoch && p.Seq >= hi.oldest && p.Seq <= hi.head {
		if e := hi.entry(p.Seq); p.Tag == (Tag{}) || p.Tag == e.tag {
			f = e.frame
		}
	}
	h.mu.RUnlock()
	return f.data(), f.bytes != nil
}
