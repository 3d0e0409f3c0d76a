package hub

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// model keeps every event for ever. It has no lanes, shapes or generations: it decides who gets or
// loses an event by looking at all events.
type model struct {
	opts    Options
	records []*record // the event seq is records[seq-1]
	oldest  uint64
	shapes  map[string]uint64 // by shape: the oldest retained seq when the shape was first requested
	rotated [2]uint64         // the newest evicted seq at each of the last two rotations, newest first
}

type record struct {
	Event
	seq    uint64
	at     time.Time
	missed bool // evicted before it expired
	hole   bool // a record that the hub cannot read
}

func (m *model) head() uint64 { return uint64(len(m.records)) }

func (r *record) isExpired() bool { return !r.Expires.IsZero() && !time.Now().Before(r.Expires) }

// evict applies the bounds of count and age exactly. It takes the effect of the bound of bytes
// from the history.
func (m *model) evict(h *history) {
	for m.oldest <= m.head() {
		n, r := m.head()-m.oldest+1, m.records[m.oldest-1]
		large := h.oldest > m.oldest
		if int(n) <= m.opts.MaxEvents && !large && time.Since(r.at) < m.opts.MaxAge {
			return
		}
		r.missed = !r.isExpired()
		m.oldest++
	}
}

func (r *record) isFor(who Request, id string) bool {
	return slices.ContainsFunc(r.Targets, func(t Target) bool {
		switch t.Kind {
		case User:
			return t.Name == who.User
		case Session:
			return t.Name == who.Session
		case Connection:
			return t.Name == id
		case Topic:
			return slices.ContainsFunc(who.Topics, func(p Target) bool { return matches(p.Name, t.Name) })
		}
		return true
	})
}

// expect returns the events that a stream of who gets after the position, and whether it gets a
// gap.
func (m *model) expect(who Request, id string, position uint64) (data string, lost bool) {
	var got []message
	for _, r := range m.records[position:] {
		switch {
		case r.hole:
			lost = true
		case !r.isFor(who, id):
		case r.seq < m.oldest:
			lost = lost || r.missed
		case !r.isExpired():
			got = append(got, message{data: string(r.Data)})
		}
	}
	return payloads(got), lost
}

// learn records the shapes of who's patterns.
func (m *model) learn(who Request) {
	for _, p := range who.Topics {
		if shape := shapeName(p); shape != "" {
			m.shapes[shape] = cmp.Or(m.shapes[shape], m.oldest)
		}
	}
}

// isInDoubt reports whether a position is so old that the hub sends a gap without knowing whether
// an event was lost.
func (m *model) isInDoubt(who Request, position, floor uint64) bool {
	return position < floor || slices.ContainsFunc(who.Topics, func(p Target) bool {
		return shapeName(p) != "" && position < m.shapes[shapeName(p)]-1
	})
}

// shapeName returns the shape of a pattern, and "" for an exact topic.
func shapeName(p Target) string {
	if !strings.Contains(p.Name, "*") {
		return ""
	}
	segments := strings.Split(p.Name, "/")
	for i := range segments {
		if segments[i] != "*" {
			segments[i] = "x"
		}
	}
	return strings.Join(segments, "/")
}

// lagging is an open connection that looks for events only when the program calls catchUp.
type lagging struct {
	Request
	*Conn
	sink   *testSink
	cursor uint64
	data   []string
	gaps   []string
}

// program runs random operations on a hub and on the model. Its bytes choose the operations.
type program struct {
	*testing.T
	code  []byte
	hub   *Hub
	model model
	open  [3]*lagging
}

func (p *program) next(n int) int {
	if len(p.code) == 0 {
		return 0
	}
	b := p.code[0]
	p.code = p.code[1:]
	return int(b) % n
}

var (
	requests = func() []Request {
		session := func(r Request, s string) Request { r.Session = s; return r }
		return []Request{
			requestOf("alice"), session(requestOf("bob"), "s1"), requestOf("", "a/*"), requestOf("", "a/b", "*"),
			session(requestOf("alice", "*/b", "a/*/c"), "s1"), session(requestOf("", "x", "a/*", "a/b"), "s2"),
		}
	}()
	eventTargets = []Target{
		{},
		user("alice"), user("alice"), user("bob"), user("carol"),
		{Session, "s1"},
		{Session, "s2"},
		topic("a/b"), topic("a/c"), topic("x"), topic("a/b/c"), topic("z/b"), topic("a"),
	}
)

func (p *program) run() {
	p.hub = newHub(p.T, Options{MaxEvents: 8})
	p.model = model{opts: p.hub.history.opts, oldest: 1, shapes: make(map[string]uint64)}
	for i := range p.open {
		p.connect(i)
	}
	for len(p.code) > 0 {
		switch p.next(14) {
		default:
			p.publish()
		case 6:
			time.Sleep(time.Duration(1+p.next(60)) * time.Second)
		case 7:
			p.model.opts.MaxEvents = 1 + p.next(20)
			p.model.opts.MaxAge = time.Duration(1+p.next(10)) * time.Minute
			p.model.opts.MaxBytes = int64(1+p.next(16))*600 + 12*evictedBytes
			p.hub.SetOptions(p.model.opts)
			p.model.evict(p.hub.history)
		case 8:
			p.hub.history.rotateEvicted()
			p.model.rotated = [2]uint64{p.model.oldest - 1, p.model.rotated[0]}
			if floor := p.hub.history.floor; floor > p.model.rotated[1] {
				p.Fatalf("floor: got %d, want at most %d, the newest evicted event two rotations ago", floor, p.model.rotated[1])
			}
		case 9, 10:
			p.catchUp(p.next(len(p.open)))
		case 12:
			p.store([]byte{0xff, 1, 2, 3}, true)
		case 13:
			p.store(encodeCommand(&Command{Disconnect: &Filter{Users: []string{"nobody"}}}), false)
		case 11:
			if i := p.next(len(p.open)); p.next(2) == 0 {
				p.hub.finish(p.open[i].Conn, Gone)
				p.connect(i)
			} else {
				p.resume(requests[p.next(len(requests))], p.next(len(p.model.records)+1))
			}
		}
	}
	for i := range p.open {
		p.catchUp(i)
	}
	for _, who := range requests {
		for position := range p.model.records {
			p.resume(who, position)
		}
		p.resume(who, len(p.model.records))
	}
}

