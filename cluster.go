package caddysse

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"

	"github.com/ea766355/caddy-sse/hub"
)

// Cluster is an optional interface of a [hub.Store] that several nodes share. A node knows
// only its own connections, so it asks the other nodes about theirs.
type Cluster interface {
	// Join makes this node known to the others by its name, until the store is closed.
	// It is called once, when the hub begins to use the store. The store calls answer
	// with the requests of other nodes. answer returns at most room bytes, or nil: the request
	// is not understood, or another store has taken the place of this one.
	Join(node string, answer func(request []byte, room int) []byte) error

	// Ask sends the request to all other nodes and calls take with each answer. It
	// returns the names of the nodes that did not answer within 500 ms, or whose answer
	// take rejected by returning false.
	Ask(ctx context.Context, request []byte, take func(answer []byte) bool) (missing []string)
}

// nodeRequest is a request to each node of a cluster, as JSON.
type nodeRequest struct {
	Disconnect bool
	Users      bool   // list users, not connections
	Why        string `json:",omitempty"` // the id of an event: report its deliveries
	Filter     hub.Filter
	After      string // list only rows with a higher id or name
	Limit      int    // the most rows
}

// nodeAnswer is the answer of one node, or the merged answers of all nodes.
type nodeAnswer struct {
	Count       int
	Connections []hub.Info     // by ascending id
	Users       []hub.UserInfo // by ascending name
	More        bool           // there are more rows after the last one
	Why         *nodeWhy       `json:",omitempty"`
}

// performHere answers the request for this node. It checks all values, since another node
// may send anything.
func (r *nodeRequest) performHere(h *hub.Hub) nodeAnswer {
	if r.Disconnect {
		return nodeAnswer{Count: h.DisconnectHere(r.Filter)}
	}
	if r.Why != "" {
		position, _ := hub.ParsePosition(r.Why)
		return nodeAnswer{Why: &nodeWhy{Node: nodeName(), Why: h.Why(position, r.Filter)}}
	}
	limit := min(max(r.Limit, 1), maxPage)
	if r.Users {
		users := h.Users(r.Filter, r.After)
		n := min(len(users), limit)
		return nodeAnswer{Count: len(users), Users: users[:n], More: n < len(users)}
	}
	conns := h.Connections(r.Filter)
	found := nodeAnswer{Count: len(conns)}
	if i := slices.IndexFunc(conns, func(c *hub.Conn) bool { return c.ID() > r.After }); i >= 0 {
		conns = conns[i:]
	} else {
		conns = nil
	}
	if found.More = len(conns) > limit; found.More {
		conns = conns[:limit]
	}
	for _, c := range conns {
		found.Connections = append(found.Connections, c.Info())
	}
	return found
}

// nameNode writes the name of this node into its rows.
func (a *nodeAnswer) nameNode() {
	for i := range a.Connections {
		a.Connections[i].Node = nodeName()
	}
}

// answerNode answers another node's request with at most room bytes.
func answerNode(h *hub.Hub, request []byte, room int) []byte {
	var r nodeRequest
	if json.Unmarshal(request, &r) != nil {
		return nil
	}
	found := r.performHere(h)
	found.nameNode()
	return found.fit(room)
}

// fit encodes the answer in at most room bytes. It leaves rows out if it must: the count
// stays true, and More makes the other node ask for the rest. At least one row stays, since
// the other node asks for the rows after the last one. If one connection is too large, some
// of its topics are left out. The result is nil if the answer cannot be made to fit.
func (a *nodeAnswer) fit(room int) []byte {
	for {
		encoded, err := json.Marshal(a)
		if err != nil {
			panic(err) // strings, numbers and times
		}
		n := len(a.Connections)
		switch {
		case len(encoded) <= room:
			return encoded
		case a.Why != nil && len(a.Why.Connections) > 0:
			a.Why.Connections = a.Why.Connections[:len(a.Why.Connections)/2]
		case len(a.Users) > 1:
			a.Users, a.More = a.Users[:max(len(a.Users)*room/len(encoded), 1)], true
		case n > 1:
			a.Connections, a.More = a.Connections[:max(n*room/len(encoded), 1)], true
		case n == 1 && len(a.Connections[0].Topics) > 0:
			topics := &a.Connections[0].Topics
			*topics = (*topics)[:len(*topics)/2]
		default:
			return nil
		}
	}
}

