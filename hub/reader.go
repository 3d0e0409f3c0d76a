package hub

import (
	"context"
	"slices"
	"time"
)

// EventFilter chooses events. An empty list chooses all.
type EventFilter struct {
	Users  []string
	Topics []Target // results of [ParseTopic]: exact names or patterns
	Types  []string
}

// Line is one record of the history, as a [Reader] returns it.
type Line struct {
	Position Position
	Stored   time.Time
	Expires  time.Time // zero: never
	Targets  []Target  // distinct; an event has at least one
	Type     string
	Data     string // the payload, with LF for every line break
	Replaced bool   // there is a newer event of its slot; Type and Data are not kept
	Command  []byte // JSON; not nil: the record is a command, and has none of the fields above
}

// Lines is what [Reader.Next] has found.
type Lines struct {
	Gap      string   // not empty: records may be missing before Lines, for the same reasons as on a stream
	From     Position // where Lines begin after a gap
	Lines    []Line
	Position Position // everything up to here was looked at
}

// Reader is a cursor on the whole history, for all events. It is no connection: Stats does
// not count it, and nothing waits for it. It needs no closing. One goroutine at a time uses
// it. No caller of a method may hold Hub.mu, except where the method says so.
type Reader struct {
	hub    *Hub
	filter EventFilter

	history *history // that the cursor is a position in
	cursor  Position
	gap     gapReason // that the next Lines report
	from    Position
	ended   Reason

	copied []copiedEntry // scratch of Next
}

// copiedEntry is what a Reader copies of an entry under the lock. The lanes may be read
// without the lock: elements are only appended, and targets do not change.
type copiedEntry struct {
	frame    frame
	lanes    []*lane
	position Position
	stored   int64
	expires  int64
	command  []byte
}

// Read returns a Reader that begins after position, which is like Request.Position. It
// waits like [Hub.Connect], and has the same errors. If something was lost since position,
// the first [Reader.Next] reports the gap. Any goroutine may call it.
func (h *Hub) Read(ctx context.Context, position string, filter EventFilter) (*Reader, error) {
	if err := h.awaitPosition(ctx, position, nil); err != nil {
		return nil, err
	}
	r := &Reader{hub: h, filter: filter}
	h.mu.RLock()
	defer h.mu.RUnlock()
	if !h.source.open { // another history has begun since awaitPosition
		return nil, &Refusal{Starting, between(time.Second, 5*time.Second)}
	}
	hi := h.history
	r.history = hi
	p, ok := ParsePosition(position)
	switch {
	case position == "":
		r.cursor = hi.position(hi.head)
	case position == Earliest:
		r.cursor = hi.position(hi.oldest - 1)
	case !ok:
		r.reportGap(gapInvalid)
	default:
		r.cursor = p
		r.resume()
	}
	return r, nil
}

// Resumed reports whether nothing was lost since the position that Read was given. It has
// this meaning only before the first call of Next.
func (r *Reader) Resumed() bool { return r.gap == noGap }

// Position returns the position of the cursor.
func (r *Reader) Position() Position { return r.cursor }

// Next waits until there are lines or a gap. Its error is that of ctx, or a [*Refusal] if
// the hub has ended: then the caller should come back later. Also with an error, the result
// has the position up to which it looked.
func (r *Reader) Next(ctx context.Context) (Lines, error) {
	for {
		more, onlyHoles := false, true
		for onlyHoles { // holes that follow each other are one gap
			r.hub.check(func() bool { more = r.copyNext(); return true })
			onlyHoles = more && len(r.copied) == 0 && r.gap != noGap
		}
		out := Lines{Position: r.cursor}
		for _, k := range r.copied {
			if line, ok := r.filter.line(k); ok {
				out.Lines = append(out.Lines, line)
			}
		}
		clear(r.copied)
		r.copied = r.copied[:0]
		if r.gap != noGap {
			out.Gap, out.From = gapNames[r.gap], r.from
			r.gap = noGap
		}
		switch {
		case out.Gap != "" || len(out.Lines) > 0:
			return out, nil
		case r.ended != "" && !more:
			return out, &Refusal{r.ended, between(time.Second, 5*time.Second)}
		case ctx.Err() != nil:
			return out, ctx.Err()
		case more:
			continue
		}
		if err := r.hub.await(ctx, func() bool {
			return r.hub.history != r.history || r.hub.history.head > r.cursor.Seq || r.hub.endReason != ""
		}); err != nil {
			return out, err
		}
	}
}

