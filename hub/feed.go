package hub

import (
	"cmp"
	"slices"
	"time"

	"github.com/ea766355/caddy-sse/internal/netyield"
)

// feed is the [Feed] of h. The store calls it on one goroutine at a time, which here is
// called the feed's goroutine. Nothing else changes the head of the history. The caller
// must not hold Hub.mu.
type feed struct{ h *Hub }

// Begin implements [Feed]. If the epoch is new, a new history begins, connections move to it
// before Begin returns, and the position is zero: the hub has nothing of it. Otherwise the
// history continues, and Begin returns the last position that the hub has. Records that the
// hub lacks and that come before oldest, the first one that the store has, are lost. They
// become holes ([history]). If a store that nodes share begins another epoch, it may have
// lost a command that this node has not received. Then all connections end. Only the feed's
// goroutine calls it, without Hub.mu.
func (f feed) Begin(epoch string, oldest uint64) (have Position) {
	h := f.h
	h.mu.Lock()
	goesOn := epoch == h.history.epoch
	mayLackCommand := !goesOn && h.source.begun && h.source.Shared()
	h.source.begun = true
	if goesOn {
		have = h.history.position(h.history.head)
	} else {
		if mayLackCommand {
			h.rightsChanges.add(Filter{})
		}
		h.endedHistories = append(h.endedHistories[max(0, len(h.endedHistories)-maxEndedHistories):], h.history.position(h.history.head))
		h.source.open = false
		h.restart(epoch, oldest)
	}
	h.mu.Unlock()
	h.moveConns()
	if goesOn {
		h.fillHoles(oldest)
	}
	if mayLackCommand {
		h.execute(new(Command), oldest) // it chooses all connections
	}
	return have
}

// maxEndedHistories is how many more histories than the last one h.endedHistories
// remembers: a publisher may get the store's answer late.
const maxEndedHistories = 15

// Status implements [Feed]. The history opens at the first status without a problem and
// without records to come, and stays open.
func (f feed) Status(problem error, behind uint64) {
	h := f.h
	h.mu.Lock()
	defer h.mu.Unlock()
	recovered := problem == nil && h.source.problem != nil
	caughtUp := behind == 0 && h.source.behind > 0
	switch {
	case problem == nil:
		h.source.since = time.Time{}
	case h.source.problem == nil:
		h.source.since = time.Now()
	}
	h.source.problem, h.source.behind = problem, behind
	opened := problem == nil && behind == 0 && !h.source.open
	h.source.open = h.source.open || opened
	if recovered || caughtUp || opened {
		h.notifyChange()
	}
}

// Deliver implements [Feed]. It leaves out records that the history has, encodes the others
// without the lock, and appends them in slices. A seq that is left out becomes a hole
// ([history]). A command is executed before the record after it is appended. Deliver keeps
// no part of the records.
func (f feed) Deliver(records []Record) {
	h := f.h
	h.mu.RLock()
	epoch, head := h.history.epoch, h.history.head
	h.mu.RUnlock()
	known, _ := slices.BinarySearchFunc(records, head+1, func(r Record, seq uint64) int { return cmp.Compare(r.Seq, seq) })
	records = records[known:]
	now := time.Now()
	encodings := make([]encoded, len(records))
	var yielder netyield.Yielder // there may be a million targets
	yielder.Begin()
	for i, r := range records {
		if i > 0 {
			yielder.Step()
		}
		encodings[i] = encode(r, epoch, now)
	}
	for len(encodings) > 0 {
		if next := encodings[0].seq; next > head+1 {
			h.fillHoles(next)
		}
		n := sliceLength(encodings)
		h.deliver(encodings[:n])
		last := encodings[n-1]
		if last.command != nil {
			h.execute(last.command, last.seq)
		}
		head, encodings = last.seq, encodings[n:]
		if len(encodings) > 0 { // else the caller gives way: it may hold a lock
			yielder.Step()
		}
	}
}

// targetsAtOnce is about how many targets are indexed while Hub.mu is held once: a batch
// may have a million of them.
const targetsAtOnce = MaxTargets

// sliceLength returns how many of the records are appended while Hub.mu is held once, at
// least 1. Their seqs follow each other. A command is the last of them, because it is
// executed before later records are appended. records must not be empty.
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

// deliver appends records to the history: those that sliceLength has chosen. The seq of the
// first is the one after the head. If the last one is a command, no connection looks past
// it until the caller has called execute. Only the feed's goroutine calls it. The caller
// must not hold Hub.mu.
func (h *Hub) deliver(records []encoded) {
	now := time.Now()
	h.mu.Lock()
	if last := records[len(records)-1]; last.command != nil {
		h.pendingCommand = last.seq
		h.rightsChanges.add(last.command.filter())
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

// holesAtOnce is how many holes are appended, or passed by a [Reader], while Hub.mu is held
// once.
const holesAtOnce = 1000

// fillHoles appends a hole ([history]) for each position before next that the store does
// not have. In a store that nodes share, a hole may have been a command: then all
// connections end. It does nothing if next is the position after the head. Only the feed's
// goroutine calls it. The caller must not hold Hub.mu.
func (h *Hub) fillHoles(next uint64) {
	added := false
	for h.addHoles(next) {
		added = true
	}
	h.moveConns()
	if added && h.sharesStore() {
		h.execute(new(Command), next)
	}
}

// addHoles appends some of the holes before next. It returns true if it did: then call it
// again. It returns false if none are missing. If there are more than the history can have,
// it begins a new history of the same epoch: then the caller calls moveConns. Only
// fillHoles calls it. The caller must not hold Hub.mu.
func (h *Hub) addHoles(next uint64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	missing := next - min(next, h.history.head+1)
	if missing > 0 && h.source.Store != nil && h.source.Shared() {
		// One of the records may have been a command for any connection.
		h.rightsChanges.add(Filter{})
	}
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

// sharesStore reports whether other nodes append to the store too. It returns false before
// Use. Any goroutine may call it. The caller must not hold Hub.mu.
func (h *Hub) sharesStore() bool {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.source.Store != nil && h.source.Shared()
}

// execute executes the command at the position seq. Connections do not look past seq while
// it runs. An empty command stands for one that cannot be read. If it is not certain what a
// command means for a connection, the connection ends with the reason [Lifetime]: the
// client comes back and is authenticated again. Only the feed's goroutine calls it. The
// caller must not hold Hub.mu.
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
// changed. The caller then marks the lane as dirty ([lane]), but not before c may pass the
// command. c must not have ended. Only execute calls it. The caller holds Hub.mu for
// writing.
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
