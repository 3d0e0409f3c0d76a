package hub

import (
	"net/netip"
	"slices"
	"sync"
	"time"
	"unsafe"
)

// How much is remembered, beside the history, for Why.
const (
	maxEndedConns     = 10_000   // connections that have ended
	maxRefusedConns   = 1_000    // and those that were not admitted
	maxEndedConnBytes = 16 << 20 // that either of them may take
	maxRepeats        = 1_000    // events that were published again
)

// former is what is known of a connection as of one moment: its end, or when it was
// refused, or, of one that is open, now.
type endedConn struct {
	// Static.
	id          string // empty: refused
	user        string
	session     string
	topics      []Target
	addedTopics []addedTopic // those of the topics that were added later
	protocol    string
	addr        netip.Addr
	since       time.Time
	ended       time.Time // zero: it is open
	reason      Reason    // why it has ended, or was refused
	startedFrom startedFrom
	gap         gapReason // that it was told when it came
	epoch       string    // of the positions that follow
	start       uint64    // nothing up to here was for it
	replayEnd   uint64    // what it was sent up to here was replayed
	stateEnd    uint64    // up to here it was sent the newest of each slot alone
	limit       uint64    // nothing after this was for it
	lost        uint64    // it knows that something up to here is lost
	partialSeq  uint64    // the event that it has begun to take, of one that is open; 0: none
	lag         int       // of one that is open

	// Guarded by formers.mu.
	conn    *Conn // nil: nothing is written to it any more, and what follows is final
	cursor  uint64
	skipped uint64
	slowest time.Duration
}

// lateTopic is a topic that a connection was given at a position.
type addedTopic struct {
	topic Target
	from  uint64
}

// remember says what there is to know of c. Hub.mu is held for writing.
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
	if c.pinnedEvent != nil {
		f.partialSeq = cursor
	}
	return f
}

// refuse remembers a connection that is not admitted.
func (h *Hub) refuse(r Request, reason Reason) {
	h.stats.rejected.add(string(reason), 1)
	now := time.Now()
	h.refusedConns.add(&endedConn{
		user: r.User, session: r.Session, topics: r.Topics, protocol: r.Protocol, addr: r.Addr,
		since: now, ended: now, reason: reason, startedFrom: startedFromOf(r.Position, r.State),
	})
}

// size is about what f takes of the heap.
func (f *endedConn) size() int64 {
	n := int64(unsafe.Sizeof(*f)) + int64(len(f.id)+len(f.user)+len(f.session))
	for _, t := range f.topics {
		n += int64(unsafe.Sizeof(t)) + int64(len(t.Name))
	}
	return n + int64(len(f.addedTopics))*int64(unsafe.Sizeof(addedTopic{}))
}

// read is how far c has come. formers.mu is held.
func (f *endedConn) copyProgress() {
	f.cursor, f.skipped, f.slowest = f.conn.cursor.Load(), f.conn.skipped.Load(), time.Duration(f.conn.slowest.Load())
}

// formers are the last connections that have ended, or were refused, oldest first.
type endedConns struct {
	max int

	mu      sync.Mutex // after Hub.mu
	list    []*endedConn
	bytes   int64
	dropped time.Time // when the last one ended that is not known any more; zero: all are known
}

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

// settle notes that nothing is written to a connection any more.
func (fs *endedConns) finalize(f *endedConn) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	f.copyProgress()
	f.conn = nil
}

// of lists copies of those that the filter chooses, and from when on all are known.
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

// is reports whether the filter chooses f, topics aside.
func (f *endedConn) matches(who Filter) bool {
	fits := func(names []string, name string) bool {
		return len(names) == 0 || name != "" && slices.Contains(names, name)
	}
	return fits(who.IDs, f.id) && fits(who.Users, f.user) && fits(who.Sessions, f.session)
}

// repeats are the last positions that were the answer to a key that was known.
type repeats struct {
	mu   sync.Mutex
	list []repeat // oldest first
}

// repeat is an event that was published again, and not stored.
type repeat struct {
	epoch string
	seq   uint64
	times int
	last  time.Time
}

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

// of says how often the event was published again, and when last.
func (rs *repeats) count(p Position) (times int, last time.Time) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if i := rs.find(p); i >= 0 {
		return rs.list[i].times, rs.list[i].last
	}
	return 0, time.Time{}
}

// find is the index of the event, or -1. mu is held.
func (rs *repeats) find(p Position) int {
	return slices.IndexFunc(rs.list, func(r repeat) bool { return r.seq == p.Seq && r.epoch == p.Epoch })
}
