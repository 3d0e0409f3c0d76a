package hub

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Kind says what the name of a [Target] names.
type Kind uint8

// The kinds of target.
const (
	All        Kind = iota // all connections of the hub; the name is empty
	User                   // all connections of one user
	Connection             // one connection, by its id
	Session                // all connections of one session
	Topic                  // all connections with a topic that matches
	pattern                // only in the index: the pattern of one shape that matches a topic
)

// Target says which connections an event is for. It is comparable.
type Target struct {
	Kind Kind
	Name string
}

// Limits of one event, in addition to Options.MaxEventSize.
const (
	MaxTargets    = 1000 // number of targets of one event
	MaxSlotLength = 128  // bytes of the name of a slot
	MaxKeyLength  = 128  // bytes of an idempotency key
	MaxNameLength = 512  // bytes of the name of a user, a connection, a session or a topic

	// MaxEventSizeLimit is the largest Options.MaxEventSize, in bytes. The size on a stream
	// has a bound too: maxBlock.
	MaxEventSizeLimit = 1 << 30

	// maxBlock is how many bytes the type and the data lines of an event may take on a
	// stream: entry.room is an int32, and the length of a chunk must fit into eight hex
	// digits. An event of many short lines takes up to eight times its size.
	maxBlock = math.MaxInt32 - 1<<20
)

// ReservedPrefix begins the event types that only the hub sends. Publish refuses them.
const ReservedPrefix = "sse."

// Event is an event for [Hub.Publish]. It must not change after that call.
type Event struct {
	// Type is the name of the event, without line breaks. If it is empty, a browser
	// dispatches "message".
	Type string

	// Data is the payload, in UTF-8. Each CR, LF or CRLF in it begins a new data line,
	// which a client reads as one LF. [HTML spec 9.2.6]
	Data []byte

	// Targets say which connections the event is for. A connection that matches several
	// targets gets the event once.
	Targets []Target

	// Key is the publisher's idempotency key; empty: none. If the same key is published
	// again within KeyLifetime, nothing is stored, and the receipt has the first position.
	Key string

	// Slot makes the event a state: it replaces the earlier event with the same slot and
	// the same targets. A client that has not received the earlier event gets only this
	// one. Empty: the event is no state.
	Slot string

	// Trace names the trace that the publish is a part of, such as a W3C traceparent. It is
	// stored with the event, for [Hub.ReportDeliveries]. Clients are not sent it. Empty: the
	// event is not traced.
	Trace string

	// At is when the event was accepted. Publish sets it.
	At time.Time

	// Expires is when the event is not delivered any more; zero: never.
	Expires time.Time
}

// Errors that Publish wraps in a [*BatchError].
var (
	ErrInvalid  = errors.New("invalid event")
	ErrTooLarge = errors.New("event too large")
)

// validate rejects an event that cannot be encoded as one SSE block. maxSize bounds the
// type and the payload together, in bytes. The error wraps [ErrInvalid] or [ErrTooLarge].
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
	case len(e.Trace) > MaxTraceLength:
		return fmt.Errorf("%w: trace is %d bytes long, at most %d are allowed", ErrInvalid, len(e.Trace), MaxTraceLength)
	case len(e.Targets) == 0:
		return fmt.Errorf("%w: it has no target", ErrInvalid)
	case len(e.Targets) > MaxTargets:
		return fmt.Errorf("%w: it has %d targets, at most %d are allowed", ErrInvalid, len(e.Targets), MaxTargets)
	case len(e.Type)+len(e.Data) > maxBlock/8 && len(e.Type)+linesSize(e.Data) > maxBlock:
		return fmt.Errorf("%w: type and lines of the payload take %d bytes on a stream, at most %d are allowed", ErrTooLarge, len(e.Type)+linesSize(e.Data), maxBlock)
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

// validate rejects a target that an event must not have. The error wraps [ErrInvalid].
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

// frame is one event as clients are sent it: an HTTP/1.1 chunk [RFC 9112 7.1] around an
// SSE block. A socket is sent the whole frame. A [Sink] is sent the block.
type frame struct {
	bytes []byte
	from  uint8 // index where the block begins; it ends before the CRLF of the chunk
}

// block returns the SSE block, which is a part of the frame. It must not be called on the
// zero frame.
func (f frame) block() []byte { return f.bytes[f.from : len(f.bytes)-2] }

// headroom is the space before a block for its chunk header: eight hex digits and CRLF.
const headroom = 10

// encoded is a record, prepared as far as possible without Hub.mu. Of the record it refers
// to event.Data alone, which the history does not keep.
type encoded struct {
	seq         uint64
	tag         Tag
	stored      int64    // Unix nanoseconds
	event       *Event   // nil: the record is a command, or cannot be read
	command     *Command // nil: the record is no command
	commandJSON []byte   // of a command
	buf         []byte   // headroom, and the block up to its seq; nil: clients are sent nothing
}

// encode prepares a record for the history of the epoch, now. It needs no lock. A record
// that cannot be read has neither an event nor a command: it becomes a hole ([history]).
// The result refers to r.Data, which must not change as long as it is used.
//
// A store may have a clock that is ahead. So the time of storage is at most now: otherwise
// the record would stay longer than the maximum age.
func encode(r Record, epoch string, now time.Time) encoded {
	enc := encoded{seq: r.Seq, tag: TagOf(r.Data), stored: min(r.At.UnixNano(), now.UnixNano())}
	what, err := decode(r.Data)
	switch {
	case err != nil:
		// A hole.
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

// appendBlock makes e.buf: headroom, and the block up to its seq. It leaves room for the
// rest, which frame adds. It must be called once.
func (e *encoded) appendBlock(name string, data []byte, epoch string) {
	buf := makeBuffer(headroom + len("event: \n") + len(name) + linesSize(data) +
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

// linesSize returns how many bytes the data lines of a payload take on a stream at most.
func linesSize(data []byte) int {
	lines := 1 + bytes.Count(data, []byte{'\n'}) + bytes.Count(data, []byte{'\r'}) - bytes.Count(data, []byte("\r\n"))
	return len(data) + lines*len("data: \n")
}

// frame completes the block with its seq and tag, and puts the chunk around it. It runs
// while Hub.mu is held, and therefore copies nothing: appendBlock has left room. It writes
// into e.buf, so it must be called once, and not if e.buf is nil.
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

// Bounds of the time from an event's acceptance to its storage. Outside of them the
// clock of the accepting node is not trusted.
const (
	clockBefore = -2 * time.Second
	clockAfter  = PublishTimeout + 5*time.Second
)

// correctClock corrects At and Expires if the clock of the node that accepted the event
// differs from the clock of this node: then the event counts as accepted when it was
// stored, and its ttl stays. It changes e, so e must not be in use elsewhere.
func (e *Event) correctClock(stored time.Time) {
	if waited := stored.Sub(e.At); waited >= clockBefore && waited <= clockAfter {
		return
	}
	if !e.Expires.IsZero() {
		e.Expires = stored.Add(e.Expires.Sub(e.At))
	}
	e.At = stored
}

// appendData appends data as data lines. CR, LF and CRLF each end a line in an event
// stream, so each begins a new data line. [HTML spec 9.2.6]
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
