package caddysse

import (
	"cmp"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/ea766355/caddy-sse/hub"
)

// whyAnswer is the answer to GET /sse/why.
type whyAnswer struct {
	Summary  string           `json:"summary"` // a sentence for people
	State    string           `json:"state"`   // for programs: a fate, or one of the states below
	Event    whyEvent         `json:"event"`
	Answers  []whyRow         `json:"answers"` // at most maxRows, the best fates first
	Fates    map[hub.Fate]int `json:"fates"`   // counts of all connections, also of those left out of answers
	Repeats  int              `json:"repeats"` // how often the event's key was published again
	Repeated time.Time        `json:"repeated,omitzero"`
	Nodes    []whyNode        `json:"nodes"`             // nodes that answered
	Missing  []string         `json:"missing,omitempty"` // nodes that did not answer
}

// The states of an answer that are no fates.
const (
	stateNoEvent      = "no_event"      // no event has this position
	stateEvicted      = "evicted"       // the event is no longer in history
	stateNotConnected = "not_connected" // the event was for the subject, who was not connected
	stateNoAnswer     = "no_answer"     // the answer depends on a node that does not answer
)

// whyEvent describes the event.
type whyEvent struct {
	hub.EventInfo
	Data *string `json:"data,omitempty"` // the payload, if it was asked for and this node has it
}

// whyRow is the fate of the event for one connection, for one refused client, or for a node
// that does not answer.
type whyRow struct {
	Summary string `json:"summary"`
	Node    string `json:"node"`
	hub.ConnectionFate
}

// fateNoAnswer is the fate in a row for a node that does not answer.
const fateNoAnswer hub.Fate = stateNoAnswer

// whyNode says how far back a node's records reach.
type whyNode struct {
	Node    string    `json:"node"`
	Began   time.Time `json:"began"` // when the hub was opened on the node
	Since   time.Time `json:"since"` // the node remembers all connections that ended after this
	Head    string    `json:"head"`
	Problem string    `json:"problem,omitempty"` // why the node cannot reach the store
}

// nodeWhy is the answer of one node.
type nodeWhy struct {
	Node string
	hub.Why
}

// maxRows is the most connections that one answer lists.
const maxRows = 100

func showWhy(w http.ResponseWriter, r *http.Request) error {
	query, err := parseQuery(r, "user", "session", "connection", "id", "data")
	if err != nil {
		return err
	}
	h, err := requestedHub(r)
	if err != nil {
		return err
	}
	who, filter, err := parseSubject(query)
	if err != nil {
		return err
	}
	position, ok := hub.ParsePosition(query.Get("id"))
	if len(query["id"]) != 1 || !ok {
		return apiErrorf(http.StatusBadRequest, "invalid id%s: give the id of one event, as the publisher and the clients received it, such as 3kq9x2mf-1042-x7d2",
			quoteIfHarmless(query.Get("id")))
	}
	if data := query.Get("data"); query.Has("data") && data != "true" && data != "false" {
		return errDataParameter(data)
	}
	request := nodeRequest{Why: position.String(), Filter: filter}
	answers, missing := request.askAllNodes(r.Context(), h)
	why := mergeWhy(answers, missing)
	if query.Get("data") == "true" {
		if data, ok := h.Data(position); ok {
			why.Event.Data = &data
		}
	}
	why.summarize(who)
	writeJSON(w, http.StatusOK, why)
	return nil
}

// subject is the user, session or connection that the question is about.
type subject struct {
	kind, name string
}

// parseSubject parses the one parameter that names the subject.
func parseSubject(query url.Values) (who subject, filter hub.Filter, err error) {
	for _, kind := range []string{"user", "session", "connection"} {
		for _, name := range query[kind] {
			if who.kind != "" {
				return who, filter, apiErrorf(http.StatusBadRequest, "the query has more than one user, session or connection: ask about one at a time")
			}
			who = subject{kind, name}
		}
	}
	switch {
	case who.kind == "":
		return who, filter, apiErrorf(http.StatusBadRequest, "the query does not say who did not get the event: give user, session or connection")
	case who.name == "":
		return who, filter, apiErrorf(http.StatusBadRequest, "%s is empty: give a name", who.kind)
	case len(who.name) > hub.MaxNameLength:
		return who, filter, apiErrorf(http.StatusBadRequest, "%s has %d bytes: at most %d are allowed", who.kind, len(who.name), hub.MaxNameLength)
	}
	filter, err = parseFilter(url.Values{who.kind: {who.name}})
	if who.kind == "connection" {
		filter.IDs = []string{who.name}
	}
	return who, filter, err
}

// mergeWhy merges the answers of all nodes. The description of the event comes from the
// node that knows most about it.
func mergeWhy(answers []nodeAnswer, missing []string) *whyAnswer {
	why := &whyAnswer{Answers: []whyRow{}, Fates: make(map[hub.Fate]int), Missing: missing}
	for _, a := range answers {
		n := a.Why
		if why.Event.Known == "" || knowledgeRank(n.Event.Known) < knowledgeRank(why.Event.Known) {
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

// knowledgeRank ranks how much a node knows about an event; 0 is the most.
func knowledgeRank(k hub.Known) int {
	return slices.Index([]hub.Known{
		hub.KnownReplaced, hub.KnownExpired, hub.KnownRetained, hub.KnownCommand, hub.KnownEvicted,
		hub.KnownOther, hub.KnownHole, hub.KnownStart, hub.KnownAhead, hub.KnownEnded, hub.KnownEpoch,
	}, k)
}
