package hub

import (
	"math"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"
)

// Identity says who a connection is. It decides which events the connection may be
// sent, live and in replay. User and Session never change.
type Identity struct {
	User    string   // empty: anonymous, which matches no user target
	Session string   // empty: none
	Topics  []Target // results of [ParseTopic]; [Hub.ChangeTopics] may change them later
}

// Settings say how connections are served. All connections of a route share them. They
// must not change after the first Connect.
type Settings struct {
	Heartbeat   time.Duration // how long a stream may be silent before a heartbeat is sent
	Timeout     time.Duration // how long a write may make no progress before the connection is dropped
	MaxLifetime time.Duration // a connection ends after 90% to 100% of this, at random; 0: never
	RetryMin    time.Duration // each connection is told a delay before it reconnects,
	RetryMax    time.Duration // drawn at random between these two

	// Limits on the open connections of the hub; 0: no limit.
	MaxConnections int
	MaxPerUser     int
	MaxPerAddr     int

	// Closed, if not nil, is called once for each connection, after the last write to
	// it. It must not block, because many connections may wait for it.
	Closed func(*Conn, Reason)
}

// Reason says why a connection has ended, or was not admitted.
type Reason string

// Reasons why connections end.
const (
	Gone         Reason = "gone"         // the client went away
	Timeout      Reason = "timeout"      // the client took no bytes for Settings.Timeout
	Replaced     Reason = "replaced"     // the client came back on a new connection
	Disconnected Reason = "disconnected" // by [Hub.Disconnect]
	Lifetime     Reason = "lifetime"     // Settings.MaxLifetime is over
	Expired      Reason = "expired"      // Request.Expires has come
	Shutdown     Reason = "shutdown"     // the process ends
	HubClosed    Reason = "hub_closed"   // no route serves the hub any more
	Polled       Reason = "polled"       // a poll has its answer
)

// isGraceful reports whether the client still gets its pending events and, except for a
// poll, sse.closing.
func (r Reason) isGraceful() bool { return r != Gone && r != Timeout && r != Replaced }

// Reasons why connections are not admitted.
const (
	TooMany        Reason = "max_connections"
	TooManyPerUser Reason = "max_connections_per_user"
	TooManyPerAddr Reason = "max_connections_per_ip"
	Starting       Reason = "starting" // the history is not open yet
)

// closeReasons lists why a connection may end, refusalReasons why Connect may refuse
// one.
var (
	closeReasons   = []Reason{Gone, Timeout, Replaced, Disconnected, Lifetime, Expired, Shutdown, HubClosed, Polled}
	refusalReasons = []Reason{TooMany, TooManyPerUser, TooManyPerAddr, Starting, Lifetime, Shutdown, HubClosed}
)

// Conn is one connection: an identity and a cursor. [Hub.Connect] makes it. Its
// exported methods may be called from any goroutine, at any time.
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
	gap         gapReason   // of the client's position, as known at Connect
	clientTag   Tag         // of the client's position
	resumed     bool        // the client gave a position, and Connect found no gap
	startedFrom startedFrom // where the cursor began
	poll        bool        // the stream ends once it has an answer
	end         time.Time   // when it ends at the latest; zero: never
	endsBy      Reason      // Lifetime or Expired: the reason at end

	// Static after open or takeOver. Nobody wakes the connection before that.
	queue   queue
	sweeper *sweeper // nil with Open

	// The right to look up and write for the connection. One goroutine at a time has it.
	turn atomic.Uint32 // the scheduling state, see turn.go

	// Guarded by Hub.mu.
	history       *history // that has its subscriptions
	topics        []Target // distinct, and sorted until a command changes them: see memo
	subscriptions []subscription
	subscribedAt  uint64 // head of history when it subscribed: commands up to it do not concern it
	reason        Reason // not empty: it has ended, and the hub does not count it any more
	limit         uint64 // head when it ended: nothing after it is sent
	aborter       Aborter
	abortTimer    *time.Timer
	graceOver     bool  // closeGrace has passed since it ended
	pinnedEvent   *byte // key in Hub.pinned of the event that it pins; nil: none
	partial       bool  // the pinned event is the one at cursor, and a part of it is unsent
	endedConn     *endedConn

	// Written by Hub.lookUp alone, in the connection's turn, with Hub.mu held for reading.
	// Any other reader holds Hub.mu for writing.
	cursorHistory *history // that the cursor is a position in
	epoch         string   // of the cursor
	startCursor   uint64   // the cursor when it was set
	replayEnd     uint64   // the head when the cursor was set: events up to it count as replayed
	knownLost     uint64   // the client knows that events up to here are lost
	stateEnd      uint64   // events up to here are sent only if they are the newest of their slot

	// Used by the goroutine that has the turn.
	socket       *socket   // nil with Open
	written      time.Time // of the last write; zero before the first block
	sentPosition uint64    // the last position that the client was sent

	// Used by the sweeper.
	alarmed    bool // it is in the wheel
	wheelSlot  int  // index of its slot in the wheel
	wheelPlace int  // its index in that slot

	watched uint64 // key in departures.conns; guarded by departures.mu

	// Written by the goroutine that has the turn, read by any.
	cursor atomic.Uint64 // everything up to here was looked up and written
	events atomic.Uint64
	bytes  atomic.Uint64

	// For Hub.Why.
	skipped atomic.Uint64 // the last event that was left out because its ttl had passed
	slowest atomic.Int64  // nanoseconds: the longest time from acceptance of an event, or from Connect, to its write
}

// subscription is the place of a connection among the subscribers of a lane. Hub.mu guards
// it.
type subscription struct {
	lane  *lane
	index int    // in lane.subscribers
	from  uint64 // the lane's events up to here are not for the connection
}