// performOnAllNodes performs the request on all nodes and merges the answers.
func (r *nodeRequest) performOnAllNodes(ctx context.Context, h *pooledHub) (found nodeAnswer, missing []string) {
	answers, missing := r.askAllNodes(ctx, h)
	switch {
	case len(answers) == 1:
		return answers[0], missing
	case r.Users:
		return mergeUsers(answers, r.Limit), missing
	}
	return merge(answers, r.Limit), missing
}

// askAllNodes performs the request on all nodes. The first answer is that of this node.
func (r *nodeRequest) askAllNodes(ctx context.Context, h *pooledHub) (answers []nodeAnswer, missing []string) {
	answers = []nodeAnswer{r.performHere(h.Hub)}
	cluster := h.storeInUse().cluster
	if cluster == nil {
		return answers, nil
	}
	answers[0].nameNode()
	request, err := json.Marshal(r)
	if err != nil {
		panic(err) // strings, numbers and booleans
	}
	missing = cluster.Ask(ctx, request, func(answer []byte) bool {
		var other nodeAnswer
		if json.Unmarshal(answer, &other) != nil || !other.isAnswerTo(r) {
			return false // the node runs another version
		}
		answers = append(answers, other)
		return true
	})
	return answers, missing
}

// isAnswerTo reports whether a, which came from another node, can be an answer to the
// request.
func (a *nodeAnswer) isAnswerTo(r *nodeRequest) bool {
	if (a.Why != nil) != (r.Why != "") {
		return false
	}
	if r.Users {
		names := slices.IsSortedFunc(a.Users, byName) && (len(a.Users) == 0 || a.Users[0].User > r.After)
		return len(a.Connections) == 0 && a.Count >= len(a.Users) && names && (!a.More || len(a.Users) > 0)
	}
	if len(a.Connections) == 0 {
		return a.Count >= 0 && len(a.Users) == 0 && !a.More
	}
	return a.Count >= len(a.Connections) && a.Connections[0].ID > r.After && slices.IsSortedFunc(a.Connections, byID)
}

func byID(a, b hub.Info) int { return cmp.Compare(a.ID, b.ID) }

func byName(a, b hub.UserInfo) int { return cmp.Compare(a.User, b.User) }

// mergeUsers merges answers, each user once. If a node has more users than it sent, the
// result ends where the answer of that node ends.
func mergeUsers(answers []nodeAnswer, limit int) (all nodeAnswer) {
	for _, a := range answers {
		all.Users = append(all.Users, a.Users...)
	}
	slices.SortStableFunc(all.Users, byName)
	var users []hub.UserInfo
	for _, u := range all.Users {
		if n := len(users); n > 0 && users[n-1].User == u.User {
			users[n-1].Connections += u.Connections
			if u.Since.Before(users[n-1].Since) {
				users[n-1].Since = u.Since
			}
			continue
		}
		users = append(users, u)
	}
	end := min(len(users), limit)
	all.More = end < len(users)
	for _, a := range answers {
		if a.More {
			all.More = true
			last, _ := slices.BinarySearchFunc(users, a.Users[len(a.Users)-1], byName)
			end = min(end, last+1)
		}
	}
	all.Users = users[:end]
	return all
}

// merge merges answers. If a node has more connections than it sent, the result ends where
// the answer of that node ends.
func merge(answers []nodeAnswer, limit int) (all nodeAnswer) {
	for _, a := range answers {
		all.Count += a.Count
		all.Connections = append(all.Connections, a.Connections...)
	}
	slices.SortFunc(all.Connections, byID)
	end := min(len(all.Connections), limit)
	all.More = end < len(all.Connections)
	for _, a := range answers {
		if a.More {
			all.More = true
			last, _ := slices.BinarySearchFunc(all.Connections, a.Connections[len(a.Connections)-1], byID)
			end = min(end, last+1)
		}
	}
	all.Connections = all.Connections[:end]
	return all
}
