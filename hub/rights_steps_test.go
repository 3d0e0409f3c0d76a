package hub

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"
)

// The random steps of TestPromise11RightsAgainstModel.

var modelSteps = flag.Int("steps", 100_000, "how many random steps TestPromise11RightsAgainstModel takes")

var (
	modelUsers    = []string{"alice", "bob", "carol"}
	modelSessions = []string{"", "s1", "s2"}
	modelTopics   = []string{"a", "b", "c", "room/1", "room/2"}
)

func (m *rightsModel) one(names []string) string { return names[m.random.IntN(len(names))] }

// some are up to two topics.
func (m *rightsModel) some() []string {
	picked := slices.Clone(modelTopics)
	m.random.Shuffle(len(picked), func(i, j int) { picked[i], picked[j] = picked[j], picked[i] })
	return picked[:m.random.IntN(3)]
}

// event is a random one.
func (m *rightsModel) event() Event {
	e := Event{Data: []byte(strconv.Itoa(m.steps) + "." + strconv.Itoa(m.random.IntN(1000)))}
	for range 1 + m.random.IntN(5)/4 {
		switch n := m.random.IntN(8); n {
		case 0:
			e.Targets = append(e.Targets, Target{})
		case 1:
			e.Targets = append(e.Targets, user(m.one(modelUsers)))
		case 2:
			e.Targets = append(e.Targets, Target{Session, m.one(modelSessions[1:])})
		case 3:
			e.Targets = append(e.Targets, Target{Connection, m.holders[m.random.IntN(len(m.holders))].ID()})
		default:
			e.Targets = append(e.Targets, topic(m.one(modelTopics)))
		}
	}
	if m.random.IntN(3) == 0 {
		e.Slot = m.one([]string{"x", "y"})
	}
	return e
}

func (m *rightsModel) filter() Filter {
	switch m.random.IntN(5) {
	case 0:
		return Filter{Topics: []string{m.one(modelTopics)}}
	case 2:
		return Filter{Topics: []string{m.one(modelTopics)}, Users: []string{m.one(modelUsers)}}
	case 1:
		return Filter{IDs: []string{m.holders[m.random.IntN(len(m.holders))].ID()}}
	default:
		return Filter{Users: []string{m.one(modelUsers)}}
	}
}

func (m *rightsModel) topicChange() TopicChange {
	change := TopicChange{Filter: m.filter(), Add: m.some(), Remove: m.some()}
	change.Add = slices.DeleteFunc(change.Add, func(t string) bool { return slices.Contains(change.Remove, t) })
	return change
}

func (m *rightsModel) publish() {
	e := m.event()
	if _, err := m.hub.Publish(m.Context(), e); err != nil {
		m.Fatal(err)
	}
	m.append(modelRecord{targets: e.Targets, data: string(e.Data), slot: e.Slot})
}

func (m *rightsModel) changeTopics() {
	change := m.topicChange()
	p, err := m.hub.ChangeTopics(m.Context(), change)
	if err != nil {
		m.Fatal(err)
	}
	r := modelRecord{change: &change, data: string(topicsData(&change))}
	m.append(r)
	want(m.T, "position of the change", p.Seq, m.head())
	m.carryOut(r, false)
}

func (m *rightsModel) disconnect() {
	f := m.filter()
	if _, err := m.hub.Disconnect(m.Context(), f); err != nil {
		m.Fatal(err)
	}
	// The node that is asked does so at once, and then again at the command's position.
	for _, h := range m.holders {
		if h.ended == "" && h.fits(&f) {
			m.end(h, Disconnected)
		}
	}
	if m.tape.shared {
		m.append(modelRecord{end: &f})
	}
}

// connect opens a connection in place of the one with this number.
func (m *rightsModel) connect(i int) {
	before := m.holders[i]
	h := &modelClient{
		user: m.one(modelUsers), session: m.one(modelSessions),
		rights: make(map[Target]uint64), told: make(map[uint64]string), joined: m.head(), epoch: m.tape.epoch,
	}
	topics := m.some()
	if m.random.IntN(2) == 0 {
		topics = append(topics, modelPattern)
	}
	r := requestOf(h.user, topics...)
	r.Session = h.session
	switch n := m.random.IntN(10); {
	case n < 6 && before != nil:
		r.Position = before.position // perhaps of another history, and perhaps none
	case n < 7:
		r.Position = Earliest
	case n < 8 && m.head() > 0:
		r.Position = positionAt(m.hub, m.random.Uint64N(m.head()+1))
	case n < 9:
		r.State = true
	}
	if before != nil {
		m.hub.finish(before.Conn, Gone)
		before.setAborter(nil)
	}
	for _, to := range append([]Target{{}, user(h.user)}, r.Topics...) {
		h.rights[to] = 0
		if to.Kind == pattern && !m.learned {
			m.learned, m.floor = true, m.oldest-1
		}
	}
	if h.session != "" {
		h.rights[Target{Session, h.session}] = 0
	}
	h.Conn = connect(m.T, m.hub, r).Conn
	h.rights[Target{Connection, h.ID()}] = 0
	m.holders[i] = h

	h.known = m.lost(h, m.oldest-1)
	p, _ := ParsePosition(r.Position)
	switch {
	case r.Position == "" && r.State:
		h.cursor, h.state = m.oldest-1, m.head()
	case r.Position == "":
		h.cursor = m.head()
	case r.Position == Earliest:
		h.cursor = m.oldest - 1
	case p.Epoch != m.tape.epoch:
		h.cursor, h.gap = m.oldest-1, gapEpoch
	case h.known > p.Seq:
		h.cursor, h.gap = max(p.Seq, m.oldest-1), gapEvicted
	default:
		h.cursor, h.resumed = p.Seq, true
	}
	h.position = r.Position
	if r.Position == Earliest {
		h.position = ""
	}
}