func (p *program) publish() {
	m := &p.model
	r := &record{seq: m.head() + 1, at: time.Now()}
	r.Data = fmt.Appendf(nil, "%d%s", r.seq, strings.Repeat(".", p.next(40)))
	for range 1 + p.next(3) {
		t := eventTargets[p.next(len(eventTargets))]
		if i := p.next(24); i < len(p.open) {
			t = Target{Connection, p.open[i].ID()}
		}
		r.Targets = append(r.Targets, t)
	}
	if ttl := p.next(80); ttl > 40 {
		r.Expires = time.Now().Add(time.Duration(ttl-40) * time.Second)
	}
	if _, err := p.hub.Publish(p.Context(), r.Event); err != nil {
		p.Fatal(err)
	}
	m.records = append(m.records, r)
	m.evict(p.hub.history)
	p.check()
}

func (p *program) check() {
	h := p.hub.history
	want(p.T, "oldest", h.oldest, p.model.oldest)
	checkBytes(p.T, h)
	if h.bytes > h.opts.MaxBytes && h.head > h.oldest {
		p.Errorf("bytes: got %d, want at most %d", h.bytes, h.opts.MaxBytes)
	}
}

// store stores a record that is not an event.
func (p *program) store(data []byte, hole bool) {
	if _, err := p.hub.storeEntries(p.Context(), []Entry{{Data: data}}); err != nil {
		p.Fatal(err)
	}
	m := &p.model
	m.records = append(m.records, &record{seq: m.head() + 1, at: time.Now(), hole: hole})
	m.evict(p.hub.history)
	p.check()
}

// connect opens stream i at the head.
func (p *program) connect(i int) {
	who := requests[p.next(len(requests))]
	p.model.learn(who)
	c := connect(p.T, p.hub, who)
	p.model.evict(p.hub.history)
	p.open[i] = &lagging{Request: who, sink: newTestSink(), Conn: c.Conn, cursor: p.model.head()}
}

// catchUp sends stream i its pending events and checks them.
func (p *program) catchUp(i int) {
	o := p.open[i]
	p.model.evict(p.hub.history)
	data, lost := p.model.expect(o.Request, o.ID(), o.cursor)
	o.cursor = p.model.head()
	if data != "" {
		o.data = append(o.data, data)
	}
	if lost {
		o.gaps = append(o.gaps, "sse.gap evicted")
	}
	lag := 0
	for range strings.FieldsSeq(data) {
		lag++
	}
	if got := o.Info().Lag; got < lag {
		p.Errorf("lag: got %d, want at least the %d pending events", got, lag)
	}
	if reason := o.catchUp(o.sink); reason != "" {
		p.Fatalf("end of an open stream: got reason %s, want none", reason)
	}
	c := (&client{t: p.T}).read(o.sink.allBytes())
	want(p.T, "events of an open stream", c.data(), strings.Join(o.data, " "))
	want(p.T, "control events of an open stream", c.controlSummary(), strings.Join(o.gaps, ", "))
	want(p.T, "lag", o.Info().Lag, 0)
}

// resume connects as who with a position, reads what is pending, and leaves.
func (p *program) resume(who Request, position int) {
	m := &p.model
	m.learn(who)
	c := read(p.T, p.hub, who.at(Position{Epoch: p.hub.history.epoch, Seq: uint64(position)}.String()))
	m.evict(p.hub.history)
	data, lost := m.expect(who, "", uint64(position))
	var gap string
	if lost || m.isInDoubt(who, uint64(position), p.hub.history.floor) {
		gap = "sse.gap evicted"
	}
	want(p.T, fmt.Sprintf("events of %v at %d of %d", who.Identity, position, m.head()), c.data(), data)
	want(p.T, fmt.Sprintf("control events of %v at %d of %d, retained from %d", who.Identity, position, m.head(), m.oldest), c.controlSummary(), gap)
}

func play(t *testing.T, code []byte) {
	synctest.Test(t, func(t *testing.T) { (&program{T: t, code: code[:min(len(code), 600)]}).run() })
}

func FuzzSince(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("any bytes are a program"))
	f.Add(slices.Repeat([]byte{0, 1, 2, 3}, 50))
	f.Add(slices.Repeat([]byte{9, 0, 6, 30, 8, 8, 1, 5, 7}, 40))
	f.Fuzz(play)
}

func TestSinceAgainstModel(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for range 250 {
		code := make([]byte, random.IntN(300))
		for i := range code {
			code[i] = byte(random.Uint32())
		}
		if play(t, code); t.Failed() {
			t.Fatalf("program %q", code)
		}
	}
}
