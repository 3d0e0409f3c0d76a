package caddysse

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ea766355/caddy-sse/hub"
)

// neighbour is a cluster with one other node, which has its own hub, and a node that does not
// answer.
type neighbour struct {
	hub  *hub.Hub
	room int // for its answer
}

func (neighbour) Join(string, func([]byte, int) []byte) error { return nil }

func (n neighbour) Ask(_ context.Context, request []byte, take func([]byte) bool) (missing []string) {
	answer := strings.ReplaceAll(string(answerNode(n.hub, request, n.room)), strconv.Quote(nodeName()), `"other"`)
	if !take([]byte(answer)) {
		missing = append(missing, "other")
	}
	for _, nonsense := range []string{"", "none of ours", `{"Count":-1}`, `{"Count":1,"More":true}`, `{"Connections":[{}]}`, "[]", `{"Count":"7"}`} {
		if take([]byte(nonsense)) {
			missing = append(missing, "took "+nonsense)
		}
	}
	return append(missing, "silent")
}

// TestCallsCoverAllNodes lists and ends connections of two nodes.
func TestCallsCoverAllNodes(t *testing.T) {
	here, there := openHub(t), openHub(t)
	var ids []string
	for i := range 7 {
		id := hub.Identity{User: []string{"alice", "bob"}[i%2]}
		ids = append(ids, connectTo(t, []*hub.Hub{here, there}[i%2], id))
	}
	call := clusterOf(t, here, neighbour{there, 1 << 20})

	listed := listAll(t, call, 2, 7)
	if !slices.Equal(listed, ids) {
		t.Errorf("listed %q, want %q", listed, ids)
	}
	var page ConnectionPage
	call(http.MethodGet, "/sse/connections?hub=cluster", http.StatusOK, &page)
	for i, c := range page.Connections {
		if want := []string{nodeName(), "other"}[i%2]; c.Node != want {
			t.Errorf("connection %d is listed on node %q, want %q", i, c.Node, want)
		}
	}
	alone := nodeRequest{Limit: 1}
	if found, _ := alone.performOnAllNodes(t.Context(), &pooledHub{Hub: here}); found.Connections[0].Node != "" {
		t.Errorf("a node that shares no store names itself %q", found.Connections[0].Node)
	}

	var ended disconnectAnswer
	call(http.MethodDelete, "/sse/connections/"+ids[1]+"?hub=cluster", http.StatusOK, &ended)
	if ended.Disconnected != 1 || !slices.Equal(ended.Missing, []string{"silent"}) {
		t.Errorf("ending one on the other node is answered with %+v", ended)
	}
	call(http.MethodDelete, "/sse/connections?hub=cluster&user=bob&user=alice", http.StatusOK, &ended)
	if ended.Disconnected != 6 {
		t.Errorf("ending all is answered with %+v", ended)
	}
	var failure apiError
	call(http.MethodDelete, "/sse/connections/"+ids[1]+"?hub=cluster", http.StatusNotFound, &failure)
	if !slices.Equal(failure.Missing, []string{"silent"}) {
		t.Errorf("ending none is answered with %+v", failure)
	}
}

// joined is a store of several nodes that keeps the function that answers the others.
type joined struct {
	*hub.Memory
	neighbour
	answer func([]byte, int) []byte
}

func (j *joined) Join(_ string, answer func([]byte, int) []byte) error {
	j.answer = answer
	return nil
}

// TestOneStoreAnswersForANode: while a store takes the place of another one, both are known to the other
// nodes. Only one of them answers, so that no connection counts twice.
func TestOneStoreAnswersForANode(t *testing.T) {
	h := openHub(t)
	connectTo(t, h, hub.Identity{User: "alice"})
	app := &App{held: map[string]*pooledHub{"x": {Hub: h}}}
	first, second := &joined{Memory: hub.NewMemory()}, &joined{Memory: hub.NewMemory()}
	for _, store := range []*joined{first, second} {
		app.opened = map[string]hub.Store{"x": store}
		if err := app.useStores(); err != nil {
			t.Fatal(err)
		}
		if answer := string(store.answer([]byte(`{"Limit":1}`), 1<<20)); !strings.Contains(answer, `"Count":1`) {
			t.Errorf("answer of the store in use: got %q, want one with a connection", answer)
		}
	}
	if answer := first.answer([]byte(`{"Limit":1}`), 1<<20); answer != nil {
		t.Errorf("answer of the store before: got %s, want none", answer)
	}
}

