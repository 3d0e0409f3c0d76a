package hub

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Kind says what a Target's name is the name of.
type Kind uint8

// The kinds of target.
const (
	All        Kind = iota // every connection of the hub; the name is empty
	User                   // all connections of one user
	Connection             // one connection, by its id
	Session                // all connections of one session
	Topic                  // all connections whose topics match
	pattern                // in the index only: a topic as one shape of pattern sees it
)

// Target is whom an event is for. It is comparable and serves as a map key.
type Target struct {
	Kind Kind
	Name string
}

// Limits of one event, beside Options.MaxEventSize.
const (
	MaxTargets    = 1000 // targets of one event
	MaxSlotLength = 128  // bytes of a slot's name
	MaxKeyLength  = 128  // bytes of an idempotency key
	MaxNameLength = 512  // bytes of the name of a user, a connection, a session or a topic

	// MaxEventSizeLimit is the largest Options.MaxEventSize: the length of a chunk
	// must fit into eight hex digits.
	MaxEventSizeLimit = 1 << 30
)

// ReservedPrefix begins the event types that only the hub itself sends.
const ReservedPrefix = "sse."

// Event is what a back end publishes. It is not changed after it was handed
// to Publish.
type Event struct {
	// Type is the event's name, without line breaks. Empty: none is sent, and
	// a browser dispatches "message".
	Type string

	// Data is the payload, UTF-8. Every CR, LF or CRLF in it begins a new data
	// line, and a client reads each of them back as one LF. [HTML spec 9.2.6]
	Data []byte

	// Targets are whom the event is for. A connection that matches several gets
	// the event once.
	Targets []Target

	// Key is the publisher's idempotency key; empty: none. The same key again
	// within KeyLifetime is answered with the first position.
	Key string

	// Slot makes the event a state: it replaces the earlier one with the same slot and
	// the same targets. A client that has not received that one gets only this one.
	// Empty: none.
	Slot string

	// At is when the event was accepted; Publish sets it.
	At time.Time

	// Expires is when the event ceases to be delivered. Zero: never.
	Expires time.Time
}

// Errors that Publish wraps when it refuses an event.
var (
	ErrInvalid  = errors.New("invalid event")
	ErrTooLarge = errors.New("event too large")
)

// validate refuses what could not be framed, or would be framed as something else.
func (e *Event) validate(maxSize int) error {
	switch {
	case strings.HasPrefix(e.Type, ReservedPrefix):
		return fmt.Errorf("%w: type %q is reserved: types that begin with %q are sent by the hub alone", ErrInvalid, e.Type, ReservedPrefix)
	case e.Type == "open" || e.Type == "error":
		return fmt.Errorf("%w: type %q is reserved: an EventSource dispatches it itself; use another, such as \"failure\"", ErrInvalid, e.Type)
	case strings.ContainsAny(e.Type, "\r\n\x00"):
		return fmt.Errorf("%w: type must not contain CR, LF or NUL", ErrInvalid)
	case !utf8.ValidString(e.Type):
		return fmt.Errorf("%w: type must be valid UTF-8", ErrInvalid)
	case !utf8.Valid(e.Data):
		return fmt.Errorf("%w: the payload must be valid UTF-8", ErrInvalid)
	case len(e.Key) > MaxKeyLength:
		return fmt.Errorf("%w: key is %d bytes long, at most %d are allowed", ErrInvalid, len(e.Key), MaxKeyLength)
	case len(e.Slot) > MaxSlotLength:
		return fmt.Errorf("%w: slot is %d bytes long, at most %d are allowed", ErrInvalid, len(e.Slot), MaxSlotLength)
	case len(e.Targets) == 0:
		return fmt.Errorf("%w: it has no target", ErrInvalid)
	case len(e.Targets) > MaxTargets:
		return fmt.Errorf("%w: it has %d targets, at most %d are allowed", ErrInvalid, len(e.Targets), MaxTargets)
	case len(e.Type)+len(e.Data) > maxSize:
		return fmt.Errorf("%w: type and payload are %d bytes, at most %d are allowed", ErrTooLarge, len(e.Type)+len(e.Data), maxSize)
	}
	for _, t := range e.Targets {
		if err := t.validate(); err != nil {
			return err
		}
	}
	return nil
}

// validate rejects a target that no event may have.
func (t Target) validate() error {
	switch {
	case t.Kind > Topic:
		return fmt.Errorf("%w: unknown kind of target %d", ErrInvalid, t.Kind)
	case (t.Kind == All) != (t.Name == ""):
		return fmt.Errorf("%w: a target's name must not be empty", ErrInvalid)
	case len(t.Name) > MaxNameLength:
		return fmt.Errorf("%w: the name of a target is %d bytes long, at most %d are allowed", ErrInvalid, len(t.Name), MaxNameLength)
	case t.Kind == Topic && strings.Contains(t.Name, "*"):
		return fmt.Errorf("%w: topic %q: an event goes to exact topics, only the topics of a stream may hold *", ErrInvalid, t.Name)
	}
	return nil
}

