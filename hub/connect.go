package hub

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/google/uuid"
)

// Earliest is a Request.Position: it asks for everything that is retained.
const Earliest = "earliest"

// closeGrace is how long an ended connection has to receive its pending events and
// sse.closing. After that a write that is stuck is aborted.
const closeGrace = 2 * time.Second

// Request asks [Hub.Connect] for a connection.
type Request struct {
	Identity
	*Settings
	Position string     // of the last event that the client has; Earliest; or empty: the head
	State    bool       // without a Position: send the newest event of each slot first
	Previous string     // id of a connection of the same client, which this one replaces
	Expires  time.Time  // when the login ends; zero: never
	Poll     bool       // the stream ends after its first events, or after Settings.Heartbeat
	Protocol string     // label for Info and Stats
	Addr     netip.Addr // address of the client, for Info
	Network  netip.Addr // key that Settings.MaxPerAddr counts by; invalid: no limit
	Full     bool       // refuse: the process can hold no more connections

	// Began is when the client asked, before it was authenticated. If its rights have been
	// changed since then, the client is turned away with the reason [Lifetime], and comes
	// back at once. Zero: the rights are those of now.
	Began time.Time

	// Suspend, if set, calls wait and returns its error. Connect calls it at most once, when
	// it has to wait for the history, which may take seconds. So the caller can let others go
	// ahead meanwhile. If Suspend returns an error, then there is no connection.
	Suspend func(wait func() error) error
}

// Refusal is the error of [Hub.Connect] when the client should come back later.
type Refusal struct {
	Reason Reason
	Retry  time.Duration // how much later
}

func (r *Refusal) Error() string { return "connection refused: " + string(r.Reason) }

// Connect admits a connection and sets its cursor. It waits until the history is open and,
// in a store that nodes share, has reached the client's position. It does not wait longer
// than startTimeout. Its error is a [*Refusal], or that of ctx. After an error there is no
// connection. Otherwise the caller must call one of the methods that [Pending] names. Any
// goroutine may call it.
func (h *Hub) Connect(ctx context.Context, r Request) (Pending, error) {
	if err := h.awaitPosition(ctx, r.Position, r.Suspend); err != nil {
		if refusal, ok := errors.AsType[*Refusal](err); ok {
			h.refuse(r, refusal.Reason)
		}
		return Pending{}, err
	}
	c := &Conn{
		hub: h, id: newID(), identity: r.Identity, topics: distinct(r.Topics), settings: r.Settings,
		poll: r.Poll, protocol: r.Protocol, addr: r.Addr, network: r.Network, since: time.Now(),
	}
	c.identity.Topics = nil // c.topics has them
	if r.MaxLifetime > 0 {
		c.end, c.endsBy = c.since.Add(between(r.MaxLifetime-r.MaxLifetime/10, r.MaxLifetime)), Lifetime
	}
	if !r.Expires.IsZero() && (c.end.IsZero() || r.Expires.Before(c.end)) {
		c.end, c.endsBy = r.Expires, Expired
	}

	h.lockLearned(r.Topics)
	defer h.unlockQueued()
	if p := h.connection(r.Previous); p != nil && p.identity.User == r.User && p.identity.Session == r.Session {
		h.detach(p, Replaced)
	}
	if err := h.admit(r); err != nil {
		h.refuse(r, err.Reason)
		return Pending{}, err
	}
	h.attach(c)
	h.setCursor(c, r.Position, r.State)
	return Pending{c}, nil
}

// distinct returns a copy of the topics, sorted and without duplicates.
func distinct(topics []Target) []Target {
	topics = slices.Clone(topics)
	slices.SortFunc(topics, func(a, b Target) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Kind, b.Kind)) })
	return slices.Compact(topics)
}

// lockLearned locks Hub.mu for writing, once the history has learned the shapes of the
// topics ([shape]) and has evicted what exceeds its bounds. The caller must not hold Hub.mu
// before. It calls unlockQueued afterwards.
func (h *Hub) lockLearned(topics []Target) {
	for {
		h.learnShapes(topics) // before trimAll, so that patterns learn what they lose by it
		h.trimAll(time.Now())
		h.lockQueued()
		if !slices.ContainsFunc(topics, func(t Target) bool { return !h.history.hasLearned(t) }) {
			return
		}
		h.unlockQueued() // a new history has begun meanwhile
	}
}

// awaitPosition waits until the history is open and has received everything up to the
// position. It waits at most startTimeout. It returns nil also if the position does not
// arrive in time: then the client gets a gap. But if the history is known to be incomplete,
// it returns a [*Refusal]: the client tries again, here or on another node, and misses
// nothing. It returns the error of ctx if ctx ends. For suspend see [Request.Suspend].
//
// Any goroutine may call it. The caller must not hold Hub.mu.
func (h *Hub) awaitPosition(ctx context.Context, position string, suspend func(wait func() error) error) error {
	p, given := ParsePosition(position)
	arrived := func() bool {
		switch {
		case h.endReason != "":
			return true
		case !h.source.open:
			return false
		case !given || !h.source.Shared():
			return true
		case p.Epoch != h.history.epoch:
			return h.isWhole() // otherwise the epoch may be one that this node has yet to learn
		}
		return p.Seq <= h.history.head
	}
	switch {
	case h.check(arrived): // almost always
		return nil
	case suspend != nil:
		return suspend(func() error { return h.pollHistory(ctx, arrived) })
	}
	return h.pollHistory(ctx, arrived)
}

