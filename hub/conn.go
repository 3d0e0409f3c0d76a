package hub

import (
	"math"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"
)

// Identity is who a connection is. It decides what the connection may be sent,
// live and in replay. User and Session never change.
type Identity struct {
	User    string   // empty: anonymous, which matches no user target
	Session string   // empty: none
	Topics  []Target // of ParseTopic; commands may change them later
}

// Settings are how connections are served. They are shared by all connections
// of a route and not changed after the first Connect.
type Settings struct {
	Heartbeat   time.Duration // of silence, after which one is sent
	Timeout     time.Duration // without progress of a write, after which the connection is dropped
	MaxLifetime time.Duration // a connection ends after nine to ten tenths of it; 0: never
	RetryMin    time.Duration // the bounds between which each connection's
	RetryMax    time.Duration // own delay before reconnecting is drawn

	// Caps on the open connections of the hub, each 0 for none.
	MaxConnections int
	MaxPerUser     int
	MaxPerAddr     int

	// Closed, if not nil, is called once for each connection, when nothing is written
	// to it any more. Many connections may wait for it: it must not wait for anything.
	Closed func(*Conn, Reason)
}

// Reason says why a connection ended, or was not admitted.
type Reason string

// Why connections end.
const (
	Gone         Reason = "gone"         // the client went away
	Timeout      Reason = "timeout"      // the client took no bytes
	Replaced     Reason = "replaced"     // the client came back on a new connection
	Disconnected Reason = "disconnected" // by Disconnect
	Lifetime     Reason = "lifetime"     // Settings.MaxLifetime
	Expired      Reason = "expired"      // Request.Expires
	Shutdown     Reason = "shutdown"     // the process ends
	HubClosed    Reason = "hub_closed"   // nothing serves the hub any more
	Polled       Reason = "polled"       // a poll has its answer
)

// told reports whether the client is sent what is pending, and sse.closing unless
// it was a poll.
func (r Reason) isGraceful() bool { return r != Gone && r != Timeout && r != Replaced }

// Why connections are not admitted.
const (
	TooMany        Reason = "max_connections"
	TooManyPerUser Reason = "max_connections_per_user"
	TooManyPerAddr Reason = "max_connections_per_ip"
	Starting       Reason = "starting" // the history is not open yet
)

// closeReasons are all why a connection may end, refusalReasons all why Connect may
// refuse one.
var (
	closeReasons   = []Reason{Gone, Timeout, Replaced, Disconnected, Lifetime, Expired, Shutdown, HubClosed, Polled}
	refusalReasons = []Reason{TooMany, TooManyPerUser, TooManyPerAddr, Starting, Shutdown, HubClosed}
)

// Conn is one open stream: an identity and a cursor. Connect makes it, and then
// Open and Serve, or TakeOver, must be called on it once. All its other exported
// methods may be called from any goroutine.
type Conn struct {
	// Static after Connect.
	hub         *Hub
	id          string
	identity    Identity
	settings    *Settings
	protocol    string
	addr        netip.Addr
	network     netip.Addr
	since       time.Time
	gap         gapReason   // known at Connect
	clientTag   Tag         // of the client's position
	resumed     bool        // a position was given, and it is not known to be a gap
	startedFrom startedFrom // how it began
	poll        bool        // it ends once it has an answer
	end         time.Time   // zero: never
	endsBy      Reason      // Lifetime or Expired

	// Static after Open or TakeOver, which is before anybody pokes it.
	queue   queue
	sweeper *sweeper // nil with Open

	turn atomic.Uint32 // who writes for it

	// Guarded by Hub.mu.
	history       *history // in which it has its seats
	topics        []Target // distinct, and at first in order: see batch.shared
	subscriptions []subscription
	subscribedAt  uint64 // head when it took them: commands up to it do not concern it
	reason        Reason // not empty: it has ended, and is not in the hub any more
	limit         uint64 // head when it ended: nothing after it is sent
	aborter       Aborter
	abortTimer    *time.Timer
	graceOver     bool  // its farewell is over
	pinnedEvent   *byte // key of Hub.held; nil: it is not stuck in an event
	endedConn     *endedConn

	// Written by look alone, in its turn, which holds Hub.mu for reading.
	cursorHistory *history // in which the cursor is a place
	epoch         string   // of the cursor
	startCursor   uint64   // cursor when it was placed
	replayEnd     uint64   // head when it was placed: what is not after it is replayed
	knownLost     uint64   // the client knows of what is lost up to here
	stateEnd      uint64   // up to here it gets the newest of each slot alone

	// Used by whoever has the turn.
	socket       *socket   // nil with Open
	written      time.Time // when the client last got anything; zero before the first block
	sentPosition uint64    // the position that the client was last given

	// Used by the sweeper.
	alarmed    bool // it is in the wheel
	wheelSlot  int  // the slot of the wheel that has it
	wheelPlace int  // its index in that slot

	watched uint64 // guarded by departures.mu

	// Written by whoever has the turn, and read by all.
	cursor atomic.Uint64 // looked up to here, and written
	events atomic.Uint64
	bytes  atomic.Uint64

	// What Why knows it by.
	skipped atomic.Uint64 // the last event for it that was left out, since its ttl had passed
	slowest atomic.Int64  // nanoseconds: no event was written later than this after it was accepted, or c came
}

