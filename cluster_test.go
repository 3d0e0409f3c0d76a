package caddysse

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/ea766355/caddy-sse/hub"
)

// neighbour is a cluster of one other node, which keeps its connections in a hub
// of its own, and one that does not answer.
type neighbour struct{ hub *hub.Hub }

func (neighbour) Join(string, func([]byte) []byte) error { return nil }

func (n neighbour) Ask(_ context.Context, request []byte) (answers [][]byte, missing []string) {
	return [][]byte{answerNode(n.hub, request), []byte("none of ours")}, []string{"silent"}
}

// TestCallsCoverAllNodes lists and ends connections of two nodes.
func TestCallsCoverAllNodes(t *testing.T) {
	open := func() *hub.Hub {
		h := hub.New(hub.Options{})
		t.Cleanup(func() {
			if err := h.Close(); err != nil {
				t.Error(err)
			}
		})
		if err := h.Use(hub.NewMemory()); err != nil {
			t.Fatal(err)
		}
		return h
	}
	here, there := &pooledHub{Hub: open()}, open()
	here.store.Store(&usedStore{identity: "cluster", cluster: neighbour{there}})
	var ids []string
	for i := range 7 {
		h := here.Hub
		if i%2 == 1 {
			h = there
		}
		conn, err := h.Connect(t.Context(), hub.Request{
			Identity: hub.Identity{User: []string{"alice", "bob"}[i%2]},
			Settings: &hub.Settings{Heartbeat: time.Minute, Timeout: time.Minute},
		})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, conn.ID())
	}
	hubs.LoadOrStore("cluster", here)
	t.Cleanup(func() {
		if _, err := hubs.Delete("cluster"); err != nil {
			t.Error(err)
		}
	})
	call := func(method, path string, status int, into any) {
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

	var listed []string
	for after := ""; ; {
		var p page
		call(http.MethodGet, "/sse/connections?hub=cluster&limit=2&after="+after, http.StatusOK, &p)
		if p.Count != 7 || len(p.Connections) > 2 || !slices.Equal(p.Missing, []string{"silent"}) {
			t.Errorf("a page is %+v", p)
		}
		for _, c := range p.Connections {
			listed = append(listed, c.ID)
		}
		if after = p.Next; after == "" {
			break
		}
	}
	if !slices.Equal(listed, ids) {
		t.Errorf("listed %q, want %q", listed, ids)
	}

	var ended disconnected
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
