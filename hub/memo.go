package hub

import "slices"

// memo remembers the key of a batch's last look-up. Many connections are at the same
// position and wait for the same events. A sweeper serves them one after the other with one
// batch: the first connection searches, and the next ones with the same key use the items
// that are already in the batch. It belongs to its batch, which one goroutine at a time
// uses.
//
// The key is the history, the range (seq, last], and the lanes that have events after seq,
// in the order of the connection's subscriptions. The user, and topics without news, do not
// matter.
type memo struct {
	history   *history // nil: nothing is remembered
	seq, last uint64
	lanes     []*lane

	reached uint64 // the answer of [history.since]

	joined      []byte // the frames of the items
	joinedItems int    // the number of items in joined; 0: they are not joined yet
}

// matches reports whether the key is that of the remembered look-up: then the batch has its
// items, and m.reached is its answer.
func (m *memo) matches(h *history, seq, last uint64, lanes []*lane) bool {
	return m.history == h && m.seq == seq && m.last == last && slices.Equal(m.lanes, lanes)
}

// remember keeps the answer, and the key except for its lanes, which [history.since] sets.
func (m *memo) remember(h *history, seq, last, reached uint64) {
	m.history, m.seq, m.last, m.reached = h, seq, last, reached
}

// forget makes the next look-up a search. It must be called before the items of the batch
// change.
func (m *memo) forget() { m.history, m.joinedItems = nil, 0 }
