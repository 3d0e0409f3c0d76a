package hub

import (
	"net/netip"
	"slices"
	"sync"
	"time"
	"unsafe"
)

// Bounds of what is remembered for Why.
const (
	maxEndedConns     = 10_000   // connections that have ended
	maxRefusedConns   = 1_000    // connections that were not admitted
	maxEndedConnBytes = 16 << 20 // bytes of heap, for each of these two
	maxRepeats        = 1_000    // events that were published again
)

// endedConn is what is known of a connection that has ended, was refused, or, for the
// answer to a Why, is open.
type endedConn struct {
	// Static.
	id          string // empty: the connection was refused
	user        string
	session     string
	topics      []Target
	addedTopics []addedTopic // those of topics that a command has added
	protocol    string
	addr        netip.Addr
	since       time.Time
	ended       time.Time // zero: it is open
	reason      Reason    // why it has ended, or was refused
	startedFrom startedFrom
	gap         gapReason // of the client's position
	epoch       string    // of the positions below
	start       uint64    // events up to here were not for it
	replayEnd   uint64    // events up to here were replayed
	stateEnd    uint64    // of the events up to here it got only the newest of each slot
	limit       uint64    // events after this were not for it
	lost        uint64    // the client knows that events up to here are lost
	partialSeq  uint64    // of an open one: the event that is partly written; 0: none
	lag         int       // of an open one

	// Guarded by endedConns.mu.
	conn    *Conn // nil: nothing is written to it any more, and the fields below are final
	cursor  uint64
	skipped uint64
	slowest time.Duration
}

// addedTopic is a topic that a connection was given at a position.
type addedTopic struct {
	topic Target
	from  uint64
}

// snapshot returns what is known of c now. It does not set the fields that endedConns.mu
// guards, except for conn: copyProgress does. The caller holds Hub.mu for writing, because
// lookUp changes fields of c with Hub.mu held for reading.
func (c *Conn) snapshot() *endedConn {
	f := &endedConn{
		conn: c, id: c.id, user: c.identity.User, session: c.identity.Session, topics: c.topics,
		protocol: c.protocol, addr: c.addr, since: c.since, reason: c.reason,
		startedFrom: c.startedFrom, gap: c.gap, epoch: c.epoch, start: c.startCursor, replayEnd: c.replayEnd, stateEnd: c.stateEnd,
		limit: c.limit, lost: c.knownLost,
	}
	for _, s := range c.subscriptions {
		if s.from > 0 {
			f.addedTopics = append(f.addedTopics, addedTopic{s.lane.target, s.from})
		}
	}
	if c.reason != "" {
		f.ended = time.Now()
		return f
	}
	cursor := c.cursor.Load()
	f.limit, f.lag = c.history.head, lag(c.history, c.subscriptions, cursor)
	if c.partial {
		f.partialSeq = cursor
	}
	return f
}

// refuse counts and remembers a connection that is not admitted. Any goroutine may call it,
// with Hub.mu or without.
func (h *Hub) refuse(r Request, reason Reason) {
	h.stats.rejected.add(string(reason), 1)
	now := time.Now()
	h.refusedConns.add(&endedConn{
		user: r.User, session: r.Session, topics: r.Topics, protocol: r.Protocol, addr: r.Addr,
		since: now, ended: now, reason: reason, startedFrom: startedFromOf(r.Position, r.State),
	})
}

// size returns about how many bytes of heap f takes. It reads only static fields, so the
// result never changes.
func (f *endedConn) size() int64 {
	n := int64(unsafe.Sizeof(*f)) + int64(len(f.id)+len(f.user)+len(f.session))
	for _, t := range f.topics {
		n += int64(unsafe.Sizeof(t)) + int64(len(t.Name))
	}
	return n + int64(len(f.addedTopics))*int64(unsafe.Sizeof(addedTopic{}))
}

