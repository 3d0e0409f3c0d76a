package caddysse

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ea766355/caddy-sse/hub"
)

// askWhy requests the reason for a position of the hub with the name cluster.
func askWhy(t *testing.T, call func(method, path string, status int, into any), id string, more ...string) whyAnswer {
	t.Helper()
	var a whyAnswer
	call(http.MethodGet, "/sse/why?hub=cluster&id="+url.QueryEscape(id)+"&"+strings.Join(more, "&"), http.StatusOK, &a)
	return a
}

func publishTo(t *testing.T, h *hub.Hub, text string, targets ...hub.Target) string {
	t.Helper()
	receipts, err := h.Publish(t.Context(), hub.Event{Type: "order", Data: []byte(text), Targets: targets})
	if err != nil {
		t.Fatal(err)
	}
	return receipts[0].Position.String()
}

// TestWhyRefusesNonsense: an invalid question is refused with the reason.
func TestWhyRefusesNonsense(t *testing.T) {
	h := openHub(t)
	clusterOf(t, h, nil)
	id := publishTo(t, h, "x", hub.Target{})
	for query, message := range map[string]string{
		"id=" + id:                            "does not say who",
		"user=&id=" + id:                      "user is empty",
		"user=alice":                          "invalid id: give the id of one event",
		"user=alice&id=x":                     `invalid id "x"`,
		"user=alice&id=" + id + "&id=" + id:   "give the id of one event",
		"user=alice&user=bob&id=" + id:        "more than one user",
		"user=alice&connection=x&id=" + id:    "more than one user",
		"session=secret&id=" + id:             "session is not a hash",
		"user=alice&data=yes&id=" + id:        `invalid data "yes": it must be true or false`,
		"user=alice&limit=1&id=" + id:         "unknown query parameter",
		"user=%ff&id=" + id:                   "UTF-8",
		"user=a%3&id=" + id:                   "invalid query",
		"user=" + strings.Repeat("x", 513):    "at most 512 are allowed",
		"user=alice&id=" + id + "&topic=news": "unknown query parameter",
	} {
		w := httptest.NewRecorder()
		serveAPI(w, httptest.NewRequest(http.MethodGet, "/sse/why?hub=cluster&"+query, nil))
		var failure apiError
		if err := json.Unmarshal(w.Body.Bytes(), &failure); err != nil || w.Code < 400 || !strings.Contains(failure.Message, message) {
			t.Errorf("%.60s is answered with %d %s, want %q", query, w.Code, w.Body, message)
		}
		if strings.Contains(w.Body.String(), "secret") {
			t.Errorf("%s is answered with the secret", query)
		}
	}
	w := httptest.NewRecorder()
	serveAPI(w, httptest.NewRequest(http.MethodPost, "/sse/why?hub=cluster", nil))
	if w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != "GET, HEAD" {
		t.Errorf("POST is answered with %d, %v", w.Code, w.Header())
	}
}

// TestWhyKeepsPayloads: an answer has the payload only if the request asks for it.
func TestWhyKeepsPayloads(t *testing.T) {
	h := openHub(t)
	call := clusterOf(t, h, nil)
	id := publishTo(t, h, "private\nlines", hub.Target{Kind: hub.User, Name: "alice"})
	for _, more := range []string{"", "data=false"} {
		a := askWhy(t, call, id, "user=alice", more)
		if text, _ := json.Marshal(a); strings.Contains(string(text), "private") {
			t.Errorf("with %q the answer is %s", more, text)
		}
		if a.Event.Type != "order" {
			t.Errorf("the type is %q", a.Event.Type)
		}
	}
	if a := askWhy(t, call, id, "user=alice", "data=true"); a.Event.Data == nil || *a.Event.Data != "private\nlines" {
		t.Errorf("the data is %v", a.Event.Data)
	}
	if a := askWhy(t, call, id[:strings.LastIndex(id, "-")+1]+"zzzz", "user=alice", "data=true"); a.Event.Data != nil || a.State != stateNoEvent {
		t.Errorf("for a wrong tag the answer is %+v", a)
	}
}

