package caddysse

import (
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"slices"

	"github.com/ea766355/caddy-sse/hub"
)

// Cluster is what a store may be besides: the way to the other nodes that share
// it, since each knows only its own connections.
type Cluster interface {
	// Join makes this node known to the others by its name; answer is called with
	// what they ask. It is called once, when the store is put to use, and ends with
	// the store.
	Join(node string, answer func(request []byte) []byte) error

	// Ask sends the request to all other nodes, and returns their answers and the
	// names of those nodes that have not answered within 500 ms.
	Ask(ctx context.Context, request []byte) (answers [][]byte, missing []string)
}

// nodeRequest is what each node does for a call about connections.
type nodeRequest struct {
	Disconnect bool
	Filter     hub.Filter
	After      string // list those with a higher id
	Limit      int
}

// nodeAnswer is what one node, and then all together, have found.
type nodeAnswer struct {
	Count       int
	Connections []hub.Info // by ascending id
	More        bool
}

// perform does on this node what is asked.
func (r *nodeRequest) perform(h *hub.Hub) nodeAnswer {
	if r.Disconnect {
		return nodeAnswer{Count: h.DisconnectHere(r.Filter)}
	}
	conns := h.Connections(r.Filter)
	found := nodeAnswer{Count: len(conns)}
	if i := slices.IndexFunc(conns, func(c *hub.Conn) bool { return c.ID() > r.After }); i >= 0 {
		conns = conns[i:]
	} else {
		conns = nil
	}
	if found.More = len(conns) > r.Limit; found.More {
		conns = conns[:r.Limit]
	}
	for _, c := range conns {
		found.Connections = append(found.Connections, c.Info())
	}
	return found
}

// answerNode answers another node's request.
func answerNode(h *hub.Hub, request []byte) []byte {
	var r nodeRequest
	if json.Unmarshal(request, &r) != nil {
		return nil
	}
	answer, err := json.Marshal(r.perform(h))
	if err != nil {
		return nil
	}
	return answer
}

// everywhere does on all nodes what is asked.
func (r *nodeRequest) everywhere(req *http.Request, h *pooledHub) (found nodeAnswer, missing []string) {
	found = r.perform(h.Hub)
	cluster := h.use().cluster
	if cluster == nil {
		return found, nil
	}
	request, err := json.Marshal(r)
	if err != nil {
		panic(err) // strings, numbers and booleans
	}
	answers, missing := cluster.Ask(req.Context(), request)
	for _, answer := range answers {
		var other nodeAnswer
		if err := json.Unmarshal(answer, &other); err != nil {
			continue // a node of another version
		}
		found.Count += other.Count
		found.Connections = append(found.Connections, other.Connections...)
		found.More = found.More || other.More
	}
	slices.SortFunc(found.Connections, func(a, b hub.Info) int { return cmp.Compare(a.ID, b.ID) })
	if len(found.Connections) > r.Limit {
		found.Connections, found.More = found.Connections[:r.Limit], true
	}
	return found, missing
}