// copyProgress copies how far the connection has come. f.conn must not be nil. The caller
// holds endedConns.mu, or nobody else has f yet.
func (f *endedConn) copyProgress() {
	f.cursor, f.skipped, f.slowest = f.conn.cursor.Load(), f.conn.skipped.Load(), time.Duration(f.conn.slowest.Load())
}

// endedConns are the last connections that have ended, or were refused, oldest first. When
// there are too many, the oldest are forgotten. Any goroutine may call add, finalize and
// matching, with Hub.mu or without.
type endedConns struct {
	max int

	mu      sync.Mutex // locked after Hub.mu
	list    []*endedConn
	bytes   int64
	dropped time.Time // end of the last connection that was forgotten; zero: none was
}

// add remembers a connection, and forgets the oldest ones if there are too many. f.ended
// must be set. The static fields of f must not change any more. The caller must not hold
// fs.mu.
func (fs *endedConns) add(f *endedConn) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.list = append(fs.list, f)
	fs.bytes += f.size()
	for len(fs.list) > fs.max || fs.bytes > maxEndedConnBytes {
		fs.bytes -= fs.list[0].size()
		fs.dropped = fs.list[0].ended
		fs.list[0] = nil
		fs.list = fs.list[1:]
	}
}

// finalize notes that nothing is written to the connection any more. It must be called once
// for a connection that has ended, and not for one that was refused. The caller must not
// hold fs.mu.
func (fs *endedConns) finalize(f *endedConn) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	f.copyProgress()
	f.conn = nil
}

// matching copies those that the filter chooses. dropped is when the last of the forgotten
// ones ended: of the connections that ended after it, none is forgotten; zero: none at all.
// The caller must not hold fs.mu.
func (fs *endedConns) matching(who Filter) (found []endedConn, dropped time.Time) {
	fs.mu.Lock()
	all := slices.Clone(fs.list)
	dropped = fs.dropped
	fs.mu.Unlock()
	all = slices.DeleteFunc(all, func(f *endedConn) bool { return !f.matches(who) })
	for _, f := range all {
		fs.mu.Lock()
		if f.conn != nil {
			f.copyProgress()
		}
		found = append(found, *f)
		fs.mu.Unlock()
	}
	return found, dropped
}

// matches reports whether the filter chooses f. It ignores the topics of the filter. It
// reads only static fields.
func (f *endedConn) matches(who Filter) bool {
	fits := func(names []string, name string) bool {
		return len(names) == 0 || name != "" && slices.Contains(names, name)
	}
	return fits(who.IDs, f.id) && fits(who.Users, f.user) && fits(who.Sessions, f.session)
}

// repeats are the last events that were published again with the same key. Any goroutine
// may call add and count.
type repeats struct {
	mu   sync.Mutex
	list []repeat // oldest first
}

// repeat is an event that was published again, and was not stored again.
type repeat struct {
	epoch string
	seq   uint64
	times int
	last  time.Time
}

// add counts that the event at p was published again, and forgets the event whose last
// repeat is the oldest, if there are too many. The caller must not hold rs.mu.
func (rs *repeats) add(p Position, now time.Time) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	r := repeat{p.Epoch, p.Seq, 1, now}
	if i := rs.find(p); i >= 0 {
		r.times += rs.list[i].times
		rs.list = slices.Delete(rs.list, i, i+1)
	}
	if len(rs.list) >= maxRepeats {
		rs.list = slices.Delete(rs.list, 0, 1)
	}
	rs.list = append(rs.list, r)
}

// count returns how often the event was published again, and when last; 0: never, or it is
// forgotten. The caller must not hold rs.mu.
func (rs *repeats) count(p Position) (times int, last time.Time) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if i := rs.find(p); i >= 0 {
		return rs.list[i].times, rs.list[i].last
	}
	return 0, time.Time{}
}

// find returns the index of the event; -1: it is not known. The caller holds rs.mu.
func (rs *repeats) find(p Position) int {
	return slices.IndexFunc(rs.list, func(r repeat) bool { return r.seq == p.Seq && r.epoch == p.Epoch })
}
