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

func (m *rightsModel) pick(names []string) string { return names[m.random.IntN(len(names))] }

// pickTopics returns up to two topics.
func (m *rightsModel) pickTopics() []string {
	picked := slices.Clone(modelTopics)
	m.random.Shuffle(len(picked), func(i, j int) { picked[i], picked[j] = picked[j], picked[i] })
	return picked[:m.random.IntN(3)]
}

// event returns a random event.
func (m *rightsModel) event() Event {
	e := Event{Data: []byte(strconv.Itoa(m.steps) + "." + strconv.Itoa(m.random.IntN(1000)))}
	for range 1 + m.random.IntN(5)/4 {
		switch n := m.random.IntN(8); n {
		case 0:
			e.Targets = append(e.Targets, Target{})
		case 1:
			e.Targets = append(e.Targets, user(m.pick(modelUsers)))
		case 2:
			e.Targets = append(e.Targets, Target{Session, m.pick(modelSessions[1:])})
		case 3:
			e.Targets = append(e.Targets, Target{Connection, m.clients[m.random.IntN(len(m.clients))].ID()})
		default:
			e.Targets = append(e.Targets, topic(m.pick(modelTopics)))
		}
	}
	if m.random.IntN(3) == 0 {
		e.Slot = m.pick([]string{"x", "y"})
	}
	return e
}

func (m *rightsModel) filter() Filter {
	switch m.random.IntN(5) {
	case 0:
		return Filter{Topics: []string{m.pick(modelTopics)}}
	case 2:
		return Filter{Topics: []string{m.pick(modelTopics)}, Users: []string{m.pick(modelUsers)}}
	case 1:
		return Filter{IDs: []string{m.clients[m.random.IntN(len(m.clients))].ID()}}
	default:
		return Filter{Users: []string{m.pick(modelUsers)}}
	}
}

func (m *rightsModel) topicChange() TopicChange {
	change := TopicChange{Filter: m.filter(), Add: m.pickTopics(), Remove: m.pickTopics()}
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
	m.execute(r, false)
}

func (m *rightsModel) disconnect() {
	f := m.filter()
	if _, err := m.hub.Disconnect(m.Context(), f); err != nil {
		m.Fatal(err)
	}
	// The node that received the request ends connections at once, and again at the command's
	// position.
	for _, h := range m.clients {
		if h.ended == "" && h.fits(&f) {
			m.end(h, Disconnected)
		}
	}
	if m.store.shared {
		m.append(modelRecord{end: &f})
	}
}

// connect replaces client i by a new one.
func (m *rightsModel) connect(i int) {
	before := m.clients[i]
	h := &modelClient{
		user: m.pick(modelUsers), session: m.pick(modelSessions),
		rights: make(map[Target]uint64), topicChanges: make(map[uint64]string), joined: m.head(), epoch: m.store.epoch,
	}
	topics := m.pickTopics()
	if m.random.IntN(2) == 0 {
		topics = append(topics, modelPattern)
	}
	r := requestOf(h.user, topics...)
	r.Session = h.session
	switch n := m.random.IntN(10); {
	case n < 6 && before != nil:
		r.Position = before.position // may be empty, or of another history
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
	m.clients[i] = h

	h.knownLost = m.lost(h, m.oldest-1)
	p, _ := ParsePosition(r.Position)
	switch {
	case r.Position == "" && r.State:
		h.cursor, h.state = m.oldest-1, m.head()
	case r.Position == "":
		h.cursor = m.head()
	case r.Position == Earliest:
		h.cursor = m.oldest - 1
	case p.Epoch != m.store.epoch:
		h.cursor, h.gap = m.oldest-1, gapEpoch
	case h.knownLost > p.Seq:
		h.cursor, h.gap = max(p.Seq, m.oldest-1), gapEvicted
	default:
		h.cursor, h.resumed = p.Seq, true
	}
	h.position = r.Position
	if r.Position == Earliest {
		h.position = ""
	}
}

// setBound makes the history longer or shorter.
func (m *rightsModel) setBound() {
	m.maxRecords = 1 + m.random.IntN(60)
	m.evict()
	m.hub.SetOptions(Options{MaxEvents: m.maxRecords})
}

// switchStore replaces the store by a copy. The copy has all records of the hub and perhaps more,
// or it lacks some.
func (m *rightsModel) switchStore() {
	next := newCopyableStore(m.store.epoch, m.store.shared, m.store.records)
	isComplete := m.random.IntN(2) == 0 || len(next.records) == 0
	keptRecords := m.records
	if !isComplete {
		n := m.random.IntN(len(next.records))
		next.records, keptRecords = next.records[:n], slices.Clone(m.records[:n])
	}
	var newRecords []modelRecord
	for range m.random.IntN(4) {
		switch m.random.IntN(3) {
		case 0:
			change := m.topicChange()
			next.add(encodeCommand(&Command{Topics: &change}))
			newRecords = append(newRecords, modelRecord{change: &change, data: string(topicsData(&change))})
		default:
			e := m.event()
			e.At = time.Now()
			next.add(encodeEvent(&e))
			newRecords = append(newRecords, modelRecord{targets: e.Targets, data: string(e.Data), slot: e.Slot})
		}
	}
	// An incomplete copy with added records has another record at the position of the hub's head.
	useStore(m.T, m.hub, next)
	<-next.tailed
	m.store = next
	if !isComplete {
		m.records, m.oldest, m.slots = nil, 1, make(map[string]uint64)
		m.learned, m.floor = false, 0
		for _, h := range m.clients {
			if h.ended != "" {
				continue
			}
			h.joined = 0
			clear(h.topicChanges)
			for right := range h.rights {
				h.rights[right] = 0
				m.learned = m.learned || right.Kind == pattern
			}
			if next.shared { // the store may have lost a command
				m.end(h, Lifetime)
			}
		}
		for i := range keptRecords {
			keptRecords[i].replaced = false
		}
		newRecords = append(keptRecords, newRecords...)
	}
	for _, r := range newRecords {
		m.append(r)
		if len(r.targets) == 0 {
			m.execute(r, !isComplete)
		}
	}
	m.counts[fmt.Sprint("complete store: ", isComplete)]++
}

func (m *rightsModel) step() {
	i := m.random.IntN(len(m.clients))
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
		m.setBound()
	case n < 990:
		m.switchStore()
	default:
		time.Sleep(10 * time.Second)
	}
}

// TestPromise11RightsAgainstModel: no event is delivered without the right to it, and each missed
// event causes a gap.
func TestPromise11RightsAgainstModel(t *testing.T) {
	const each = 1000 // steps of one hub
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	counts := make(map[string]int)
	for run := range uint64(max(1, *modelSteps/each)) {
		synctest.Test(t, func(t *testing.T) {
			m := &rightsModel{
				T: t, random: rand.New(rand.NewPCG(seed, run)), hub: newHub(t, Options{}),
				oldest: 1, slots: make(map[string]uint64), clients: make([]*modelClient, 4), counts: counts,
			}
			m.store = newCopyableStore(NewEpoch(), run%2 == 0, nil)
			useStore(t, m.hub, m.store)
			<-m.store.tailed
			m.setBound()
			for i := range m.clients {
				m.connect(i)
			}
			for ; m.steps < each && !t.Failed(); m.steps++ {
				m.step()
			}
			for i := range m.clients {
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
			t.Errorf("blocks of kind %q: got none, want some", what)
		}
	}
	t.Log(counts)
}
