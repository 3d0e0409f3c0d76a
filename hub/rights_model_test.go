package hub

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// rightsModel knows who had which right at which position.
type rightsModel struct {
	*testing.T
	random  *rand.Rand
	hub     *Hub
	tape    *copyableStore
	records []modelRecord // by seq - 1
	most    int           // retained records
	oldest  uint64        // of those
	slots   map[string]uint64
	learned bool   // the shape of the pattern is known to the history
	floor   uint64 // up to here records may be lost to connections with the pattern
	holders []*modelClient
	steps   int
	counts  map[string]int
}

// modelRecord is an event or a command.
type modelRecord struct {
	targets  []Target // none: it is a command
	data     string
	slot     string
	replaced bool
	change   *TopicChange
	end      *Filter
}

// holder is a connection that looks for events only when it is told to.
type modelClient struct {
	*Conn
	user, session string
	rights        map[Target]uint64 // from which position on
	told          map[uint64]string // data of sse.topics by its position
	joined        uint64            // commands up to here do not concern it
	epoch         string
	cursor        uint64 // all up to here was looked for
	known         uint64 // it knows of what is lost up to here
	state         uint64
	gap           gapReason // since it was opened
	resumed       bool
	opened        bool // it had the first block
	ended         Reason
	late          time.Time // when it is closed without another block
	limit         uint64    // where it ended

	got      []byte // since it looked last
	position string // the last id that the client has
}

func (h *modelClient) Write(p []byte) (int, error) {
	h.got = append(h.got, p...)
	return len(p), nil
}
func (*modelClient) Flush() error { return nil }
func (*modelClient) Abort()       {}

const modelPattern = "room/*"

func (m *rightsModel) head() uint64 { return uint64(len(m.records)) }

// covers reports whether a right of h gives it a record that is for the target.
func (h *modelClient) covers(to Target, seq uint64) bool {
	for right, from := range h.rights {
		if seq > from && (right == to || to.Kind == Topic && right.Matches(to.Name)) {
			return true
		}
	}
	return false
}

func (m *rightsModel) isFor(h *modelClient, seq uint64) bool {
	if _, ok := h.told[seq]; ok {
		return true
	}
	return slices.ContainsFunc(m.records[seq-1].targets, func(to Target) bool { return h.covers(to, seq) })
}

// lost is the last position that is lost to h, of those up to one.
func (m *rightsModel) lost(h *modelClient, until uint64) uint64 {
	last := uint64(0)
	if from, ok := h.rights[Target{pattern, modelPattern}]; ok && m.floor > from {
		last = m.floor
	}
	for seq := until; seq > last; seq-- {
		if !m.records[seq-1].replaced && m.isFor(h, seq) {
			return seq
		}
	}
	return last
}

// append does what the hub does when it has received a record.
func (m *rightsModel) append(r modelRecord) {
	m.records = append(m.records, r)
	if r.slot != "" {
		targets := slices.Clone(r.targets)
		slices.SortFunc(targets, func(a, b Target) int {
			return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
		})
		key := fmt.Sprint(r.slot, slices.Compact(targets))
		if before := m.slots[key]; before >= m.oldest {
			m.records[before-1].replaced = true
		}
		m.slots[key] = m.head()
	}
	m.evict()
}

func (m *rightsModel) evict() {
	m.oldest = max(m.oldest, m.head()-min(m.head(), uint64(m.most))+1)
}

// carryOut does what a command at the head says. replayed: it comes with another history.
func (m *rightsModel) carryOut(r modelRecord, replayed bool) {
	filter := r.end
	if r.change != nil {
		filter = &r.change.Filter
	}
	var chosen []*modelClient
	for _, h := range m.holders {
		if h.ended == "" && h.joined < m.head() && h.fits(filter) {
			chosen = append(chosen, h)
		}
	}
	for _, h := range chosen {
		switch {
		case r.end != nil:
			m.end(h, Disconnected)
		case replayed: // it may have lost the right since, or never had it
			m.end(h, Lifetime)
		default:
			h.change(r.change, m.head())
		}
	}
}

func (h *modelClient) fits(f *Filter) bool {
	has := func(name string) bool {
		for right := range h.rights {
			if right.Matches(name) {
				return true
			}
		}
		return false
	}
	return (len(f.Users) == 0 || slices.Contains(f.Users, h.user)) &&
		(len(f.IDs) == 0 || slices.Contains(f.IDs, h.ID())) &&
		(len(f.Topics) == 0 || slices.ContainsFunc(f.Topics, has))
}

func (h *modelClient) change(change *TopicChange, seq uint64) {
	before := maps.Clone(h.rights)
	for _, name := range change.Remove {
		delete(h.rights, topic(name))
	}
	for _, name := range change.Add {
		if _, ok := h.rights[topic(name)]; !ok {
			h.rights[topic(name)] = seq
		}
	}
	if !maps.Equal(before, h.rights) {
		h.told[seq] = string(topicsData(change))
	}
}