// pollHistory does the waiting of awaitPosition. It looks now and then, and is not woken as
// [Hub.await] is: very many clients may wait here, and each record would wake all of them
// while Hub.mu is held.
func (h *Hub) pollHistory(ctx context.Context, arrived func() bool) error {
	end, pause := time.Now().Add(startTimeout), 5*time.Millisecond
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for left := startTimeout; left > 0; left = time.Until(end) {
		pause = min(2*pause, maxArrivalPause, left)
		timer.Reset(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		if h.check(arrived) {
			return nil
		}
	}
	if !h.check(h.isWhole) {
		return &Refusal{Starting, between(time.Second, 5*time.Second)}
	}
	return nil
}

// maxArrivalPause is the longest pause between two looks of pollHistory. With it, 10,000
// waiting clients take a fifth of a CPU.
const maxArrivalPause = 100 * time.Millisecond

// isWhole reports whether the history is open and has everything that is stored, as far as
// this node knows. The caller holds Hub.mu.
func (h *Hub) isWhole() bool {
	return h.source.open && h.source.problem == nil && h.source.behind == 0
}

// admit decides whether Connect admits the request; nil: it does. It counts nothing: the
// caller then calls attach, under the same lock, so that nobody else gets the place. The
// caller holds Hub.mu for writing.
func (h *Hub) admit(r Request) *Refusal {
	over := func(limit, open int) bool { return limit > 0 && open >= limit }
	// Refused clients stay away for long, and do not come back at the same time.
	retry := between(30*time.Second, 90*time.Second)
	switch {
	case h.endReason != "":
		return &Refusal{h.endReason, between(r.RetryMin, r.RetryMax)}
	case !h.source.open: // another history has begun since awaitPosition
		return &Refusal{Starting, between(time.Second, 5*time.Second)}
	case h.rightsChanges.concern(r):
		return &Refusal{Lifetime, between(100*time.Millisecond, 500*time.Millisecond)}
	case r.Full, over(r.MaxConnections, h.countSubscribers(Target{})):
		return &Refusal{TooMany, retry}
	case over(r.MaxPerUser, h.countSubscribers(Target{User, r.User})):
		return &Refusal{TooManyPerUser, retry}
	case r.Network.IsValid() && over(r.MaxPerAddr, h.networks[r.Network]):
		return &Refusal{TooManyPerAddr, retry}
	}
	return nil
}

// attach counts c as a connection of the hub and subscribes it. Only Connect calls it, once
// for a connection. The caller holds Hub.mu for writing.
func (h *Hub) attach(c *Conn) {
	if c.network.IsValid() {
		h.networks[c.network]++
	}
	h.stats.opened.Add(1)
	h.stats.connections.add(c.protocol, 1)
	if u := c.identity.User; u != "" && h.countSubscribers(Target{User, u}) == 0 {
		h.users++
	}
	c.subscribeAll(h.history)
}

// detach ends c: the hub does not count it any more, and events that are published later
// are not for it. Its writer wakes up to write what is pending and sse.closing, and is
// aborted after closeGrace. It does nothing if c has already ended. The caller holds Hub.mu
// for writing.
func (h *Hub) detach(c *Conn, reason Reason) {
	if c.reason != "" {
		return
	}
	c.reason, c.limit = reason, h.history.head
	c.endedConn = c.snapshot()
	h.endedConns.add(c.endedConn)
	if h.networks[c.network]--; h.networks[c.network] <= 0 {
		delete(h.networks, c.network)
	}
	h.stats.closed.add(string(reason), 1)
	h.stats.connections.add(c.protocol, -1)
	c.unsubscribeAll()
	if u := c.identity.User; u != "" && h.countSubscribers(Target{User, u}) == 0 {
		h.users--
	}
	c.wake()
	c.abortTimer = time.AfterFunc(closeGrace, c.abortWrite)
}

// setCursor sets where c begins: after the client's position, or after a gap. Only Connect
// calls it, after attach. The caller holds Hub.mu for writing.
func (h *Hub) setCursor(c *Conn, position string, state bool) {
	hi := h.history
	hi.evict(time.Now())
	c.cursorHistory, c.epoch, c.replayEnd = hi, hi.epoch, hi.head
	var cursor uint64
	p, ok := ParsePosition(position)
	switch c.clientTag = p.Tag; {
	case position == "" && state:
		cursor, c.stateEnd = hi.oldest-1, hi.head
	case position == "":
		cursor = hi.head
	case position == Earliest:
		cursor = hi.oldest - 1
	case !ok:
		cursor, c.gap = hi.oldest-1, gapInvalid
	default:
		cursor, c.gap = hi.resume(p, c.subscriptions)
		c.resumed = c.gap == noGap
	}
	c.cursor.Store(cursor)
	c.startedFrom, c.startCursor = startedFromOf(position, state), cursor
	c.sentPosition, c.knownLost = cursor, hi.lastLostTo(c.subscriptions)
}

// newID returns a UUID of version 7: ids sort by time of creation.
func newID() string { return uuid.Must(uuid.NewV7()).String() }

// between draws from [low, high); low if high is not more. low must not be negative.
func between(low, high time.Duration) time.Duration {
	if high <= low {
		return low
	}
	return low + rand.N(high-low)
}