// A frame is one event as it is sent: an HTTP/1.1 chunk around an SSE block.
// [RFC 9112 7.1] Whoever writes to the socket itself sends the whole frame;
// whoever writes through HTTP sends the block within.
type frame struct {
	bytes []byte
	from  uint8 // where the block begins; it ends before the chunk's CRLF
}

func (f frame) block() []byte { return f.bytes[f.from : len(f.bytes)-2] }

// headroom is left before a block for its chunk header: eight hex digits, CRLF.
const headroom = 10

// encoded is a record as far as it can be prepared without the hub's lock.
type encoded struct {
	seq         uint64
	tag         Tag
	stored      int64    // Unix nanoseconds
	event       *Event   // nil: the record is a command or cannot be read
	command     *Command // nil: it is no command
	commandJSON []byte   // of a command: JSON, unless it is of a later version
	buf         []byte   // what clients are sent: headroom, then the block up to its seq; nil: nothing
}

// encode is the only place where a record becomes bytes for clients.
func encode(r Record, epoch string, now time.Time) encoded {
	enc := encoded{seq: r.Seq, tag: TagOf(r.Data), stored: min(r.At.UnixNano(), now.UnixNano())}
	what, err := decode(r.Data)
	switch {
	case err != nil:
	case what.command != nil:
		enc.command, enc.commandJSON = what.command, bytes.Clone(r.Data[1:])
		if c := what.command.Topics; c != nil {
			enc.appendBlock(EventTopics, topicsData(c), epoch)
		}
	default:
		enc.event = what.event
		enc.event.correctClock(time.Unix(0, enc.stored))
		enc.appendBlock(enc.event.Type, enc.event.Data, epoch)
	}
	return enc
}

// begin writes the block up to its seq.
func (e *encoded) appendBlock(name string, data []byte, epoch string) {
	lines := 1 + bytes.Count(data, []byte{'\n'}) + bytes.Count(data, []byte{'\r'}) - bytes.Count(data, []byte("\r\n"))
	buf := makeBuffer(headroom + len("event: \n") + len(name) + len(data) + lines*len("data: \n") +
		len("id: --\n\n\r\n") + len(epoch) + 20 + len(e.tag))[:headroom]
	if name != "" {
		buf = append(buf, "event: "...)
		buf = append(buf, name...)
		buf = append(buf, '\n')
	}
	buf = appendData(buf, data)
	buf = append(buf, "id: "...)
	buf = append(buf, epoch...)
	e.buf = append(buf, '-')
}

// frame adds the position and the chunk around the block. It runs under the hub's
// lock, and so copies nothing: the room was left by begin.
func (e encoded) frame() frame {
	buf := strconv.AppendUint(e.buf, e.seq, 10)
	buf = e.tag.append(buf)
	buf = append(buf, "\n\n"...)
	size := len(buf) - headroom
	buf = append(buf, "\r\n"...)
	var hex [8]byte
	digits := strconv.AppendUint(hex[:0], uint64(size), 16)
	at := headroom - len(digits) - 2
	copy(buf[at:], digits)
	copy(buf[headroom-2:], "\r\n")
	return frame{buf[at:], uint8(headroom - at)}
}

// Clocks are believed as long as an event was stored between clockBefore and
// clockAfter its acceptance.
const (
	clockBefore = -2 * time.Second
	clockAfter  = PublishTimeout + 5*time.Second
)

// trustClock corrects the times of an event if the clock of the node that accepted
// it and ours differ.
func (e *Event) correctClock(stored time.Time) {
	if waited := stored.Sub(e.At); waited >= clockBefore && waited <= clockAfter {
		return
	}
	if !e.Expires.IsZero() {
		e.Expires = stored.Add(e.Expires.Sub(e.At))
	}
	e.At = stored
}

// appendData writes data as data lines. CR, LF and CRLF all end a line in an
// event stream, so each of them begins a new data line. [HTML spec 9.2.6]
func appendData(buf, data []byte) []byte {
	for {
		buf = append(buf, "data: "...)
		end := bytes.IndexAny(data, "\r\n")
		if end < 0 {
			buf = append(buf, data...)
			return append(buf, '\n')
		}
		buf = append(buf, data[:end]...)
		buf = append(buf, '\n')
		if data[end] == '\r' && end+1 < len(data) && data[end+1] == '\n' {
			end++
		}
		data = data[end+1:]
	}
}