// skipTo returns the position up to which the lane has nothing for a connection whose
// cursor is seq.
func (s subscription) skipTo(seq uint64) uint64 { return max(seq, s.from) }

// subscribe makes c a subscriber of the lane, for events after from. c must not be one
// already. The caller holds Hub.mu for writing.
func (c *Conn) subscribe(l *lane, from uint64) {
	c.subscriptions = append(c.subscriptions, subscription{l, len(l.subscribers), from})
	l.subscribers = append(l.subscribers, subscriber{c, len(c.subscriptions) - 1})
}

// subscribeAll subscribes c to all lanes that its identity gives it in the history h. c
// must have no subscriptions, or have left them with unsubscribeAll. The caller holds
// Hub.mu for writing.
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

// unsubscribeAll removes c from the subscribers of its lanes. c keeps its subscriptions, so
// that pending events can still be found and written. So it must not be called twice
// without subscribeAll in between. The caller holds Hub.mu for writing.
func (c *Conn) unsubscribeAll() {
	for i := range c.subscriptions {
		c.removeSubscriber(i)
	}
}

// removeSubscriber removes c from the subscribers of one lane, that of its subscription i,
// and keeps the subscription. The last subscriber moves to the free index. It must not be
// called twice for a subscription. The caller holds Hub.mu for writing.
func (c *Conn) removeSubscriber(i int) {
	l, at := c.subscriptions[i].lane, c.subscriptions[i].index
	n := len(l.subscribers) - 1
	last := l.subscribers[n]
	l.subscribers[at], l.subscribers[n] = last, subscriber{}
	l.subscribers = l.subscribers[:n]
	last.subscriptions[last.index].index = at
	c.history.removeIfUnused(l)
}

// unsubscribe drops subscription i for good: pending events of its lane are not sent any
// more. The last subscription moves to index i. c must not have ended. The caller holds
// Hub.mu for writing.
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

// changeTopics adds and removes topics at the position seq, and reports whether that
// changed anything. c must not have ended. The caller holds Hub.mu for writing. Only
// [Hub.changeTopics] calls it.
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

// abortWrite aborts the write of an ended connection whose grace period is over. It runs
// again and again until the writer has ended, because a write that begins while it runs may
// set its own deadline after the abort. If there is no writer yet, setAborterLocked starts
// abortWrite when there is one. Only the timer that detach sets calls it, on a goroutine of
// its own. The caller must not hold Hub.mu.
func (c *Conn) abortWrite() {
	c.hub.lockQueued()
	c.graceOver = true
	aborter := c.aborter
	if aborter != nil {
		c.abortTimer.Reset(closeGrace / 8)
	}
	c.hub.unlockQueued()
	if aborter != nil {
		aborter.Abort()
	}
}

// ID returns the connection's id, a UUID of version 7.
func (c *Conn) ID() string { return c.id }

// Info describes an open connection.
type Info struct {
	ID       string    `json:"id"`
	Node     string    `json:"node,omitempty"` // the node that has it; empty in a hub, which knows no nodes
	User     string    `json:"user,omitempty"`
	Session  string    `json:"session,omitempty"`
	Topics   []string  `json:"topics,omitempty"`
	Protocol string    `json:"protocol"`
	Remote   string    `json:"remote"`
	Since    time.Time `json:"since"`
	Position string    `json:"position"`
	Lag      int       `json:"lag"` // number of its events that are not written yet; an event for several of its topics may count several times
}

// Info describes the connection as it is now. It waits for the hub's lock. Any goroutine
// may call it, but [Store].Retain must not.
func (c *Conn) Info() Info {
	info := c.About()
	c.hub.mu.Lock()
	cursor := c.cursor.Load()
	info.Position = c.position(cursor).String()
	c.hub.mu.Unlock()
	c.hub.mu.RLock()
	defer c.hub.mu.RUnlock()
	for _, t := range c.topics {
		info.Topics = append(info.Topics, t.Name)
	}
	info.Lag = lag(c.history, c.subscriptions, cursor)
	return info
}

// About returns the part of Info that never changes: all but Topics, Position and Lag. It
// takes no lock. Any goroutine may call it.
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

// position returns the position of the cursor, with its tag if that is known. The caller
// holds Hub.mu for writing, because lookUp changes fields of c with Hub.mu held for
// reading.
func (c *Conn) position(cursor uint64) Position {
	if c.cursorHistory == c.hub.history {
		return c.cursorHistory.position(cursor)
	}
	return Position{Epoch: c.epoch, Seq: cursor}
}

// lagLooks bounds how many events lag looks at while the hub is locked.
const lagLooks = 10_000

// lag counts the events that the lanes of the subscriptions have after the position seq. It
// is at least the number of pending events: an event in several lanes counts several times.
// It leaves out replaced events among the first lagLooks. The lanes belong to h. The caller
// holds Hub.mu.
func lag(h *history, subscriptions []subscription, seq uint64) int {
	n, looks := 0, lagLooks
	for _, s := range subscriptions {
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

// Sent returns how many events, and how many bytes of all blocks, were written so far. It
// takes no lock.
func (c *Conn) Sent() (events, bytes uint64) { return c.events.Load(), c.bytes.Load() }

// reportClosed reports that nothing is written to c any more: it calls Settings.Closed. c
// has ended, and its last writer calls it, once. The caller must not hold Hub.mu.
func (c *Conn) reportClosed(reason Reason) {
	c.hub.endedConns.finalize(c.endedConn)
	if f := c.settings.Closed; f != nil {
		f(c, reason)
	}
}