// TestWhyOfSession: a request names a session by its hash.
func TestWhyOfSession(t *testing.T) {
	h := openHub(t)
	call := clusterOf(t, h, nil)
	hash := hashSession("secret")
	conn := connectTo(t, h, hub.Identity{User: "alice", Session: hash})
	id := publishTo(t, h, "x", hub.Target{Kind: hub.Session, Name: hash})
	for _, who := range []string{"session=" + hash, "user=alice", "connection=" + conn} {
		a := askWhy(t, call, id, who)
		if a.State != "pending" || len(a.Answers) != 1 || a.Answers[0].Session != hash || a.Answers[0].Connection != conn {
			t.Errorf("%s: %+v", who, a)
		}
		if text, _ := json.Marshal(a); strings.Contains(string(text), "secret") {
			t.Errorf("the answer is %s", text)
		}
	}
	if a := askWhy(t, call, id, "session="+hashSession("another")); a.State != "not_addressed" || !strings.Contains(a.Summary, "session "+`"`+hash) {
		t.Errorf("of another session: %s, %s", a.State, a.Summary)
	}
}

// TestWhyOfManyNodes: all nodes are asked, and the answer names a node that does not respond.
func TestWhyOfManyNodes(t *testing.T) {
	here, there := openHub(t), openHub(t)
	call := clusterOf(t, here, neighbour{there, 1 << 20})
	connectTo(t, there, hub.Identity{User: "alice"})
	id := publishTo(t, there, "x", hub.Target{Kind: hub.User, Name: "alice"})
	a := askWhy(t, call, id, "user=alice")
	if a.State != "pending" || !slices.Equal(a.Missing, []string{"silent"}) || a.Event.Known != hub.KnownRetained {
		t.Errorf("of an event that the other node knows: %+v", a)
	}
	if last := a.Answers[len(a.Answers)-1]; last.Fate != stateNoAnswer || last.Node != "silent" || last.Summary != "Not known: node silent does not answer." {
		t.Errorf("of the one that does not answer: %+v", last)
	}
	if !strings.Contains(a.Summary, "lags by 1 event") || !strings.HasSuffix(a.Summary, "(Node silent does not answer.)") {
		t.Error(a.Summary)
	}
	if len(a.Nodes) != 2 {
		t.Errorf("%d nodes have answered", len(a.Nodes))
	}
	a = askWhy(t, call, publishTo(t, here, "x", hub.Target{}), "user=bob")
	if a.State != stateNoAnswer || !strings.HasPrefix(a.Summary, "Not known: node silent does not answer. On the other nodes: Nobody was connected") {
		t.Errorf("of one who may be on the node that does not answer: %s, %s", a.State, a.Summary)
	}
	a = askWhy(t, call, publishTo(t, here, "x", hub.Target{Kind: hub.User, Name: "alice"}), "user=bob")
	if a.State != "not_addressed" {
		t.Errorf("of an event for another user: %s, %s", a.State, a.Summary)
	}
}

// TestWhyFitsTheRoom: rows that do not fit into the answer of a node are left out, and counted.
func TestWhyFitsTheRoom(t *testing.T) {
	here, there := openHub(t), openHub(t)
	var topics []hub.Target
	for i := range 50 {
		topics = append(topics, hub.Target{Kind: hub.Topic, Name: fmt.Sprint(i, strings.Repeat("x", 500))})
	}
	for range 150 {
		connectTo(t, there, hub.Identity{User: "alice", Topics: topics})
	}
	id := publishTo(t, there, "x", hub.Target{Kind: hub.User, Name: "alice"})
	for _, room := range []int{1 << 20, 100_000, 5_000, 1_000} {
		request, err := json.Marshal(nodeRequest{Why: id, Filter: hub.Filter{Users: []string{"alice"}}})
		if err != nil {
			t.Fatal(err)
		}
		if n := len(answerNode(there, request, room)); n == 0 || n > room {
			t.Errorf("room %d: the answer has %d bytes", room, n)
		}
		a := askWhy(t, clusterOf(t, here, neighbour{there, room}), id, "user=alice")
		if a.Fates[hub.FatePending] != 150 || a.State != "pending" || !strings.Contains(a.Summary, "150 connections") {
			t.Errorf("room %d: %v, %s", room, a.Fates, a.Summary)
		}
	}
}

// older answers like a node of an earlier version, which does not know the question.
type older struct{ neighbour }

func (o older) Ask(_ context.Context, request []byte, take func([]byte) bool) []string {
	if take([]byte(`{"Count":0,"Connections":null,"Users":null,"More":false}`)) {
		return nil
	}
	return []string{"older"}
}

func TestWhyOfOlderNode(t *testing.T) {
	h := openHub(t)
	call := clusterOf(t, h, older{})
	if a := askWhy(t, call, publishTo(t, h, "x", hub.Target{}), "user=alice"); !slices.Equal(a.Missing, []string{"older"}) {
		t.Errorf("missing is %q", a.Missing)
	}
	var p ConnectionPage
	call(http.MethodGet, "/sse/connections?hub=cluster", http.StatusOK, &p)
	if p.Missing != nil {
		t.Errorf("it is missing in a listing: %q", p.Missing)
	}
}

