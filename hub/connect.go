package hub

import (
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/google/uuid"
)

// Earliest, as the position of a Request, asks for all that is retained.
const Earliest = "earliest"

// farewell is how long an ended connection may take to be told so, before a
// write that is stuck is cut off.
const farewell = 2 * time.Second

// Request asks for a connection.
type Request struct {
	Identity
	*Settings
	Position string     // of the last event the client has, or Earliest, or empty: the head
	Previous string     // id of a connection of the same client that this one replaces
	Expires  time.Time  // when the login ends; zero: never
	Protocol string     // for Info and Stats
	Addr     netip.Addr // of the client, for MaxPerAddr
}

// Refusal is the error of Connect: the client is to come back later, or, on
// HubClosed, not at all.
type Refusal struct {
	Reason Reason
	Retry  time.Duration // how much later
}

func (r *Refusal) Error() string { return "connection refused: " + string(r.Reason) }

// Connect admits a connection and gives it a cursor. Its error is a *Refusal.
func (h *Hub) Connect(r Request) (*Conn, error) {
	c := &Conn{
		hub: h, id: newID(), identity: r.Identity, settings: r.Settings,
		protocol: r.Protocol, addr: r.Addr, since: time.Now(),
		wake: make(chan struct{}, 1),
	}
	if r.MaxLifetime > 0 {
		c.end, c.endsBy = c.since.Add(between(r.MaxLifetime*9/10, r.MaxLifetime)), Lifetime
	}
	if !r.Expires.IsZero() && (c.end.IsZero() || r.Expires.Before(c.end)) {
		c.end, c.endsBy = r.Expires, Expired
	}

	h.mu.Lock()
	defer h.mu.Unlock()
	if l := h.history.lanes[Target{Connection, r.Previous}]; l != nil && len(l.conns) > 0 {
		if p := l.conns[0]; p.identity.User == r.User && p.identity.Session == r.Session {
			h.detach(p, Replaced)
		}
	}
	if err := h.admit(r); err != nil {
		h.stats.rejected.add(string(err.Reason), 1)
		return nil, err
	}
	h.attach(c)
	h.place(c, r.Position)
	return c, nil
}

// admit is the decision of Connect. mu is held.
func (h *Hub) admit(r Request) *Refusal {
	over := func(limit, open int) bool { return limit > 0 && open >= limit }
	perUser := 0
	if l := h.history.lanes[Target{User, r.User}]; l != nil && r.User != "" {
		perUser = len(l.conns)
	}
	// Those turned away stay away for long, and do not come back together.
	retry := between(30*time.Second, 90*time.Second)
	switch {
	case h.ending != "":
		return &Refusal{h.ending, between(r.RetryMin, r.RetryMax)}
	case over(r.MaxConnections, len(h.history.all.conns)):
		return &Refusal{TooMany, retry}
	case over(r.MaxPerUser, perUser):
		return &Refusal{TooManyPerUser, retry}
	case over(r.MaxPerAddr, h.addrs[r.Addr]):
		return &Refusal{TooManyPerAddr, retry}
	}
	return nil
}

// attach makes c one of the hub's connections. mu is held.
func (h *Hub) attach(c *Conn) {
	h.addrs[c.addr]++
	h.stats.opened.Add(1)
	h.stats.connections.add(c.protocol, 1)
	c.sit(h.history.all)
	c.sit(h.history.lane(Target{Connection, c.id}))
	if c.identity.User != "" {
		l := h.history.lane(Target{User, c.identity.User})
		if len(l.conns) == 0 {
			h.users++
		}
		c.sit(l)
	}
	if c.identity.Session != "" {
		c.sit(h.history.lane(Target{Session, c.identity.Session}))
	}
	for _, t := range c.identity.Topics {
		c.sit(h.history.lane(t))
	}
}

// detach ends c: from here on it counts no more, and what is published is not
// for it. Its writer is woken to say goodbye, and cut off if it is stuck. mu is
// held.
func (h *Hub) detach(c *Conn, reason Reason) {
	if c.reason != "" {
		return
	}
	c.reason, c.limit = reason, h.history.head
	if h.addrs[c.addr]--; h.addrs[c.addr] == 0 {
		delete(h.addrs, c.addr)
	}
	h.stats.closed.add(string(reason), 1)
	h.stats.connections.add(c.protocol, -1)
	c.leave(h.history)
	if u := c.identity.User; u != "" {
		if l := h.history.lanes[Target{User, u}]; l == nil || len(l.conns) == 0 {
			h.users--
		}
	}
	c.poke()
	c.cut = time.AfterFunc(farewell, c.cutOff)
}

// place sets where c begins: after the position that the client gave, or with a
// gap at what is left. mu is held.
func (h *Hub) place(c *Conn, position string) {
	hi := h.history
	hi.evict(time.Now())
	c.first = hi.head
	cursor := hi.oldest - 1
	switch p, ok := ParsePosition(position); {
	case position == "":
		cursor = hi.head
	case position == Earliest:
	case !ok:
		c.gap = gapInvalid
	case p.Epoch != h.epoch:
		c.gap = gapEpoch
	case p.Seq > hi.head:
		c.gap = gapInvalid
	case p.Seq < hi.floor || hi.lost(c.seats, p.Seq):
		c.gap = gapEvicted
		cursor = max(cursor, p.Seq)
	default:
		cursor = p.Seq
		c.resumed = true
	}
	c.cursor.Store(cursor)
}

// newID is a UUID of version 7, so that ids sort by the time of opening.
func newID() string { return uuid.Must(uuid.NewV7()).String() }

// between draws from [low, high].
func between(low, high time.Duration) time.Duration {
	if high <= low {
		return low
	}
	return low + rand.N(high-low+1)
}
