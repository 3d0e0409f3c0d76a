package caddysse

import (
	"cmp"
	"net/http"
	"net/url"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/ea766355/caddy-sse/hub"
)

// whyAnswer is the answer to GET /sse/why.
type whyAnswer struct {
	Summary  string           `json:"summary"` // for people
	State    string           `json:"state"`   // for programs: a fate, or one of the states below
	Event    whyEvent         `json:"event"`
	Answers  []whyRow         `json:"answers"` // the best fates first; at most maxRows
	Fates    map[hub.Fate]int `json:"fates"`   // of all connections, also of those that are not in answers
	Repeats  int              `json:"repeats"` // how often the key of the event was published again
	Repeated time.Time        `json:"repeated,omitzero"`
	Nodes    []whyNode        `json:"nodes"`             // that answered
	Missing  []string         `json:"missing,omitempty"` // nodes that did not answer
}

// What the state of an answer may be beside a fate.
const (
	stateNoEvent      = "no_event"      // nothing was published at this position
	stateEvicted      = "evicted"       // the event is no longer in history
	stateNotConnected = "not_connected" // it was for them, and they were not there
	stateNoAnswer     = "no_answer"     // it depends on a node that does not answer
)

// whyEvent is what is known of the event.
type whyEvent struct {
	hub.EventInfo
	Data *string `json:"data,omitempty"` // if it was asked for, and this node has it
}

// whyRow is what became of the event for one connection, for one that was refused, or
// on a node that does not answer.
type whyRow struct {
	Summary string `json:"summary"`
	Node    string `json:"node"`
	hub.ConnectionFate
}

// fateNoAnswer is the fate of a row for a node that does not answer.
const fateNoAnswer hub.Fate = stateNoAnswer

// whyNode is how far a node's knowledge reaches.
type whyNode struct {
	Node    string    `json:"node"`
	Began   time.Time `json:"began"` // with the hub
	Since   time.Time `json:"since"` // all connections are known that have ended since then
	Head    string    `json:"head"`
	Problem string    `json:"problem,omitempty"` // why its store cannot be reached
}

// nodeWhy is what one node knows.
type nodeWhy struct {
	Node string
	hub.Why
}

// maxRows is how many connections one answer lists.
const maxRows = 100

func showWhy(w http.ResponseWriter, r *http.Request) error {
	query, err := queryOf(r, "user", "session", "connection", "id", "data")
	if err != nil {
		return err
	}
	h, err := hubOf(r)
	if err != nil {
		return err
	}
	who, filter, err := whoOf(query)
	if err != nil {
		return err
	}
	position, ok := hub.ParsePosition(query.Get("id"))
	if len(query["id"]) != 1 || !ok {
		return fail(http.StatusBadRequest, "id%s must be the id of one event, as it was answered to its publisher and sent to clients, such as 3kq9x2mf-1042-x7d2",
			shown(query.Get("id")))
	}
	if data := query.Get("data"); query.Has("data") && data != "true" && data != "false" {
		return fail(http.StatusBadRequest, "data must be true or false")
	}
	request := nodeRequest{Why: position.String(), Filter: filter}
	answers, missing := request.ask(r.Context(), h)
	why := putTogether(answers, missing)
	if query.Get("data") == "true" {
		if data, ok := h.Data(position); ok {
			why.Event.Data = &data
		}
	}
	why.conclude(who)
	answer(w, http.StatusOK, why)
	return nil
}

// subject is who is asked about.
type subject struct {
	kind, name string
}

// whoOf reads the one parameter that says who is asked about.
func whoOf(query url.Values) (who subject, filter hub.Filter, err error) {
	for _, kind := range []string{"user", "session", "connection"} {
		for _, name := range query[kind] {
			if who.kind != "" {
				return who, filter, fail(http.StatusBadRequest, "ask about one user, session or connection at a time")
			}
			who = subject{kind, name}
		}
	}
	switch {
	case who.kind == "":
		return who, filter, fail(http.StatusBadRequest, "say who did not get the event: with user, session or connection")
	case who.name == "":
		return who, filter, fail(http.StatusBadRequest, "%s must not be empty", who.kind)
	case len(who.name) > hub.MaxNameLength || !utf8.ValidString(who.name):
		return who, filter, fail(http.StatusBadRequest, "%s must be UTF-8 of at most %d bytes", who.kind, hub.MaxNameLength)
	}
	filter, err = filterOf(url.Values{who.kind: {who.name}})
	if who.kind == "connection" {
		filter.IDs = []string{who.name}
	}
	return who, filter, err
}

// putTogether is what all nodes know. The node that knows most of the event says what
// it was.
func putTogether(answers []nodeAnswer, missing []string) *whyAnswer {
	why := &whyAnswer{Answers: []whyRow{}, Fates: make(map[hub.Fate]int), Missing: missing}
	for _, a := range answers {
		n := a.Why
		if why.Event.Known == "" || knowledge(n.Event.Known) < knowledge(why.Event.Known) {
			why.Event.EventInfo = n.Event
		}
		for fate, count := range n.Fates {
			why.Fates[fate] += count
		}
		for _, visit := range n.Connections {
			why.Answers = append(why.Answers, whyRow{Node: n.Node, ConnectionFate: visit})
		}
		why.Nodes = append(why.Nodes, whyNode{n.Node, n.Began, n.Since, n.Head, n.Problem})
		why.Repeats += n.Repeats
		if n.Repeated.After(why.Repeated) {
			why.Repeated = n.Repeated
		}
	}
	slices.SortStableFunc(why.Answers, func(a, b whyRow) int {
		return cmp.Or(cmp.Compare(slices.Index(hub.Fates, a.Fate), slices.Index(hub.Fates, b.Fate)), b.Since.Compare(a.Since))
	})
	why.Answers = why.Answers[:min(len(why.Answers), maxRows)]
	for _, node := range missing {
		why.Answers = append(why.Answers, whyRow{Node: node, ConnectionFate: hub.ConnectionFate{Fate: fateNoAnswer}})
	}
	return why
}

// knowledge orders what nodes know of an event, the most first.
func knowledge(k hub.Known) int {
	return slices.Index([]hub.Known{
		hub.KnownReplaced, hub.KnownExpired, hub.KnownRetained, hub.KnownCommand, hub.KnownEvicted,
		hub.KnownOther, hub.KnownHole, hub.KnownStart, hub.KnownAhead, hub.KnownEnded, hub.KnownEpoch,
	}, k)
}
