package hub

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"
)

// The first byte of a record says what the record is. A number is never reused for
// another format.
const (
	recordEvent   = 1
	recordCommand = 2
	recordTraced  = 3 // an event, after its trace
)

// errRecord says that neither this nor an earlier version of this package can have
// written a record.
var errRecord = errors.New("unknown kind or version of record")

// Command is a change that every node executes when its history reaches the position
// of the command. It concerns connections that began before that.
//
// Later versions may have more fields. A node that finds an unknown field ends all its
// connections, because the command may concern them. Their clients are authenticated
// again.
type Command struct {
	// Disconnect chooses the connections that end.
	Disconnect *Filter `json:"disconnect,omitempty"`

	// Topics changes the topics of connections.
	Topics *TopicChange `json:"topics,omitempty"`
}

// filter returns the filter of the connections that the command concerns: all of them, if
// this node does not know.
func (c *Command) filter() Filter {
	switch {
	case c.Disconnect != nil:
		return *c.Disconnect
	case c.Topics != nil:
		return c.Topics.Filter
	}
	return Filter{}
}

// TopicChange adds and removes exact topics. An added topic begins at the position of
// the command. A removed topic ends there, also for events that are pending. The
// patterns of a connection do not change.
type TopicChange struct {
	Filter Filter   `json:"filter"` // chooses the connections
	Add    []string `json:"add,omitempty"`
	Remove []string `json:"remove,omitempty"`
}

// targets returns the topics with these names, as targets of exact topics.
func targets(names []string) []Target {
	topics := make([]Target, len(names))
	for i, name := range names {
		topics[i] = Target{Topic, name}
	}
	return topics
}

// decoded is the content of a record.
type decoded struct {
	event   *Event
	command *Command
}

// encodeEvent returns the record of an event: the kind; the trace, if there is one; the
// times, as Unix nanoseconds, 0 for none; and every string, after its length. It leaves out
// the key, which concerns the store.
//
// The data takes the rest of the record, so a record has no room for a field that an
// earlier version could skip. Therefore an event with a trace is a kind of its own.
func encodeEvent(e *Event) []byte {
	size := 2*binary.MaxVarintLen64 + 16 + len(e.Trace) + len(e.Type) + len(e.Slot) + len(e.Data)
	for _, t := range e.Targets {
		size += 4 + len(t.Name)
	}
	buf := make([]byte, 0, size)
	if e.Trace == "" {
		buf = append(buf, recordEvent)
	} else {
		buf = appendString(append(buf, recordTraced), e.Trace)
	}
	buf = binary.AppendVarint(buf, unixNano(e.At))
	buf = binary.AppendVarint(buf, unixNano(e.Expires))
	buf = appendString(buf, e.Type)
	buf = appendString(buf, e.Slot)
	buf = binary.AppendUvarint(buf, uint64(len(e.Targets)))
	for _, t := range e.Targets {
		buf = append(buf, byte(t.Kind))
		buf = appendString(buf, t.Name)
	}
	return append(buf, e.Data...)
}

// encodeCommand returns the record of a command: the kind, and JSON.
func encodeCommand(c *Command) []byte {
	body, err := json.Marshal(c)
	if err != nil {
		panic(err) // impossible: it has only strings
	}
	return append([]byte{recordCommand}, body...)
}

// decode parses a record. Event.Data is a part of the record, which must not change as long
// as the event is used. A command that cannot be parsed is decoded as &Command{}. Anything
// else that cannot be parsed is an error.
func decode(record []byte) (decoded, error) {
	if len(record) == 0 {
		return decoded{}, errRecord
	}
	switch record[0] {
	case recordEvent, recordTraced:
		e := new(Event)
		err := e.decode(record)
		if err == nil {
			// Another program may have written the record.
			err = e.validate(math.MaxInt)
		}
		if err != nil {
			return decoded{}, err
		}
		return decoded{event: e}, nil
	case recordCommand:
		c := new(Command)
		reader := json.NewDecoder(bytes.NewReader(record[1:]))
		reader.DisallowUnknownFields()
		if reader.Decode(c) != nil {
			return decoded{command: new(Command)}, nil
		}
		return decoded{command: c}, nil
	}
	return decoded{}, fmt.Errorf("%w: %d", errRecord, record[0])
}

// decode sets e to the event in the record, of either kind. e.Data is a part of the record.
// The error is errRecord, and e has no meaning then. It does not validate e.
func (e *Event) decode(record []byte) error {
	r := recordReader{buf: record[1:]}
	trace := ""
	if record[0] == recordTraced {
		trace = r.string()
	}
	*e = Event{Trace: trace, At: fromUnixNano(r.varint()), Expires: fromUnixNano(r.varint()), Type: r.string(), Slot: r.string()}
	n := r.uvarint()
	if n > MaxTargets {
		return errRecord
	}
	e.Targets = make([]Target, n)
	rest := r
	for range n {
		rest.byte()
		rest.take(rest.uvarint())
	}
	// One string for all names: a batch may have a million of them.
	text := string(r.buf[:len(r.buf)-len(rest.buf)])
	for i := range e.Targets {
		kind, name := Kind(r.byte()), r.take(r.uvarint())
		end := len(text) + len(rest.buf) - len(r.buf)
		e.Targets[i] = Target{kind, text[end-len(name) : end]}
	}
	e.Data = r.buf
	if r.failed {
		return errRecord
	}
	return nil
}

// unixNano returns t in Unix nanoseconds; 0: t is zero. The largest result, in the year 2262,
// stands for all later times.
func unixNano(t time.Time) int64 {
	switch {
	case t.IsZero():
		return 0
	case t.After(time.Unix(0, math.MaxInt64)):
		return math.MaxInt64
	}
	return t.UnixNano()
}

// fromUnixNano is the reverse of unixNano.
func fromUnixNano(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n)
}

// appendString appends the length of s, as a uvarint, and s.
func appendString(buf []byte, s string) []byte {
	return append(binary.AppendUvarint(buf, uint64(len(s))), s...)
}

// recordReader reads values from the front of buf. failed says that one was malformed or
// missing. The methods then return values without meaning, so the caller looks at failed
// once, at the end.
type recordReader struct {
	buf    []byte
	failed bool
}

// take removes n bytes from the front of buf and returns them, without a copy. If there are
// fewer, it returns nil, empties buf, and sets failed.
func (r *recordReader) take(n uint64) []byte {
	if n > uint64(len(r.buf)) {
		r.failed, r.buf = true, nil
		return nil
	}
	taken := r.buf[:n]
	r.buf = r.buf[n:]
	return taken
}

// byte reads one byte. If there is none, it returns a value that is no [Kind] of target.
func (r *recordReader) byte() byte {
	b := r.take(1)
	if len(b) == 0 {
		return math.MaxUint8
	}
	return b[0]
}

// varint reads a signed number, as binary.AppendVarint writes it.
func (r *recordReader) varint() int64 {
	v, n := binary.Varint(r.buf)
	if n <= 0 {
		n, r.failed = 0, true
	}
	r.take(uint64(n))
	return v
}

// uvarint reads a number, as binary.AppendUvarint writes it.
func (r *recordReader) uvarint() uint64 {
	v, n := binary.Uvarint(r.buf)
	if n <= 0 {
		n, r.failed = 0, true
	}
	r.take(uint64(n))
	return v
}

// string reads a string, as appendString writes it. The result is a copy.
func (r *recordReader) string() string { return string(r.take(r.uvarint())) }
