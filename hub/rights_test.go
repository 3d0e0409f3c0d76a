package hub

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// rightsModel knows who had which right at which position.
type rightsModel struct {
	*testing.T
	random *rand.Rand
	hub    *Hub
	events []sentEvent // by seq - 1
	open   []*holder
	ops    int
}

type sentEvent struct {
	topic string // empty: it is a command
	data  string
}

// holder is an open connection that looks for events only when it is told to.
type holder struct {
	*Conn
	wire   *wire
	user   string
	rights map[string]uint64 // topics, and from which position on
	told   map[uint64]string // data of sse.topics by its position
	cursor uint64            // all up to here was looked for
	want   []string          // data of events and sse.topics, in order
}

var rightsTopics = []string{"a", "b", "c", "d", "e"}

func (m *rightsModel) some() []string {
	n := m.random.IntN(3)
	picked := slices.Clone(rightsTopics)
	m.random.Shuffle(len(picked), func(i, j int) { picked[i], picked[j] = picked[j], picked[i] })
	return picked[:n]
}

func (m *rightsModel) head() uint64 { return uint64(len(m.events)) }

func (m *rightsModel) connect(i int) {
	user := []string{"alice", "bob", "carol"}[m.random.IntN(3)]
	topics := m.some()
	from := m.head()
	r := as(user, topics...)
	if m.random.IntN(3) == 0 { // with a position
		from -= uint64(m.random.IntN(int(min(from, 20)) + 1))
		r = r.at(at(m.hub, from))
	}
	h := &holder{Conn: connect(m.T, m.hub, r), wire: newWire(), user: user, rights: make(map[string]uint64), told: make(map[uint64]string), cursor: from}
	for _, t := range topics {
		h.rights[t] = 0
	}
	m.open[i] = h
}

func (m *rightsModel) publish() {
	topic := rightsTopics[m.random.IntN(len(rightsTopics))]
	data := strconv.Itoa(len(m.events) + 1)
	publish(m.T, m.hub, data, Target{Topic, topic})
	m.events = append(m.events, sentEvent{topic, data})
}

func (m *rightsModel) change() {
	user := []string{"alice", "bob", "carol"}[m.random.IntN(3)]
	change := TopicChange{Filter: Filter{Users: []string{user}}, Add: m.some(), Remove: m.some()}
	change.Add = slices.DeleteFunc(change.Add, func(t string) bool { return slices.Contains(change.Remove, t) })
	p, err := m.hub.ChangeTopics(m.Context(), change)
	if err != nil {
		m.Fatal(err)
	}
	m.events = append(m.events, sentEvent{})
	want(m.T, "position of the change", p.Seq, m.head())
	told := string(topicsData(&change))
	for _, h := range m.open {
		if h.user != user {
			continue
		}
		before := maps.Clone(h.rights)
		for _, t := range change.Remove {
			delete(h.rights, t)
		}
		for _, t := range change.Add {
			if _, ok := h.rights[t]; !ok {
				h.rights[t] = m.head()
			}
		}
		if !maps.Equal(before, h.rights) {
			h.told[m.head()] = told
		}
	}
}

func (m *rightsModel) catchUp(h *holder) {
	// Only the rights of now count: what was revoked is withheld though it was pending.
	for ; h.cursor < m.head(); h.cursor++ {
		e, seq := m.events[h.cursor], h.cursor+1
		if told := h.told[seq]; told != "" {
			h.want = append(h.want, told)
		}
		if from, ok := h.rights[e.topic]; ok && seq > from {
			h.want = append(h.want, e.data)
		}
	}
	if reason := h.catchUp(h.wire); reason != "" {
		m.Fatalf("it ended: %s", reason)
	}
	c := (&client{t: m.T}).read(h.wire.all())
	var got []string
	seen := make(map[string]bool)
	for _, e := range c.ordered {
		got = append(got, e.data)
		if e.event == "" && seen[e.data] {
			m.Errorf("%s came twice", e.data)
		}
		seen[e.data] = true
	}
	if !slices.Equal(got, h.want) {
		m.Fatalf("after %d steps %s got\n%s\nwant\n%s", m.ops, h.user, strings.Join(got, " "), strings.Join(h.want, " "))
	}
	if told := strings.ReplaceAll(c.told(), EventTopics+" , ", ""); strings.Contains(told, "gap") {
		m.Fatalf("told %s", told)
	}
}

// TestPromise11RightsAgainstModel: whatever happens, nothing is delivered without the
// right to it, and nothing is missed.
func TestPromise11RightsAgainstModel(t *testing.T) {
	const runs, steps = 200, 500
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for run := range uint64(runs) {
		synctest.Test(t, func(t *testing.T) {
			m := &rightsModel{T: t, random: rand.New(rand.NewPCG(seed, run)), hub: newHub(t, Options{}), open: make([]*holder, 4)}
			for i := range m.open {
				m.connect(i)
			}
			for ; m.ops < steps; m.ops++ {
				switch i := m.random.IntN(len(m.open)); m.random.IntN(8) {
				default:
					m.publish()
				case 0, 1:
					m.change()
				case 2, 3:
					m.catchUp(m.open[i])
				case 4:
					m.hub.finish(m.open[i].Conn, Gone)
					m.connect(i)
				}
			}
			for _, h := range m.open {
				m.catchUp(h)
			}
		})
		if t.Failed() {
			t.Fatalf("run %d", run)
		}
	}
}