// seat is the place of a connection among the listeners of a lane.
type subscription struct {
	lane  *lane
	index int    // index in lane.conns
	from  uint64 // events up to this position are not for the connection by this lane
}

// last is how far events need not be looked for, if seq is how far they were.
func (s subscription) skipTo(seq uint64) uint64 { return max(seq, s.from) }

// sit makes c a listener of the lane, for events after a position. It must not be
// one already. Hub.mu is held.
func (c *Conn) subscribe(l *lane, from uint64) {
	c.subscriptions = append(c.subscriptions, subscription{l, len(l.subscribers), from})
	l.subscribers = append(l.subscribers, subscriber{c, len(c.subscriptions) - 1})
}

// takeSeats makes c a listener of all the lanes that its identity gives it.
// Hub.mu is held.
func (c *Conn) subscribeAll(h *history) {
	c.history, c.subscribedAt = h, h.head
	c.subscriptions = nil
	c.subscribe(h.all, 0)
	c.subscribe(h.lane(Target{Connection, c.id}), 0)
	if c.identity.User != "" {
		c.subscribe(h.lane(Target{User, c.identity.User}), 0)
	}
	if c.identity.Session != "" {
		c.subscribe(h.lane(Target{Session, c.identity.Session}), 0)
	}
	for _, t := range c.topics {
		c.subscribe(h.lane(t), 0)
	}
}

// leave takes c off the lists of its lanes. It keeps its seats, so that pending events
// can still be written. Hub.mu is held.
func (c *Conn) unsubscribeAll() {
	for i := range c.subscriptions {
		c.removeSubscriber(i)
	}
}

// unlist takes a seat off the list of its lane. The last listener takes the free
// place. Hub.mu is held.
func (c *Conn) removeSubscriber(i int) {
	l, at := c.subscriptions[i].lane, c.subscriptions[i].index
	n := len(l.subscribers) - 1
	last := l.subscribers[n]
	l.subscribers[at], l.subscribers[n] = last, subscriber{}
	l.subscribers = l.subscribers[:n]
	last.subscriptions[last.index].index = at
	c.history.removeIfUnused(l)
}

// giveUp is unlist for a seat that c does not keep: its last seat takes the place.
// Hub.mu is held.
func (c *Conn) unsubscribe(i int) {
	c.removeSubscriber(i)
	n := len(c.subscriptions) - 1
	c.subscriptions[i] = c.subscriptions[n]
	c.subscriptions[n] = subscription{}
	c.subscriptions = c.subscriptions[:n]
	if i < n {
		c.subscriptions[i].lane.subscribers[c.subscriptions[i].index].index = i
	}
}