// TestNodesTakeNamesApart: a name that is not UTF-8 is refused. In the request to another node
// it would become U+FFFD, which is the name of somebody else.
func TestNodesTakeNamesApart(t *testing.T) {
	here, there := openHub(t), openHub(t)
	connectTo(t, there, hub.Identity{User: "\ufffd"})
	call := clusterOf(t, here, neighbour{there, 1 << 20})
	for _, method := range []string{http.MethodGet, http.MethodDelete, http.MethodPatch} {
		var failure apiError
		call(method, "/sse/connections?hub=cluster&user=%ff", http.StatusBadRequest, &failure)
	}
	filter := hub.Filter{Users: []string{"\xff"}}
	const refused = `user "\xff" of the filter is not valid UTF-8`
	if _, err := HubNamed("cluster").Connections(t.Context(), filter, "", 1); err == nil || !strings.Contains(err.Error(), refused) {
		t.Errorf("listing: got %v, want %q", err, refused)
	}
	if _, _, err := HubNamed("cluster").Disconnect(t.Context(), filter); err == nil || !strings.Contains(err.Error(), refused) {
		t.Errorf("disconnect: got %v, want %q", err, refused)
	}
	if n := len(there.Connections(hub.Filter{})); n != 1 {
		t.Errorf("%d connections are open, want 1", n)
	}
}

