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

// rightsModel records which client had which right at which position.
type rightsModel struct {
	*testing.T
	random     *rand.Rand
	hub        *Hub
	store      *copyableStore
	records    []modelRecord // by seq - 1
	maxRecords int           // bound of retained records
	oldest     uint64        // seq of the oldest retained record
	slots      map[string]uint64
	learned    bool   // the history has indexed the shape of the pattern
	floor      uint64 // connections with the pattern may have lost records up to this seq
	clients    []*modelClient
	steps      int
	counts     map[string]int
}

// modelRecord is an event or a command.
type modelRecord struct {
	targets  []Target // none for a command
	data     string
	slot     string
	replaced bool
	change   *TopicChange
	end      *Filter
}

// modelClient is a connection that looks for events only when the model calls catchUp.
type modelClient struct {
	*Conn
	user, session string
	rights        map[Target]uint64 // the seq after which the right holds
	topicChanges  map[uint64]string // data of sse.topics by its seq
	joined        uint64            // the head when it connected; commands up to this seq do not concern it
	epoch         string
	cursor        uint64    // it has looked for events up to this seq
	knownLost     uint64    // it was sent a gap for losses up to this seq
	state         uint64    // not 0: it gets the state of this seq first
	gap           gapReason // the gap of its first block
	resumed       bool
	opened        bool // it was sent the first block
	ended         Reason
	graceEnd      time.Time // after this time it is closed without another block
	endSeq        uint64    // the head when it ended

	got      []byte // received since the last look-up
	position string // the last id that it received
}

func (h *modelClient) Write(p []byte) (int, error) {
	h.got = append(h.got, p...)
	return len(p), nil
}
func (*modelClient) Flush() error { return nil }
func (*modelClient) Abort()       {}

const modelPattern = "room/*"

func (m *rightsModel) head() uint64 { return uint64(len(m.records)) }

// covers reports whether h may get a record with this target and seq.
func (h *modelClient) covers(to Target, seq uint64) bool {
	for right, from := range h.rights {
		if seq > from && (right == to || to.Kind == Topic && right.Matches(to.Name)) {
			return true
		}
	}
	return false
}

func (m *rightsModel) isFor(h *modelClient, seq uint64) bool {
	if _, ok := h.topicChanges[seq]; ok {
		return true
	}
	return slices.ContainsFunc(m.records[seq-1].targets, func(to Target) bool { return h.covers(to, seq) })
}

// lost returns the last seq, up to until, that h has lost.
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

// append does the same as the hub when it receives a record.
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
	m.oldest = max(m.oldest, m.head()-min(m.head(), uint64(m.maxRecords))+1)
}

// execute does the same as the hub for a command at the head. replayed says that the command came
// with another history.
func (m *rightsModel) execute(r modelRecord, replayed bool) {
	filter := r.end
	if r.change != nil {
		filter = &r.change.Filter
	}
	var chosen []*modelClient
	for _, h := range m.clients {
		if h.ended == "" && h.joined < m.head() && h.fits(filter) {
			chosen = append(chosen, h)
		}
	}
	for _, h := range chosen {
		switch {
		case r.end != nil:
			m.end(h, Disconnected)
		case replayed: // the client may have lost the right since, or never had it
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
		h.topicChanges[seq] = string(topicsData(change))
	}
}

func (m *rightsModel) end(h *modelClient, reason Reason) {
	h.ended, h.endSeq, h.graceEnd = reason, m.head(), time.Now().Add(closeGrace)
}

// catchUp lets client i look for all pending events, and checks the blocks that it is sent.
func (m *rightsModel) catchUp(i int) {
	h := m.clients[i]
	wasOpened, cursor := h.opened, h.cursor
	// A gap for events that were lost after the end of the connection is allowed but not required.
	copied := *h
	expected, alternative := m.expected(h, h.endSeq), m.expected(&copied, m.head())
	reason := h.Conn.catchUp(h)
	want(m.T, "reason of the end", reason, h.ended)
	got := m.read(h)
	if !slices.Equal(got, expected) && !slices.Equal(got, alternative) {
		m.Fatalf("step %d: blocks of %s with rights %v at %d, retained %d to %d, opened %t: got\n%s\nwant\n%s", m.steps, h.user, h.rights, cursor, m.oldest, m.head(), wasOpened,
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

// expected returns the blocks that h must be sent now. If h has ended, it gets a gap only for
// losses up to until.
func (m *rightsModel) expected(h *modelClient, until uint64) (blocks []string) {
	gap, last := noGap, m.head()
	if h.ended != "" && !time.Now().Before(h.graceEnd) {
		return nil
	}
	lost := m.lost(h, m.oldest-1)
	if !h.opened && h.state > 0 { // it gets the present state
		h.knownLost = max(h.knownLost, min(lost, h.state))
	}
	if h.ended != "" {
		last, lost = h.endSeq, m.lost(h, min(until, m.oldest-1))
	}
	switch {
	case h.epoch != m.store.epoch && h.ended != "":
		last = 0
	case h.epoch != m.store.epoch:
		gap, h.epoch, h.cursor, h.knownLost, h.state = gapEpoch, m.store.epoch, m.oldest-1, lost, 0
	case lost > max(h.cursor, h.knownLost):
		gap, h.cursor, h.knownLost = gapEvicted, max(h.cursor, m.oldest-1), lost
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
		case h.state > begins: // the state is empty
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

// read parses the blocks that the client has received.
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
			m.Fatalf("incomplete block: %q", stream)
		}
		stream = rest
		block, data := (&client{t: m.T}).block(text)
		at := ""
		if block.id != "" {
			p, ok := ParsePosition(block.id)
			if !ok {
				m.Fatalf("id: got %q, want a position", block.id)
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
			want(m.T, "position of a heartbeat", at, fmt.Sprint("@", h.cursor))
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