// bound makes the history longer or shorter.
func (m *rightsModel) bound() {
	m.most = 1 + m.random.IntN(60)
	m.evict()
	m.hub.SetOptions(Options{MaxEvents: m.most})
}

// switchStore puts a copy of the store in its place: one that reaches what the hub has,
// and perhaps has more, or one that does not.
func (m *rightsModel) switchStore() {
	next := newCopyableStore(m.tape.epoch, m.tape.shared, m.tape.records)
	reaches := m.random.IntN(2) == 0 || len(next.records) == 0
	kept := m.records
	if !reaches {
		n := m.random.IntN(len(next.records))
		next.records, kept = next.records[:n], slices.Clone(m.records[:n])
	}
	var more []modelRecord
	for range m.random.IntN(4) {
		switch m.random.IntN(3) {
		case 0:
			change := m.topicChange()
			next.add(encodeCommand(&Command{Topics: &change}))
			more = append(more, modelRecord{change: &change, data: string(topicsData(&change))})
		default:
			e := m.event()
			e.At = time.Now()
			next.add(encodeEvent(&e))
			more = append(more, modelRecord{targets: e.Targets, data: string(e.Data), slot: e.Slot})
		}
	}
	// One that ends where the hub's history does has another record there.
	useStore(m.T, m.hub, next)
	<-next.tailed
	m.tape = next
	if !reaches {
		m.records, m.oldest, m.slots = nil, 1, make(map[string]uint64)
		m.learned, m.floor = false, 0
		for _, h := range m.holders {
			if h.ended != "" {
				continue
			}
			h.joined = 0
			clear(h.told)
			for right := range h.rights {
				h.rights[right] = 0
				m.learned = m.learned || right.Kind == pattern
			}
		}
		for i := range kept {
			kept[i].replaced = false
		}
		more = append(kept, more...)
	}
	for _, r := range more {
		m.append(r)
		if len(r.targets) == 0 {
			m.carryOut(r, !reaches)
		}
	}
	m.counts[fmt.Sprint("store that reaches: ", reaches)]++
}

func (m *rightsModel) step() {
	i := m.random.IntN(len(m.holders))
	switch n := m.random.IntN(1000); {
	case n < 450:
		m.publish()
	case n < 570:
		m.changeTopics()
	case n < 830:
		m.catchUp(i)
	case n < 930:
		m.connect(i)
	case n < 960:
		m.disconnect()
	case n < 980:
		m.bound()
	case n < 990:
		m.switchStore()
	default:
		time.Sleep(10 * time.Second)
	}
}

// TestPromise11RightsAgainstModel: whatever happens, nothing is delivered without the
// right to it, and nothing is missed that is not told.
func TestPromise11RightsAgainstModel(t *testing.T) {
	const each = 1000 // steps of one hub
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	counts := make(map[string]int)
	for run := range uint64(max(1, *modelSteps/each)) {
		synctest.Test(t, func(t *testing.T) {
			m := &rightsModel{
				T: t, random: rand.New(rand.NewPCG(seed, run)), hub: newHub(t, Options{}),
				oldest: 1, slots: make(map[string]uint64), holders: make([]*modelClient, 4), counts: counts,
			}
			m.tape = newCopyableStore(NewEpoch(), run%2 == 0, nil)
			useStore(t, m.hub, m.tape)
			<-m.tape.tailed
			m.bound()
			for i := range m.holders {
				m.connect(i)
			}
			for ; m.steps < each && !t.Failed(); m.steps++ {
				m.step()
			}
			for i := range m.holders {
				m.catchUp(i)
			}
			checkBytes(t, m.hub.history)
		})
		if t.Failed() {
			t.Fatalf("seed %d, run %d", seed, run)
		}
	}
	for _, what := range []string{"event", "topics", "gap evicted", "gap epoch", "closing disconnected", "connected and resumed"} {
		if counts[what] == 0 {
			t.Errorf("it never came to %q", what)
		}
	}
	t.Log(counts)
}
