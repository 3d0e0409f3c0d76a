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

// model remembers every event for ever, and knows nothing of lanes, shapes or
// generations: what it says about who gets what, and who has lost something, is
// found by looking at all there ever was.
type model struct {
	opts    Options
	records []*record // the event seq is records[seq-1]
	oldest  uint64
	shapes  map[string]uint64 // the shapes that were asked for: the last seq that was not retained then
	aged    [2]uint64         // the last seq evicted when the generations last changed, newest first
}

type record struct {
	Event
	seq    uint64
	at     time.Time
	missed bool // evicted before its time was over
	hole   bool // the hub cannot read it
}

func (m *model) head() uint64 { return uint64(len(m.records)) }

func (r *record) dead() bool { return !r.Expires.IsZero() && !time.Now().Before(r.Expires) }

// evict follows the bounds of count and age exactly. What the bound of bytes comes
// to is the history's own knowledge.
func (m *model) evict(h *history) {
	for m.oldest <= m.head() {
		n, r := m.head()-m.oldest+1, m.records[m.oldest-1]
		large := h.oldest > m.oldest
		if int(n) <= m.opts.MaxEvents && !large && time.Since(r.at) < m.opts.MaxAge {
			return
		}
		r.missed = !r.dead()
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

// expect says what a stream of who gets after the position, and whether it is
// told that something is lost.
func (m *model) expect(who Request, id string, position uint64) (data string, lost bool) {
	var got []message
	for _, r := range m.records[position:] {
		switch {
		case r.hole:
			lost = true
		case !r.isFor(who, id):
		case r.seq < m.oldest:
			lost = lost || r.missed
		case !r.dead():
			got = append(got, message{data: string(r.Data)})
		}
	}
	return payloads(got), lost
}

// learn notes the shapes of the topics.
func (m *model) learn(who Request) {
	for _, p := range who.Topics {
		if form := form(p); form != "" {
			m.shapes[form] = cmp.Or(m.shapes[form], m.oldest)
		}
	}
}

// doubt reports whether a position is so old that a gap is told in any case.
func (m *model) doubt(who Request, position, floor uint64) bool {
	return position < floor || slices.ContainsFunc(who.Topics, func(p Target) bool {
		return form(p) != "" && position < m.shapes[form(p)]-1
	})
}

func form(p Target) string {
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

// lagging is an open connection that looks for events only when it is told to.
type lagging struct {
	Request
	*Conn
	wire   *testSink
	cursor uint64
	data   []string
	told   []string
}

// program plays what its bytes say on a hub and on the model.
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
	askers = func() []Request {
		session := func(r Request, s string) Request { r.Session = s; return r }
		return []Request{
			requestOf("alice"), session(requestOf("bob"), "s1"), requestOf("", "a/*"), requestOf("", "a/b", "*"),
			session(requestOf("alice", "*/b", "a/*/c"), "s1"), session(requestOf("", "x", "a/*", "a/b"), "s2"),
		}
	}()
	addressees = []Target{
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
			p.model.aged = [2]uint64{p.model.oldest - 1, p.model.aged[0]}
			if floor := p.hub.history.floor; floor > p.model.aged[1] {
				p.Fatalf("floor %d, though only %d had been evicted when the last generation ended", floor, p.model.aged[1])
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
				p.resume(askers[p.next(len(askers))], p.next(len(p.model.records)+1))
			}
		}
	}
	for i := range p.open {
		p.catchUp(i)
	}
	for _, who := range askers {
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
		t := addressees[p.next(len(addressees))]
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
		p.Errorf("%d bytes of %d", h.bytes, h.opts.MaxBytes)
	}
}

// store stores a record that is no event.
func (p *program) store(data []byte, hole bool) {
	if _, err := p.hub.storeEntries(p.Context(), []Entry{{Data: data}}); err != nil {
		p.Fatal(err)
	}
	m := &p.model
	m.records = append(m.records, &record{seq: m.head() + 1, at: time.Now(), hole: hole})
	m.evict(p.hub.history)
	p.check()
}

// connect opens the stream i at the head.
func (p *program) connect(i int) {
	who := askers[p.next(len(askers))]
	p.model.learn(who)
	c := connect(p.T, p.hub, who)
	p.model.evict(p.hub.history)
	w := newTestSink()
	p.open[i] = &lagging{Request: who, wire: w, Conn: c.Conn, cursor: p.model.head()}
}

// catchUp lets the stream i get what there is.
func (p *program) catchUp(i int) {
	o := p.open[i]
	p.model.evict(p.hub.history)
	data, lost := p.model.expect(o.Request, o.ID(), o.cursor)
	o.cursor = p.model.head()
	if data != "" {
		o.data = append(o.data, data)
	}
	if lost {
		o.told = append(o.told, "sse.gap evicted")
	}
	lag := 0
	for range strings.FieldsSeq(data) {
		lag++
	}
	if got := o.Info().Lag; got < lag {
		p.Errorf("lag %d, but %d events are due", got, lag)
	}
	if reason := o.catchUp(o.wire); reason != "" {
		p.Fatalf("open stream ended: %s", reason)
	}
	c := (&client{t: p.T}).read(o.wire.allBytes())
	want(p.T, "an open stream got", c.data(), strings.Join(o.data, " "))
	want(p.T, "and was told", c.controlSummary(), strings.Join(o.told, ", "))
	want(p.T, "lag", o.Info().Lag, 0)
}

// resume connects as who with a position, and goes.
func (p *program) resume(who Request, position int) {
	m := &p.model
	m.learn(who)
	c := read(p.T, p.hub, who.at(Position{Epoch: p.hub.history.epoch, Seq: uint64(position)}.String()))
	m.evict(p.hub.history)
	data, lost := m.expect(who, "", uint64(position))
	var told string
	if lost || m.doubt(who, uint64(position), p.hub.history.floor) {
		told = "sse.gap evicted"
	}
	want(p.T, fmt.Sprintf("%v at %d of %d got", who.Identity, position, m.head()), c.data(), data)
	want(p.T, fmt.Sprintf("%v at %d of %d, retained from %d, was told", who.Identity, position, m.head(), m.oldest), c.controlSummary(), told)
}

func play(t *testing.T, code []byte) {
	synctest.Test(t, func(t *testing.T) { (&program{T: t, code: code[:min(len(code), 600)]}).run() })
}

func FuzzSince(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("a program is any bytes, and these are as good as others"))
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
