package hub

import (
	"cmp"
	"slices"
	"time"
)

// Why is the answer of [Hub.Why]: what the hub knows of an event, and what became of the
// event for connections.
type Why struct {
	Event       EventInfo        `json:"event"`
	Connections []ConnectionFate `json:"connections"` // the best fates first, and then the newest connections; at most maxConnectionFates
	Fates       map[Fate]int     `json:"fates"`       // number of connections by fate, also of those not listed
	Began       time.Time        `json:"began"`       // when the hub began
	Since       time.Time        `json:"since"`       // all connections that have ended since then are known
	Head        string           `json:"head"`        // the last position in history
	Problem     string           `json:"problem"`     // why the store cannot be reached; empty: it can
	Repeats     int              `json:"repeats"`     // how often the key of the event was published again on this node
	Repeated    time.Time        `json:"repeated"`    // when it was published again last
}

// ConnectionFate is what became of the event for one connection, or for one that was
// refused.
type ConnectionFate struct {
	Fate        Fate        `json:"fate"`
	Connection  string      `json:"connection,omitempty"` // id; empty: the connection was refused
	User        string      `json:"user,omitempty"`
	Session     string      `json:"session,omitempty"`
	Topics      []string    `json:"topics,omitempty"` // at most maxNames
	Protocol    string      `json:"protocol,omitempty"`
	Remote      string      `json:"remote,omitempty"`
	Since       time.Time   `json:"since,omitzero"`
	Ended       time.Time   `json:"ended,omitzero"`
	Reason      Reason      `json:"reason,omitempty"`
	StartedFrom StartedFrom `json:"came,omitempty"`
	Gap         string      `json:"gap,omitempty"`      // the reason of the sse.gap at its beginning
	Start       string      `json:"start,omitempty"`    // it is sent events after this position
	Position    string      `json:"position,omitempty"` // it has been sent its events up to here
	Lag         int         `json:"lag,omitempty"`      // as in Info
	By          time.Time   `json:"by,omitzero"`        // the event was written no later than this
	Replayed    bool        `json:"replayed,omitempty"` // the event had been published before the connection began
	Added       string      `json:"added,omitempty"`    // where the connection was given the topic, after the event
	Removed     string      `json:"removed,omitempty"`  // where the connection lost the topic
}

const (
	maxConnectionFates = 100 // connections in an answer
	maxNames           = 20  // topics of a connection, or targets of an event, in an answer
)

// judged is a connection with the fate of the event. Its endedConn is a copy, which nobody
// else has.
type judged struct {
	endedConn
	fate           Fate
	added, removed uint64 // where it was given and lost the topic of the event; 0: it was not
}

// Why says what became of the event at a position, for the connections that the filter
// chooses: open connections, and those that ended or were refused recently. It ignores the
// topics of the filter for connections that are not open. Any goroutine may call it.
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
	lost := make(map[Target]uint64) // cache of lastLost
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

// connectionsFor returns the connections that the filter chooses: first the open ones, then
// those that have ended, then those that were refused. The hub has forgotten some that have
// ended: dropped is when the last of these ended; zero: none is forgotten. Refused ones may
// be forgotten too; dropped does not say so.
//
// Any goroutine may call it. The caller must not hold Hub.mu.
func (h *Hub) connectionsFor(who Filter) (all []judged, dropped time.Time) {
	open := make(map[string]bool)
	for _, c := range h.matching(who) {
		var f *endedConn
		h.mu.Lock() // for writing, because lookUp may move the connection to a new history
		if c.reason == "" {
			f = c.snapshot()
			f.copyProgress()
		}
		h.mu.Unlock()
		if f != nil { // not under the lock: a large slice may grow
			open[f.id] = true
			all = append(all, judged{endedConn: *f})
		}
	}
	ended, dropped := h.endedConns.matching(who)
	for _, f := range ended {
		if !open[f.id] { // otherwise it ended just now
			all = append(all, judged{endedConn: f})
		}
	}
	refused, _ := h.refusedConns.matching(who)
	for _, f := range refused {
		all = append(all, judged{endedConn: f})
	}
	return all, dropped
}

// describe returns what the answer says of the connection. j.fate must be known. h is the
// hub's history now. The caller holds Hub.mu.
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
