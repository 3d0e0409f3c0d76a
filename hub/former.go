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
	mostFormers = 10_000   // connections that have ended
	mostRefused = 1_000    // and those that were not admitted
	formerBytes = 16 << 20 // that either of them may take
	mostRepeats = 1_000    // events that were published again
)

// former is what is known of a connection as of one moment: its end, or when it was
// refused, or, of one that is open, now.
type former struct {
	// Static.
	id       string // empty: refused
	user     string
	session  string
	topics   []Target
	late     []lateTopic // those of the topics that were added later
	protocol string
	addr     netip.Addr
	since    time.Time
	ended    time.Time // zero: it is open
	reason   Reason    // why it has ended, or was refused
	came     came
	gap      gapReason // that it was told when it came
	epoch    string    // of the positions that follow
	start    uint64    // nothing up to here was for it
	first    uint64    // what it was sent up to here was replayed
	state    uint64    // up to here it was sent the newest of each slot alone
	limit    uint64    // nothing after this was for it
	lost     uint64    // it knows that something up to here is lost
	partly   uint64    // the event that it has begun to take, of one that is open; 0: none
	lag      int       // of one that is open

	// Guarded by formers.mu.
	conn    *Conn // nil: nothing is written to it any more, and what follows is final
	cursor  uint64
	skipped uint64
	slowest time.Duration
}

// lateTopic is a topic that a connection was given at a position.
type lateTopic struct {
	topic Target
	from  uint64
}

// remember says what there is to know of c. Hub.mu is held for writing.
func (c *Conn) remember() *former {
	f := &former{
		conn: c, id: c.id, user: c.identity.User, session: c.identity.Session, topics: c.topics,
		protocol: c.protocol, addr: c.addr, since: c.since, reason: c.reason,
		came: c.came, gap: c.gap, epoch: c.epoch, start: c.start, first: c.first, state: c.state,
		limit: c.limit, lost: c.lost,
	}
	for _, s := range c.seats {
		if s.from > 0 {
			f.late = append(f.late, lateTopic{s.lane.target, s.from})
		}
	}
	if c.reason != "" {
		f.ended = time.Now()
		return f
	}
	cursor := c.cursor.Load()
	f.limit, f.lag = c.history.head, lag(c.history, c.seats, cursor)
	if c.stuckIn != nil {
		f.partly = cursor
	}
	return f
}

// refuse remembers a connection that is not admitted.
func (h *Hub) refuse(r Request, reason Reason) {
	h.stats.rejected.add(string(reason), 1)
	now := time.Now()
	h.refused.add(&former{
		user: r.User, session: r.Session, topics: r.Topics, protocol: r.Protocol, addr: r.Addr,
		since: now, ended: now, reason: reason, came: cameBy(r.Position, r.State),
	})
}

// size is about what f takes of the heap.
func (f *former) size() int64 {
	n := int64(unsafe.Sizeof(*f)) + int64(len(f.id)+len(f.user)+len(f.session))
	for _, t := range f.topics {
		n += int64(unsafe.Sizeof(t)) + int64(len(t.Name))
	}
	return n + int64(len(f.late))*int64(unsafe.Sizeof(lateTopic{}))
}

// read is how far c has come. formers.mu is held.
func (f *former) read() {
	f.cursor, f.skipped, f.slowest = f.conn.cursor.Load(), f.conn.skipped.Load(), time.Duration(f.conn.slowest.Load())
}

// formers are the last connections that have ended, or were refused, oldest first.
type formers struct {
	most int

	mu      sync.Mutex // after Hub.mu
	list    []*former
	bytes   int64
	dropped time.Time // when the last one ended that is not known any more; zero: all are known
}

func (fs *formers) add(f *former) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.list = append(fs.list, f)
	fs.bytes += f.size()
	for len(fs.list) > fs.most || fs.bytes > formerBytes {
		fs.bytes -= fs.list[0].size()
		fs.dropped = fs.list[0].ended
		fs.list[0] = nil
		fs.list = fs.list[1:]
	}
}

// settle notes that nothing is written to a connection any more.
func (fs *formers) settle(f *former) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	f.read()
	f.conn = nil
}

// of lists copies of those that the filter chooses, and from when on all are known.
func (fs *formers) of(who Filter) (found []former, dropped time.Time) {
	fs.mu.Lock()
	all := slices.Clone(fs.list)
	dropped = fs.dropped
	fs.mu.Unlock()
	all = slices.DeleteFunc(all, func(f *former) bool { return !f.is(who) })
	for _, f := range all {
		fs.mu.Lock()
		if f.conn != nil {
			f.read()
		}
		found = append(found, *f)
		fs.mu.Unlock()
	}
	return found, dropped
}

// is reports whether the filter chooses f, topics aside.
func (f *former) is(who Filter) bool {
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
	if len(rs.list) >= mostRepeats {
		rs.list = slices.Delete(rs.list, 0, 1)
	}
	rs.list = append(rs.list, r)
}

// of says how often the event was published again, and when last.
func (rs *repeats) of(p Position) (times int, last time.Time) {
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