// TestWhyInWords: each cause has one sentence with what to do.
func TestWhyInWords(t *testing.T) {
	const id = "3kq9x2mf-1042-x7d2"
	noon := time.Date(2026, 1, 2, 12, 1, 3, 0, time.UTC)
	room9 := []hub.TargetInfo{{Kind: "topic", Name: "room/9"}}
	for name, c := range map[string]struct {
		event  hub.EventInfo
		visits []hub.ConnectionFate
		since  time.Time
		state  string
		words  string
	}{
		"topic": {
			event:  hub.EventInfo{Known: hub.KnownRetained, Targets: room9, Count: 1},
			visits: []hub.ConnectionFate{{Fate: hub.FateNotAddressed, Connection: "X", Topics: []string{"room/1", "news/*"}}},
			state:  "not_addressed", words: `Not for connection X: the event was for topic "room/9". It has the topics room/1, news/*.`,
		},
		"topic, removed": {
			event:  hub.EventInfo{Known: hub.KnownRetained, Targets: room9, Count: 1},
			visits: []hub.ConnectionFate{{Fate: hub.FateNotAddressed, Connection: "X", Removed: "3kq9x2mf-7-aaaa"}},
			state:  "not_addressed", words: `Not for connection X: the event was for topic "room/9". That topic was removed from it at 3kq9x2mf-7-aaaa.`,
		},
		"two, one of which has it": {
			event: hub.EventInfo{Known: hub.KnownRetained, Targets: room9, Count: 1},
			visits: []hub.ConnectionFate{
				{Fate: hub.FateNotAddressed, Connection: "X"}, {Fate: hub.FateDelivered, Connection: "Y", By: noon}, {Fate: hub.FatePending, Connection: "Z", Lag: 17},
			},
			state: "delivered", words: "Delivered to connection Y: written to its socket by 2026-01-02 12:01:03.000 UTC. For 1 other it is still to be written.",
		},
		"the node started later": {
			event: hub.EventInfo{Known: hub.KnownRetained, Published: noon, Targets: []hub.TargetInfo{{Kind: "all"}}, Count: 1}, since: noon.Add(time.Hour),
			state: "unknown", words: "Not known: node n1 started at 2026-01-02 13:01:03.000 UTC, after the event was published at 2026-01-02 12:01:03.000 UTC, " +
				"and does not know who was connected then. Nobody has come since. A client that comes back with its position, or asks for `earliest`, gets what was for it.",
		},
		"the ttl passed, and nobody came": {
			event: hub.EventInfo{Known: hub.KnownExpired, Published: noon, Expires: noon.Add(time.Minute), Targets: []hub.TargetInfo{{Kind: "all"}}, Count: 1},
			state: "expired", words: `Nobody was connected as user "alice" when it was published at 2026-01-02 12:01:03.000 UTC. ` +
				"Nobody came for it before its ttl passed at 2026-01-02 12:02:03.000 UTC.",
		},
		"refused, after it had ended": {
			event: hub.EventInfo{Known: hub.KnownRetained, Published: noon, Targets: []hub.TargetInfo{{Kind: "all"}}, Count: 1},
			visits: []hub.ConnectionFate{
				{Fate: hub.FateEndedEarlier, Connection: "X", Reason: hub.Gone, Ended: noon},
				{Fate: hub.FateRefused, Since: noon, Reason: hub.TooManyPerUser},
			},
			state: "refused", words: `Nobody was connected as user "alice" when it was published at 2026-01-02 12:01:03.000 UTC: ` +
				"connection X had ended (gone) at 2026-01-02 12:01:03.000 UTC. A connection was refused (max_connections_per_user) at 2026-01-02 12:01:03.000 UTC. " +
				"Close other connections of the user, or raise `max_connections_per_user`.",
		},
	} {
		t.Run(name, func(t *testing.T) {
			c.event.ID = id
			n := &nodeWhy{Node: "n1", Why: hub.Why{Event: c.event, Connections: c.visits, Fates: make(map[hub.Fate]int), Began: c.since, Since: c.since}}
			for _, v := range c.visits {
				n.Fates[v.Fate]++
			}
			a := mergeWhy([]nodeAnswer{{Why: n}}, nil)
			a.summarize(subject{"user", "alice"})
			if a.State != c.state || a.Summary != c.words {
				t.Errorf("it is %s: %s\nwant %s: %s", a.State, a.Summary, c.state, c.words)
			}
		})
	}
}