// A change reaches a node that was cut off before what was published after it.
func TestPromise11TopicsOnOtherNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newSharedLog()
		here, _ := log.join(t, Options{})
		there, cutOff := log.join(t, Options{})
		alice := open(t, there, as("alice", "room/1"))
		publish(t, here, "before", topic("room/1"))
		synctest.Wait()
		cutOff.set(true)
		publish(t, here, "still", topic("room/1"))
		if _, err := here.ChangeTopics(t.Context(), TopicChange{
			Filter: Filter{Users: []string{"alice"}}, Add: []string{"room/2"}, Remove: []string{"room/1"},
		}); err != nil {
			t.Fatal(err)
		}
		publish(t, here, "revoked", topic("room/1"))
		publish(t, here, "granted", topic("room/2"))
		time.Sleep(2 * time.Minute)
		cutOff.set(false)
		synctest.Wait()
		// "still" was pending when the right to it ended, unless it was written first.
		got := strings.ReplaceAll(alice.client(t).data(), "still ", "")
		want(t, "alice got", got, "before granted")
		want(t, "listed", fmt.Sprint(alice.Info().Topics), "[room/2]")
	})
}

// Slots: who is slow gets the newest of each, and no gap for those in between.
func TestSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		slot := func(name, data string, targets ...Target) {
			t.Helper()
			if len(targets) == 0 {
				targets = []Target{{}}
			}
			if _, err := h.Publish(t.Context(), Event{Slot: name, Data: []byte(data), Targets: targets}); err != nil {
				t.Fatal(err)
			}
		}
		v := open(t, h, as("alice"))
		synctest.Wait()
		start := v.client(t).position
		for i := range 10 {
			slot("a", fmt.Sprint("a", i))
			slot("b", fmt.Sprint("b", i), user("alice"))
			slot("b", fmt.Sprint("bob", i), user("bob"))
			publish(t, h, fmt.Sprint(i))
		}
		synctest.Wait()
		c := read(t, h, as("alice").at(start))
		want(t, "who comes back gets", c.data(), "0 1 2 3 4 5 6 7 8 a9 b9 9")
		want(t, "and is told", c.told(), "")
		r := as("alice")
		r.State = true
		c = read(t, h, r)
		want(t, "a newcomer gets", c.data(), "a9 b9")
		want(t, "without an id before it", c.control[0].id, "")
		want(t, "and ends at", c.position, at(h, 38)) // that of b9
		checkBytes(t, h.history)

		empty := as("carol", "x")
		empty.State = true
		h.SetOptions(Options{MaxEvents: 1})
		c = read(t, h, empty)
		want(t, "without a state", c.control[0].id, at(h, 40))
		want(t, "slots that are left", len(h.history.slots), 0)
		checkBytes(t, h.history)
	})
}

// Slots against a map: a client that reads now and then ends with the same state.
func TestSlotsAgainstModel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		state := make(map[string]string)
		var position string
		seen := make(map[string]string)
		for round := range 200 {
			for range rand.IntN(20) {
				name := fmt.Sprint("slot", rand.IntN(10))
				state[name] = name + "=" + strconv.Itoa(rand.Int())
				if _, err := h.Publish(t.Context(), Event{Slot: name, Data: []byte(state[name]), Targets: []Target{{}}}); err != nil {
					t.Fatal(err)
				}
			}
			r := as("alice").at(position)
			r.State = position == ""
			c := read(t, h, r)
			want(t, "told", c.told(), "")
			if c.position != "" {
				position = c.position
			}
			for _, e := range c.events {
				name, _, _ := strings.Cut(e.data, "=")
				seen[name] = e.data
			}
			if len(c.events) > 10 {
				t.Fatalf("%d values of 10 slots", len(c.events))
			}
			if !maps.Equal(seen, state) {
				t.Fatalf("round %d: the client has %v, want %v", round, seen, state)
			}
		}
		checkBytes(t, h.history)
	})
}

// A connection that looks for events just when the history has a change of its topics,
// and the change is not yet made, is told of it all the same.
func TestTopicsChangeWhileOneLooks(t *testing.T) {
	h := newHub(t, Options{})
	mustPublish(t, h, Target{})
	c := connect(t, h, as("alice"))
	var w copied
	c.catchUp(&w)
	change := &Command{Topics: &TopicChange{Filter: Filter{Users: []string{"alice"}}, Add: []string{"news"}}}
	enc := encode(Record{Seq: 2, At: time.Now(), Data: encodeCommand(change)}, h.history.epoch, time.Now())
	h.deliver([]encoded{enc})
	c.catchUp(&w)
	want(t, "told before it is made", strings.Count(w.String(), "sse.topics"), 0)
	h.carryOut(enc.command, enc.seq)
	c.catchUp(&w)
	want(t, "told", strings.Count(w.String(), "sse.topics"), 1)
	want(t, "cursor", c.cursor.Load(), 2)
}

// copied is a client that keeps what it is sent.
type copied struct{ strings.Builder }

func (*copied) Cut()         {}
func (*copied) Flush() error { return nil }