// changeTopics adds and removes topics at a position, and reports whether that
// changes anything. Hub.mu is held.
func (c *Conn) changeTopics(add []Target, remove map[Target]struct{}, seq uint64) (changed bool) {
	for i := len(c.subscriptions) - 1; i >= 0; i-- {
		if _, ok := remove[c.subscriptions[i].lane.target]; ok {
			c.unsubscribe(i)
			changed = true
		}
	}
	have := make(map[Target]struct{}, len(c.topics))
	c.topics = slices.DeleteFunc(slices.Clone(c.topics), func(t Target) bool {
		have[t] = struct{}{}
		_, removed := remove[t]
		return removed
	})
	for _, t := range add {
		if _, ok := have[t]; ok {
			continue
		}
		have[t] = struct{}{}
		c.topics = append(c.topics, t)
		c.subscribe(c.history.lane(t), seq)
		changed = true
	}
	return changed
}

// cutOff runs when an ended connection's farewell is over. It repeats itself,
// since a write that began at that very moment may have set its own deadline
// after the cut. For one whose writer has not begun it waits for that.
func (c *Conn) abortWrite() {
	c.hub.lockQueued()
	c.graceOver = true
	cutter := c.aborter
	if cutter != nil {
		c.abortTimer.Reset(closeGrace / 8)
	}
	c.hub.unlockQueued()
	if cutter != nil {
		cutter.Abort()
	}
}

// ID is the connection's id, a UUID of version 7.
func (c *Conn) ID() string { return c.id }

// Info describes an open connection.
type Info struct {
	ID       string    `json:"id"`
	User     string    `json:"user,omitempty"`
	Session  string    `json:"session,omitempty"`
	Topics   []string  `json:"topics,omitempty"`
	Protocol string    `json:"protocol"`
	Remote   string    `json:"remote"`
	Since    time.Time `json:"since"`
	Position string    `json:"position"`
	Lag      int       `json:"lag"` // events addressed to it and not yet written; one for several of its topics may count several times
}

// Info describes the connection as it is now.
func (c *Conn) Info() Info {
	info := c.About()
	c.hub.mu.RLock()
	defer c.hub.mu.RUnlock()
	cursor := c.cursor.Load()
	info.Position = c.position(cursor).String()
	for _, t := range c.topics {
		info.Topics = append(info.Topics, t.Name)
	}
	info.Lag = lag(c.history, c.subscriptions, cursor)
	return info
}

// About is the part of Info that never changes, without Topics, Position and Lag. It
// takes no lock.
func (c *Conn) About() Info {
	info := Info{
		ID: c.id, User: c.identity.User, Session: c.identity.Session,
		Protocol: c.protocol, Since: c.since,
	}
	if c.addr.IsValid() {
		info.Remote = c.addr.String()
	}
	return info
}

// position is that of its cursor. Hub.mu is held.
func (c *Conn) position(cursor uint64) Position {
	if c.cursorHistory == c.hub.history {
		return c.cursorHistory.position(cursor)
	}
	return Position{Epoch: c.epoch, Seq: cursor}
}

// lagLooks is how many events lag looks at, since the hub is locked meanwhile.
const lagLooks = 10_000

// lag is at least how many events the seats' lanes have after the position seq, and
// at most that for each lane. What is not delivered any more does not count, as far as
// it looks.
func lag(h *history, seats []subscription, seq uint64) int {
	n, looks := 0, lagLooks
	for _, s := range seats {
		l, seq := s.lane, s.skipTo(seq)
		if !l.hasAfter(seq) {
			continue
		}
		pending := l.seqs[l.indexAfter(seq):]
		n += len(pending)
		pending = pending[:min(len(pending), looks)]
		looks -= len(pending)
		for _, at := range pending {
			if h.entry(at).expires == math.MinInt64 {
				n--
			}
		}
	}
	return min(n, int(h.head-min(seq, h.head)))
}

// Sent is how many events, and bytes with all that is around them, were
// written so far.
func (c *Conn) Sent() (events, bytes uint64) { return c.events.Load(), c.bytes.Load() }

// closed tells that c has ended. Whoever ends the writing to c calls it once.
func (c *Conn) reportClosed(reason Reason) {
	c.hub.endedConns.finalize(c.endedConn)
	if f := c.settings.Closed; f != nil {
		f(c, reason)
	}
}