// linesAtOnce is how many entries are copied while Hub.mu is held once.
const linesAtOnce = 256

// copyNext appends the next entries to r.copied, and reports whether there are more. It
// moves the cursor behind them. It copies no more than a batch of a connection has, because
// the caller holds the copies while a slow client takes them. It stops before a hole
// ([history]), which is a gap of its own, and after holesAtOnce holes. It changes only r. The
// caller holds Hub.mu.
func (r *Reader) copyNext() (more bool) {
	hi := r.hub.history
	r.ended = r.hub.endReason
	if hi != r.history {
		r.history = hi
		r.resume()
	}
	if r.cursor.Seq+1 < hi.oldest {
		r.reportGap(gapEvicted)
	}
	size, targets, holes := 0, 0, 0
	seq := r.cursor.Seq + 1
	for ; seq <= hi.head && len(r.copied) < linesAtOnce && size < batchBytes && targets < MaxTargets && holes < holesAtOnce; seq++ {
		e := hi.entry(seq)
		command := hi.commands[seq]
		if e.frame.bytes == nil && len(e.lanes) == 0 && command == nil { // a hole
			if len(r.copied) > 0 {
				break // first the lines before the hole
			}
			r.cursor = hi.position(seq)
			r.reportGap(gapEvicted)
			holes++
			continue
		}
		k := copiedEntry{e.frame, e.lanes, hi.position(seq), e.stored, e.expires, command}
		if command != nil {
			k.frame, k.lanes = frame{}, nil
		}
		r.copied = append(r.copied, k)
		size += len(k.frame.bytes) + len(command)
		targets += len(k.lanes)
		r.cursor = k.position
	}
	return seq <= hi.head
}

// resume sets the cursor in r.history, a history that is new to r. The caller holds Hub.mu.
func (r *Reader) resume() {
	from, gap := r.history.resume(r.cursor, nil)
	switch {
	case gap != noGap:
		r.reportGap(gap)
	case from+1 < r.history.oldest:
		r.reportGap(gapEvicted)
	}
}

// reportGap makes Next report a gap, and continues with everything that is retained: after
// an eviction only with what the reader has not had. If a gap is yet to be reported, an
// eviction does not change its reason. The caller holds Hub.mu.
func (r *Reader) reportGap(gap gapReason) {
	r.cursor = r.history.position(max(r.cursor.Seq, r.history.oldest-1))
	if gap != gapEvicted {
		r.cursor = r.history.position(r.history.oldest - 1)
	}
	if r.from = r.cursor; gap != gapEvicted || r.gap == noGap {
		r.gap = gap
	}
}

// line converts an entry, and reports whether the filter chooses it. It chooses commands
// only if it is empty. It needs no lock.
func (f *EventFilter) line(k copiedEntry) (Line, bool) {
	line := Line{Position: k.position, Stored: time.Unix(0, k.stored)}
	if k.command != nil {
		line.Command = k.command
		return line, len(f.Users)+len(f.Topics)+len(f.Types) == 0
	}
	for _, l := range k.lanes {
		if l.target.Kind != pattern {
			line.Targets = append(line.Targets, l.target)
		}
	}
	switch {
	case k.frame.bytes == nil:
		line.Replaced = true
	case k.expires != never:
		line.Expires = time.Unix(0, k.expires)
	}
	if !line.Replaced {
		line.Type, line.Data = k.frame.name(), k.frame.data()
	}
	return line, f.fits(&line)
}

// fits reports whether the filter chooses the line of an event. It needs no lock.
func (f *EventFilter) fits(line *Line) bool {
	if len(f.Types) > 0 && (line.Replaced || !slices.Contains(f.Types, line.Type)) {
		return false
	}
	if len(f.Users)+len(f.Topics) == 0 {
		return true
	}
	return slices.ContainsFunc(line.Targets, func(t Target) bool {
		return t.Kind == User && slices.Contains(f.Users, t.Name) ||
			t.Kind == Topic && slices.ContainsFunc(f.Topics, func(topic Target) bool { return topic.Matches(t.Name) })
	})
}
