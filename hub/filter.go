package hub

import (
	"cmp"
	"context"
	"slices"
	"time"
)

// Filter chooses connections. A connection must match every list that is not empty, and
// matches a list if it matches one of its elements.
type Filter struct {
	IDs      []string `json:"ids,omitempty"`
	Users    []string `json:"users,omitempty"`
	Sessions []string `json:"sessions,omitempty"`
	Topics   []string `json:"topics,omitempty"` // exact names of topics whose events the connection gets
}

// Connections lists the open connections that the filter chooses, in the order in which
// they began, which is the order of their ids. Any goroutine may call it.
func (h *Hub) Connections(f Filter) []*Conn {
	conns := h.matching(f)
	slices.SortFunc(conns, func(a, b *Conn) int { return cmp.Compare(a.id, b.id) })
	return conns
}

// UserInfo is a user with open connections.
type UserInfo struct {
	User        string    `json:"user"`
	Connections int       `json:"connections"`
	Since       time.Time `json:"since"` // when the first of them began
}

// Users lists the users of the open connections that the filter chooses, sorted by name. It
// lists only names after the given one. Any goroutine may call it.
func (h *Hub) Users(f Filter, after string) []UserInfo {
	users := make(map[string]*UserInfo)
	for _, c := range h.matching(f) {
		name := c.identity.User
		if name <= after {
			continue // anonymous, or on an earlier page
		}
		u := users[name]
		if u == nil {
			u = &UserInfo{User: name, Since: c.since}
			users[name] = u
		}
		u.Connections++
		if c.since.Before(u.Since) {
			u.Since = c.since
		}
	}
	list := make([]UserInfo, 0, len(users))
	for _, u := range users {
		list = append(list, *u)
	}
	slices.SortFunc(list, func(a, b UserInfo) int { return cmp.Compare(a.User, b.User) })
	return list
}

// Disconnect ends the connections of this node that the filter chooses, at once. If other
// nodes share the store, it then stores a command. They end their connections when their
// history reaches it, so before they deliver what is published after Disconnect has
// returned. Clients may come back: authentication decides. It returns how many connections
// have ended here, even if it also returns an error. Its errors are those of
// [Hub.Publish], and mean that other nodes may not learn of the command. Any goroutine may
// call it. The caller must not hold Hub.mu.
func (h *Hub) Disconnect(ctx context.Context, f Filter) (int, error) {
	n := h.DisconnectHere(f)
	if !h.sharesStore() {
		return n, nil
	}
	_, err := h.storeEntries(ctx, []Entry{{Data: encodeCommand(&Command{Disconnect: &f})}})
	return n, err
}

// ChangeTopics stores a command that changes the topics of connections, and returns its
// position. Every node executes it before it delivers later events, even a node that is cut
// off now. Clients are sent sse.topics. Its errors are those of [Hub.Publish]; a
// [*BatchError] means that a name is invalid. Any goroutine may call it.
func (h *Hub) ChangeTopics(ctx context.Context, change TopicChange) (Position, error) {
	for _, name := range slices.Concat(change.Add, change.Remove) {
		if err := (Target{Topic, name}).validate(); err != nil {
			return Position{}, &BatchError{0, err}
		}
	}
	record := encodeCommand(&Command{Topics: &change})
	stored, err := h.storeEntries(ctx, []Entry{{Data: record}})
	if err != nil {
		return Position{}, err
	}
	stored[0].Position.Tag = TagOf(record)
	return stored[0].Position, nil
}

// DisconnectHere ends the connections of this node that the filter chooses, and returns
// their number. Other nodes do not learn of it. Any goroutine may call it.
func (h *Hub) DisconnectHere(f Filter) int {
	h.mu.Lock()
	h.rightsChanges.add(f)
	h.mu.Unlock()
	n := 0
	for _, c := range h.matching(f) {
		h.mu.Lock()
		if c.reason == "" {
			h.detach(c, Disconnected)
			n++
		}
		h.mu.Unlock()
	}
	return n
}

// matching returns the open connections that the filter chooses, in no order. It looks up
// lanes, so its cost grows with what the filter matches, not with all connections.
// Connections that begin or end meanwhile may be there or not. Any goroutine may call it.
// The caller must not hold Hub.mu.
func (h *Hub) matching(f Filter) (conns []*Conn) {
	h.betweenMoves(func() { conns = h.matchingOnce(f) })
	return conns
}

// matchingOnce does the work of matching. It may miss connections that move to a new
// history meanwhile. Only matching calls it. The caller must not hold Hub.mu.
func (h *Hub) matchingOnce(f Filter) (conns []*Conn) {
	var lists [][]laneSize
	for kind, names := range map[Kind][]string{Connection: f.IDs, User: f.Users, Session: f.Sessions, Topic: f.Topics} {
		if len(names) == 0 {
			continue
		}
		targets := make([]Target, len(names))
		for i, name := range names {
			targets[i] = Target{kind, name}
		}
		var lanes []laneSize
		for some := range slices.Chunk(targets, MaxTargets) { // the lock is held for each of them alone
			found, _ := h.lanesWithSubscribers(some)
			lanes = append(lanes, found...)
		}
		lists = append(lists, lanes)
	}
	if len(lists) == 0 {
		lanes, _ := h.lanesWithSubscribers([]Target{{}})
		lists = append(lists, lanes)
	}
	// For each connection: how many of the lists it matches.
	fits := make(map[*Conn]int)
	buf := make([]*Conn, 0, subscribersAtOnce) // so that nothing is allocated under the lock
	for i, lanes := range lists {
		for _, l := range lanes {
			h.eachSubscriber(l.lane, buf, func(c *Conn) {
				if fits[c] == i {
					fits[c]++
				}
			})
		}
	}
	for c, n := range fits {
		if n == len(lists) {
			conns = append(conns, c)
		}
	}
	return conns
}
