package hub

import (
	"cmp"
	"slices"
	"time"
)

// feed is the [Feed] of h. One goroutine at a time uses it: that of the store's Tail.
// Nothing else changes the head of the history.
type feed struct{ h *Hub }

func (f feed) Begin(epoch string, oldest uint64) (have Position) {
	h := f.h
	h.mu.Lock()
	h.source.begun = true
	goesOn := epoch == h.history.epoch
	if goesOn {
		have = h.history.position(h.history.head)
	} else {
		h.endedHistories = append(h.endedHistories[max(0, len(h.endedHistories)-maxEndedHistories):], h.history.position(h.history.head))
		h.source.open = false
		h.restart(epoch, oldest)
	}
	h.mu.Unlock()
	h.moveConns()
	if goesOn {
		h.fillHoles(oldest)
	}
	return have
}

// maxEndedHistories is how many more histories than the last one h.endedHistories
// remembers: a publisher may get the store's answer late.
const maxEndedHistories = 15

func (f feed) Status(problem error, behind uint64) {
	h := f.h
	h.mu.Lock()
	defer h.mu.Unlock()
	recovered := problem == nil && h.source.problem != nil
	switch {
	case problem == nil:
		h.source.since = time.Time{}
	case h.source.problem == nil:
		h.source.since = time.Now()
	}
	h.source.problem, h.source.behind = problem, behind
	opened := problem == nil && behind == 0 && !h.source.open
	h.source.open = h.source.open || opened
	if recovered || opened {
		h.notifyChange()
	}
}

func (f feed) Deliver(records []Record) {
	h := f.h
	h.mu.RLock()
	epoch, head := h.history.epoch, h.history.head
	h.mu.RUnlock()
	known, _ := slices.BinarySearchFunc(records, head+1, func(r Record, seq uint64) int { return cmp.Compare(r.Seq, seq) })
	records = records[known:]
	now := time.Now()
	encodings := make([]encoded, len(records))
	for i, r := range records {
		encodings[i] = encode(r, epoch, now)
	}
	for len(encodings) > 0 {
		h.fillHoles(encodings[0].seq)
		n := sliceLength(encodings)
		h.deliver(encodings[:n])
		if last := encodings[n-1]; last.command != nil {
			h.execute(last.command, last.seq)
		}
		encodings = encodings[n:]
	}
}

// targetsAtOnce is about how many targets are indexed while mu is held once: a batch
// may have a million of them.
const targetsAtOnce = MaxTargets

// sliceLength returns how many records are appended while mu is held once. Their seqs
// follow each other. A command is the last of them, because it is executed before later
// records are appended.
func sliceLength(records []encoded) int {
	targets := 0
	for i, r := range records {
		if r.event != nil {
			targets += len(r.event.Targets)
		}
		if r.command != nil || targets >= targetsAtOnce || i+1 < len(records) && records[i+1].seq != r.seq+1 {
			return i + 1
		}
	}
	return len(records)
}

// deliver appends records to the history. The last one may be a command: no connection
// passes it before execute has run.
func (h *Hub) deliver(records []encoded) {
	now := time.Now()
	h.mu.Lock()
	if last := records[len(records)-1]; last.command != nil {
		h.pendingCommand = last.seq
	}
	for _, r := range records {
		h.append(r, now)
	}
	h.source.retain(h.history)
	h.notifyChange()
	trimmed := h.history.trimmed
	h.mu.Unlock()
	if !trimmed {
		h.trimAll(now)
	}
}

// holesAtOnce is how many holes are appended while mu is held once.
const holesAtOnce = 1000

// fillHoles appends a hole for each position before next that the store does not have.
// In a store that nodes share, a hole may have been a command.
func (h *Hub) fillHoles(next uint64) {
	left := false
	for h.addHoles(next) {
		left = true
	}
	h.moveConns()
	if left && h.sharesStore() {
		h.execute(new(Command), next)
	}
}

// addHoles appends some of the holes before next, and reports whether there were any.
func (h *Hub) addHoles(next uint64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	missing := next - min(next, h.history.head+1)
	switch {
	case missing == 0:
		return false
	case missing >= uint64(h.history.opts.MaxEvents):
		h.restart(h.history.epoch, next)
	default:
		h.history.addHoles(min(missing, holesAtOnce), time.Now())
		h.markDirty(h.history.all)
		h.notifyChange()
	}
	return true
}

func (h *Hub) sharesStore() bool {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.source.Store != nil && h.source.Shared()
}

// execute executes the command at the position seq. Connections do not look past seq
// while it runs. An empty command stands for one that cannot be read. If it is not certain
// what a command means for a connection, the connection ends with the reason [Lifetime]:
// the client comes back and is authenticated again.
func (h *Hub) execute(command *Command, seq uint64) {
	var changed []*lane
	filter, do := Filter{}, func(c *Conn) { h.detach(c, Lifetime) }
	switch {
	case command.Disconnect != nil:
		filter, do = *command.Disconnect, func(c *Conn) { h.detach(c, Disconnected) }
	case command.Topics != nil && !h.check(func() bool { return h.source.open }):
		// Another history is being read. Its changes may be older than the connections,
		// which may have lost since then what the command adds.
		filter = command.Topics.Filter
	case command.Topics != nil:
		add := targets(command.Topics.Add)
		remove := make(map[Target]struct{})
		for _, t := range targets(command.Topics.Remove) {
			remove[t] = struct{}{}
		}
		filter, do = command.Topics.Filter, func(c *Conn) {
			if own := h.changeTopics(c, add, remove, seq); own != nil {
				changed = append(changed, own)
			}
		}
	}
	for _, c := range h.matching(filter) {
		h.mu.Lock()
		if c.subscribedAt < seq && c.reason == "" {
			do(c)
		}
		h.mu.Unlock()
	}
	h.mu.Lock()
	h.pendingCommand = 0
	h.mu.Unlock()
	for some := range slices.Chunk(changed, subscribersAtOnce) { // they could not pass the command until now
		h.mu.Lock()
		for _, own := range some {
			h.markDirty(own)
		}
		h.notifyChange()
		h.mu.Unlock()
	}
}

// changeTopics changes the topics of c at the position seq. The command becomes an event
// for this connection, sse.topics. It returns the lane with that event; nil: nothing
// changed. mu is held.
func (h *Hub) changeTopics(c *Conn, add []Target, remove map[Target]struct{}, seq uint64) *lane {
	if !c.changeTopics(add, remove, seq) {
		return nil
	}
	own := h.history.lane(Target{Connection, c.id})
	if seq >= h.history.oldest {
		h.history.index(h.history.entry(seq), seq, own.target)
	} else {
		own.evicted = seq
	}
	return own
}
