package hub

import (
	"cmp"
	"slices"
	"time"
)

// Why is what a hub knows of an event, and of the connections that were asked about.
type Why struct {
	Event       EventInfo        `json:"event"`
	Connections []ConnectionFate `json:"connections"` // the best fates first, and of those the newest; at most mostVisits
	Fates       map[Fate]int     `json:"fates"`       // of all of them, also of those that are not listed
	Began       time.Time        `json:"began"`       // the hub
	Since       time.Time        `json:"since"`       // all connections are known that have ended since then
	Head        string           `json:"head"`        // the last position in history
	Problem     string           `json:"problem"`     // why the store cannot be reached
	Repeats     int              `json:"repeats"`     // how often the key of the event was published again here
	Repeated    time.Time        `json:"repeated"`    // and when last
}

// Visit is one connection, or one that was refused, and what became of the event for
// it.
type ConnectionFate struct {
	Fate        Fate        `json:"fate"`
	Connection  string      `json:"connection,omitempty"` // empty: it was refused
	User        string      `json:"user,omitempty"`
	Session     string      `json:"session,omitempty"`
	Topics      []string    `json:"topics,omitempty"` // at most mostNames
	Protocol    string      `json:"protocol,omitempty"`
	Remote      string      `json:"remote,omitempty"`
	Since       time.Time   `json:"since,omitzero"`
	Ended       time.Time   `json:"ended,omitzero"`
	Reason      Reason      `json:"reason,omitempty"`
	StartedFrom StartedFrom `json:"came,omitempty"`
	Gap         string      `json:"gap,omitempty"`      // that it was told when it came
	Start       string      `json:"start,omitempty"`    // it was sent what comes after this
	Position    string      `json:"position,omitempty"` // up to here it has got what was for it
	Lag         int         `json:"lag,omitempty"`      // as in Info
	By          time.Time   `json:"by,omitzero"`        // the event was written no later than this
	Replayed    bool        `json:"replayed,omitempty"` // and had been published before the connection came
	Added       string      `json:"added,omitempty"`    // where it was given the topic, after the event
	Removed     string      `json:"removed,omitempty"`  // where it lost the topic
}

const (
	maxConnectionFates = 100 // in one answer
	maxNames           = 20  // topics of a connection, or targets of an event, in an answer
)

// judged is a connection and what became of an event for it.
type judged struct {
	endedConn
	fate           Fate
	added, removed uint64 // the topic of the event; 0: not
}

// Why says what became of the event at a position for the connections that the filter
// chooses, topics aside: the open ones, and those that have ended, or were refused,
// not long ago.
func (h *Hub) Why(p Position, who Filter) Why {
	s := h.subject(p)
	w := Why{Event: s.EventInfo, Fates: make(map[Fate]int), Began: h.began, Since: h.began}
	w.Repeats, w.Repeated = h.repeats.count(p)
	all, dropped := h.connectionsFor(who)
	if dropped.After(w.Since) {
		w.Since = dropped
	}
	if !s.concernsConnections() {
		all = nil
	}
	lost := make(map[Target]uint64) // of targets, the last event that is lost
	for i := range all {
		j := &all[i]
		j.fate = j.fateOf(&s, func() uint64 { return h.lastLost(&j.endedConn, lost) })
		if j.fate == FateNotAddressed && s.hasTopics {
			h.explainTopics(j, &s)
		}
		w.Fates[j.fate]++
	}
	slices.SortFunc(all, func(a, b judged) int {
		return cmp.Or(cmp.Compare(slices.Index(Fates, a.fate), slices.Index(Fates, b.fate)), b.since.Compare(a.since))
	})
	now := time.Now()
	h.mu.RLock()
	defer h.mu.RUnlock()
	w.Head = h.history.position(h.history.head).String()
	if h.source.problem != nil {
		w.Problem = h.source.problem.Error()
	}
	for _, j := range all[:min(len(all), maxConnectionFates)] {
		w.Connections = append(w.Connections, j.describe(h.history, &s, now))
	}
	return w
}

// visitors are the connections that the filter chooses, and from when on it is known
// who has ended.
func (h *Hub) connectionsFor(who Filter) (all []judged, dropped time.Time) {
	open := make(map[string]bool)
	for _, c := range h.matching(who) {
		h.mu.Lock() // for writing, since look moves a connection to a new history
		if c.reason == "" {
			f := c.snapshot()
			f.copyProgress()
			open[f.id] = true
			all = append(all, judged{endedConn: *f})
		}
		h.mu.Unlock()
	}
	ended, dropped := h.endedConns.matching(who)
	for _, f := range ended {
		if !open[f.id] { // else it has just ended
			all = append(all, judged{endedConn: f})
		}
	}
	refused, _ := h.refusedConns.matching(who)
	for _, f := range refused {
		all = append(all, judged{endedConn: f})
	}
	return all, dropped
}

// visit is what is told of the connection. Hub.mu is held.
func (j *judged) describe(h *history, s *subject, now time.Time) ConnectionFate {
	position := func(seq uint64) string {
		if j.epoch == h.epoch {
			return h.position(seq).String()
		}
		return Position{Epoch: j.epoch, Seq: seq}.String()
	}
	v := ConnectionFate{
		Fate: j.fate, Connection: j.id, User: j.user, Session: j.session, Protocol: j.protocol,
		Since: j.since, Ended: j.ended, Reason: j.reason, StartedFrom: startedFromNames[j.startedFrom], Gap: gapNames[j.gap], Lag: j.lag,
	}
	for _, t := range j.topics[:min(len(j.topics), maxNames)] {
		v.Topics = append(v.Topics, t.Name)
	}
	if j.addr.IsValid() {
		v.Remote = j.addr.String()
	}
	if j.fate == FateRefused {
		return v
	}
	v.Start, v.Position = position(j.start), position(j.cursor)
	if j.added > 0 {
		v.Added = position(j.added)
	}
	if j.removed > 0 {
		v.Removed = position(j.removed)
	}
	if j.fate == FateDelivered {
		v.Replayed = s.seq <= j.replayEnd
		if !s.Published.IsZero() {
			v.By = j.writtenBy(s.Published, now)
		}
	}
	return v
}