// TestUsersOfAllNodes: each user is listed once, over all pages.
func TestUsersOfAllNodes(t *testing.T) {
	here, there := openHub(t), openHub(t)
	var want []string
	for i := range 9 {
		name := fmt.Sprint("user-", i, strings.Repeat("x", 400))
		want = append(want, name)
		for n := range 1 + i%3 {
			connectTo(t, []*hub.Hub{here, there}[(i+n)%2], hub.Identity{User: name})
		}
	}
	connectTo(t, there, hub.Identity{})
	call := clusterOf(t, here, neighbour{there, 1500}) // two users fit
	var got []string
	for after := ""; ; {
		var p userPage
		call(http.MethodGet, fmt.Sprintf("/sse/users?hub=cluster&limit=4&after=%s", after), http.StatusOK, &p)
		if len(p.Users) > 4 || !slices.Equal(p.Missing, []string{"silent"}) {
			t.Errorf("a page has %d users, and misses %q", len(p.Users), p.Missing)
		}
		for _, u := range p.Users {
			i := len(got)
			got = append(got, u.User)
			if u.Connections != 1+i%3 {
				t.Errorf("user %d has %d connections, want %d", i, u.Connections, 1+i%3)
			}
		}
		if after = p.Next; after == "" {
			break
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("listed %d users, want %d: %.20q", len(got), len(want), got)
	}
}

// TestAnswerFitsTheRoom: a node answers with as many connections as fit into a message, and the
// next pages list the others.
func TestAnswerFitsTheRoom(t *testing.T) {
	here, there := openHub(t), openHub(t)
	long := func(i int) string { return fmt.Sprintf("%03d", i) + strings.Repeat("x", 509) }
	var topics []hub.Target
	for i := range 100 {
		topics = append(topics, hub.Target{Kind: hub.Topic, Name: long(i)})
	}
	var ids []string
	for i := range 40 {
		id := hub.Identity{User: long(i)}
		h := there
		if i%4 == 3 {
			h = here
		} else {
			id.Topics = topics
		}
		ids = append(ids, connectTo(t, h, id))
	}
	// A row takes about 52 KB. The cases have room for two rows, for one, and for none.
	for _, room := range []int{110_000, 60_000, 10_000} {
		n := neighbour{there, room}
		if size := len(answerNode(there, []byte(`{"Limit":1000}`), room)); size == 0 || size > room {
			t.Errorf("room %d: the answer has %d bytes", room, size)
		}
		call := clusterOf(t, here, n)
		if listed := listAll(t, call, 1000, len(ids)); !slices.Equal(listed, ids) {
			t.Errorf("room %d: listed %d of %d, or in another order", room, len(listed), len(ids))
		}
	}
}

// TestNodeRefusesNonsense: an invalid request of another node ends no connection, and the answer
// has at most one page.
func TestNodeRefusesNonsense(t *testing.T) {
	h := openHub(t)
	for range maxPage + 1 {
		connectTo(t, h, hub.Identity{User: "alice"})
	}
	for request, rows := range map[string]int{
		`{"Limit":-1}`:                      1,
		`{}`:                                1,
		`{"Limit":9223372036854775807}`:     maxPage,
		`{"Limit":2,"After":"\u0000zzz"}`:   2,
		`{"Limit":2,"Filter":{"IDs":[]}}`:   2,
		`{"Limit":2,"Filter":{"IDs":[""]}}`: 0,
		`{"Limit":2,"Filter":null}`:         2,
	} {
		var a nodeAnswer
		if err := json.Unmarshal(answerNode(h, []byte(request), 1<<20), &a); err != nil || len(a.Connections) != rows {
			t.Errorf("%s is answered with %d connections, %v; want %d", request, len(a.Connections), err, rows)
		}
	}
	for _, request := range []string{
		"", "garbage", "null garbage", "[]", `"a"`, `{"Limit":"7"}`, `{"Limit":1e99}`, `{"Limit":1.5}`, `{"Filter":[]}`, `{"Filter":{"Users":"alice"}}`,
		`{"Disconnect":"yes"}`, `{"After":{}}`, strings.Repeat("[", 1<<20), "\xff\x00",
	} {
		if answer := answerNode(h, []byte(request), 1<<20); answer != nil {
			t.Errorf("%.40q is answered with %.100s", request, answer)
		}
	}
	for _, room := range []int{-1, 0, 1} {
		if answer := answerNode(h, []byte(`{"Limit":1}`), room); answer != nil {
			t.Errorf("where %d bytes fit it is answered with %s", room, answer)
		}
	}
	if open := len(h.Connections(hub.Filter{})); open != maxPage+1 {
		t.Errorf("%d connections are left", open)
	}
}

// narrowStore is a store that other nodes share, and that has no room for the next record.
type narrowStore struct{ hub.Store }

func (narrowStore) Shared() bool { return true }

func (narrowStore) Append(context.Context, []hub.Entry) ([]hub.Stored, error) {
	return nil, &hub.BatchError{Err: fmt.Errorf("%w: it would have 9 bytes (limit: 8)", hub.ErrTooLarge)}
}

// TestTooLargeForTheStore: a command that is too large for the store is answered with 413, since it does
// not become smaller when the client sends it again. The answer says how many connections have ended.
func TestTooLargeForTheStore(t *testing.T) {
	h := openHubWith(t, narrowStore{hub.NewMemory()})
	connectTo(t, h, hub.Identity{User: "alice"})
	call := clusterOf(t, h, neighbour{openHub(t), 1 << 20})
	var failure apiError
	call(http.MethodDelete, "/sse/connections?hub=cluster&user=alice", http.StatusRequestEntityTooLarge, &failure)
	const message = "the disconnect could not be stored, so other nodes may keep their connections: event too large: " +
		"it would have 9 bytes (limit: 8); or name fewer users, sessions and topics in one request"
	if failure.Message != message || failure.Stored != "" || failure.Disconnected == nil || *failure.Disconnected != 1 {
		t.Errorf("got %+v, want 1 disconnected and the message %q", failure, message)
	}
	_, err := h.ChangeTopics(t.Context(), hub.TopicChange{Filter: hub.Filter{Users: []string{"alice"}}, Add: []string{"news"}})
	if got := asAPIError(publishError(err, nil)).Status; got != http.StatusRequestEntityTooLarge {
		t.Errorf("a change of topics is answered with %d, want 413", got)
	}
}

func openHub(t *testing.T) *hub.Hub {
	t.Helper()
	return openHubWith(t, hub.NewMemory())
}

func openHubWith(t *testing.T, store hub.Store) *hub.Hub {
	t.Helper()
	h := hub.New(hub.Options{})
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := h.Use(store); err != nil {
		t.Fatal(err)
	}
	return h
}

func connectTo(t *testing.T, h *hub.Hub, id hub.Identity) string {
	t.Helper()
	conn, err := h.Connect(t.Context(), hub.Request{
		Identity: id, Settings: &hub.Settings{Heartbeat: time.Minute, Timeout: time.Minute},
	})
	if err != nil {
		t.Fatal(err)
	}
	return conn.ID()
}

// clusterOf creates a hub with the name cluster, and returns a function that calls its API.
func clusterOf(t *testing.T, h *hub.Hub, c Cluster) (call func(method, path string, status int, into any)) {
	t.Helper()
	pooled, _ := hubs.LoadOrStore("cluster", &pooledHub{Hub: h})
	pooled.(*pooledHub).store.Store(&storeInfo{identity: "cluster", cluster: c})
	t.Cleanup(func() {
		if _, err := hubs.Delete("cluster"); err != nil {
			t.Error(err)
		}
	})
	return func(method, path string, status int, into any) {
		t.Helper()
		w := httptest.NewRecorder()
		serveAPI(w, httptest.NewRequest(method, path, nil))
		if w.Code != status {
			t.Fatalf("%s %s: %d %s", method, path, w.Code, w.Body)
		}
		if err := json.Unmarshal(w.Body.Bytes(), into); err != nil {
			t.Fatal(err)
		}
	}
}

// listAll lists all connections over all pages.
func listAll(t *testing.T, call func(method, path string, status int, into any), limit, count int) (ids []string) {
	t.Helper()
	for after := ""; ; {
		var p ConnectionPage
		call(http.MethodGet, fmt.Sprintf("/sse/connections?hub=cluster&limit=%d&after=%s", limit, after), http.StatusOK, &p)
		if p.Count != count || len(p.Connections) > limit || !slices.Equal(p.Missing, []string{"silent"}) {
			t.Errorf("a page has a count of %d, %d connections, and misses %q", p.Count, len(p.Connections), p.Missing)
		}
		for _, c := range p.Connections {
			ids = append(ids, c.ID)
		}
		if p.Next == "" {
			return ids
		}
		if p.Next <= after {
			t.Fatalf("after %s the next page begins after %s", after, p.Next)
		}
		after = p.Next
	}
}