func (m *rightsModel) end(h *modelClient, reason Reason) {
	h.ended, h.limit, h.late = reason, m.head(), time.Now().Add(closeGrace)
}

// catchUp has a connection look for all there is, and checks what it is sent.
func (m *rightsModel) catchUp(i int) {
	h := m.holders[i]
	begun, cursor := h.opened, h.cursor
	// What is lost from after its end may be told or not.
	more := *h
	expected, other := m.expected(h, h.limit), m.expected(&more, m.head())
	reason := h.Conn.catchUp(h)
	want(m.T, "it ended", reason, h.ended)
	got := m.read(h)
	if !slices.Equal(got, expected) && !slices.Equal(got, other) {
		m.Fatalf("step %d: %s with %v at %d of %d to %d, begun %t, got\n%s\nwant\n%s", m.steps, h.user, h.rights, cursor, m.oldest, m.head(), begun,
			strings.Join(got, "\n"), strings.Join(expected, "\n"))
	}
	for _, block := range got {
		what, _, _ := strings.Cut(block, "@")
		m.counts[what]++
	}
	if h.ended != "" {
		h.setAborter(nil)
		m.connect(i)
	}
}

// expected is what h is to be sent now. Where it has ended, what is lost is told up to a
// position.
func (m *rightsModel) expected(h *modelClient, until uint64) (blocks []string) {
	gap, last := noGap, m.head()
	if h.ended != "" && !time.Now().Before(h.late) {
		return nil
	}
	lost := m.lost(h, m.oldest-1)
	if !h.opened && h.state > 0 { // it is given the state of now
		h.known = max(h.known, min(lost, h.state))
	}
	if h.ended != "" {
		last, lost = h.limit, m.lost(h, min(until, m.oldest-1))
	}
	switch {
	case h.epoch != m.tape.epoch && h.ended != "":
		last = 0
	case h.epoch != m.tape.epoch:
		gap, h.epoch, h.cursor, h.known, h.state = gapEpoch, m.tape.epoch, m.oldest-1, lost, 0
	case lost > max(h.cursor, h.known):
		gap, h.cursor, h.known = gapEvicted, max(h.cursor, m.oldest-1), lost
	}
	begins := h.cursor
	for seq := max(h.cursor+1, m.oldest); seq <= last; seq++ {
		r := m.records[seq-1]
		if m.isFor(h, seq) && !r.replaced && (seq > h.state || r.slot != "") {
			kind := "event"
			if r.change != nil {
				kind = "topics"
			}
			blocks = append(blocks, fmt.Sprintf("%s@%d: %s", kind, seq, r.data))
		}
	}
	h.cursor = max(h.cursor, last)
	if !h.opened {
		gap = cmp.Or(h.gap, gap)
	}
	if gap != noGap {
		blocks = slices.Insert(blocks, 0, fmt.Sprintf("gap %s@%d", gapNames[gap], begins))
	}
	if !h.opened {
		h.opened = true
		connected := "connected"
		if h.resumed && gap == noGap {
			connected += " and resumed"
		}
		switch {
		case gap != noGap, h.state > begins && len(blocks) > 0:
		case h.state > begins: // there is no state
			connected += fmt.Sprint("@", h.cursor)
		default:
			connected += fmt.Sprint("@", begins)
		}
		blocks = slices.Insert(blocks, 0, connected)
	}
	if h.ended != "" {
		blocks = append(blocks, "closing "+string(h.ended))
	}
	return blocks
}

// read takes apart what the holder has got.
func (m *rightsModel) read(h *modelClient) (blocks []string) {
	stream := string(h.got)
	h.got = h.got[:0]
	for stream != "" {
		if rest, ok := strings.CutPrefix(stream, ":\n"); ok {
			stream = rest
			continue
		}
		text, rest, ok := strings.Cut(stream, "\n\n")
		if !ok {
			m.Fatalf("not a whole block: %q", stream)
		}
		stream = rest
		block, data := (&client{t: m.T}).block(text)
		at := ""
		if block.id != "" {
			p, ok := ParsePosition(block.id)
			if !ok {
				m.Fatalf("not a position: %q", block.id)
			}
			at = fmt.Sprint("@", p.Seq)
			h.position = block.id
		}
		var reason string
		if _, after, ok := strings.Cut(block.data, `"reason":"`); ok {
			reason, _, _ = strings.Cut(after, `"`)
		}
		switch {
		case !data:
			want(m.T, "a heartbeat's position", at, fmt.Sprint("@", h.cursor))
		case block.event == "sse.connected" && strings.Contains(block.data, `"resumed":true`):
			blocks = append(blocks, "connected and resumed"+at)
		case block.event == "sse.connected":
			blocks = append(blocks, "connected"+at)
		case block.event == "sse.gap" || block.event == "sse.closing":
			blocks = append(blocks, strings.TrimPrefix(block.event, "sse.")+" "+reason+at)
		case block.event == EventTopics:
			blocks = append(blocks, "topics"+at+": "+block.data)
		default:
			blocks = append(blocks, "event"+at+": "+block.data)
		}
	}
	return blocks
}
