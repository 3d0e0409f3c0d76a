package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Position is a position: <epoch>-<seq>-<tag>. The tag is missing if the history no longer has
// the record.
type Position struct {
	Epoch string
	Seq   uint64
	Tag   string
}

var position = regexp.MustCompile(`^([a-z0-9]+)-([0-9]+)(?:-([0-9a-z]{4}))?$`)

// ParsePosition parses an id. The error is a Violation.
func ParsePosition(s string) (Position, error) {
	parts := position.FindStringSubmatch(s)
	if parts == nil {
		return Position{}, Violation(fmt.Sprintf("%q is no position", s))
	}
	n, err := strconv.ParseUint(parts[2], 10, 64)
	p := Position{parts[1], n, parts[3]}
	if err != nil || p.String() != s {
		return p, Violation(fmt.Sprintf("%q is no position", s))
	}
	return p, nil
}

// Is reports whether both are the same position. A tag that is missing matches any: a publisher
// gets none for a duplicate of an evicted event.
func (p Position) Is(other Position) bool {
	return p.Place() == other.Place() && (p.Tag == other.Tag || p.Tag == "" || other.Tag == "")
}

// Place returns the position without its tag.
func (p Position) Place() Position { return Position{Epoch: p.Epoch, Seq: p.Seq} }

func (p Position) String() string {
	s := fmt.Sprintf("%s-%d", p.Epoch, p.Seq)
	if p.Tag != "" {
		s += "-" + p.Tag
	}
	return s
}

// Violation is the error of a stream that breaks the wire format or a promise. Other errors
// mean that the connection was lost.
type Violation string

func (v Violation) Error() string { return "violation: " + string(v) }

func violation(format string, args ...any) error { return Violation(fmt.Sprintf(format, args...)) }

// Block is one block of a stream: an event, a control event or a heartbeat.
type Block struct {
	Type string
	Data string
	ID   Position // its Epoch is empty if the block has none

	hasData bool
	retry   time.Duration
}

// Data of the control events.
type (
	// Connected is the first event of every stream.
	Connected struct {
		ConnectionID string `json:"connectionId"`
		User         string `json:"user"`
		Heartbeat    int64  `json:"heartbeat"`
		Protocol     string `json:"protocol"`
		Resumed      bool   `json:"resumed"`
	}
	// Gap reports that events may be missing.
	Gap struct {
		Reason string `json:"reason"`
	}
	// TopicChange reports a change of the stream's topics.
	TopicChange struct {
		Added   []string `json:"added"`
		Removed []string `json:"removed"`
	}
	// Closing is the data of sse.closing and sse.rejected, the last events of a stream that the
	// server ended.
	Closing struct {
		Reason  string `json:"reason"`
		RetryMs int64  `json:"retryMs"`
	}
)

// Stream reads one response and checks every byte. One goroutine may use it.
type Stream struct {
	Connected Connected // after the first Next
	Closing   *Closing  // set once sse.closing or sse.rejected was read
	Bytes     int64     // bytes read so far

	body      io.ReadCloser
	r         *bufio.Reader
	line      []byte
	user      string
	requested string   // the requested position
	last      Position // the last id
	placed    bool     // sse.connected had an id, or a gap followed it
	state     bool     // the state was requested; then sse.connected has no id
	begun     bool     // sse.connected was read
}

func newStream(resp *http.Response, id Identity, position string) (*Stream, error) {
	for name, want := range map[string]string{
		"Content-Type":      "text/event-stream",
		"Cache-Control":     "no-cache, no-transform",
		"X-Accel-Buffering": "no",
		"Content-Encoding":  "",
	} {
		if got := resp.Header.Get(name); resp.StatusCode == http.StatusOK && got != want {
			return nil, violation("%s: got %q, want %q", name, got, want)
		}
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("response to the request for a stream: got %s, want 200", resp.Status)
	}
	return &Stream{
		body: resp.Body, r: bufio.NewReaderSize(resp.Body, 4096),
		user: id.User, requested: position, state: position == "" && resp.Request.URL.Query().Has("state"),
	}, nil
}

// Close closes the stream from the client's side.
func (s *Stream) Close() { s.body.Close() }

// Next reads one block. The error is io.EOF at the end of a stream, and io.ErrUnexpectedEOF or
// another one if the connection was cut.
func (s *Stream) Next() (Block, error) {
	b, err := s.read()
	if err == nil {
		err = s.check(b)
	}
	if errors.As(err, new(Violation)) {
		err = fmt.Errorf("%w; block %.200s, last position %s, requested position %q", err, fmt.Sprintf("%+v", b), s.last, s.requested)
	}
	return b, err
}

// read reads one block. Its grammar is narrower than [HTML spec 9.2.5]: lines end in LF, a
// value comes after one space, the fields are in the order retry, event, data, id, and a
// comment, which is a heartbeat, is a block of its own.
func (s *Stream) read() (b Block, err error) {
	const (
		nothing = iota
		retry
		event
		data
		id
	)
	at := nothing
	var text strings.Builder
	for {
		line, err := s.readLine()
		if errors.Is(err, io.EOF) && (at != nothing || len(line) > 0) {
			return b, violation("the stream ended properly, but inside a block, after %.40q", line)
		}
		if err != nil {
			return b, err
		}
		if len(line) == 0 {
			if at == nothing {
				return b, violation("got an empty block")
			}
			b.Data = text.String()
			return b, nil
		}
		if string(line) == ":" && at == nothing {
			continue // a heartbeat
		}
		name, value, ok := bytes.Cut(line, []byte(": "))
		next := map[string]int{"retry": retry, "event": event, "data": data, "id": id}[string(name)]
		if !ok || next < at || next == at && next != data || next == nothing {
			return b, violation("line %.100q is out of place", line)
		}
		switch next {
		case retry:
			ms, err := strconv.Atoi(string(value))
			if err != nil {
				return b, violation("line %q: %v", line, err)
			}
			b.retry = time.Duration(ms) * time.Millisecond
		case event:
			b.Type = string(value)
		case data:
			if at == data {
				text.WriteByte('\n')
			}
			text.Write(value)
			b.hasData = true
		case id:
			if b.ID, err = ParsePosition(string(value)); err != nil {
				return b, err
			}
		}
		at = next
	}
}

// readLine reads a line without its LF. At the end of the stream it returns the rest with the
// error.
func (s *Stream) readLine() ([]byte, error) {
	s.line = s.line[:0]
	for {
		part, err := s.r.ReadSlice('\n')
		s.Bytes += int64(len(part))
		s.line = append(s.line, part...)
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err != nil {
			return s.line, err
		}
		line := s.line[:len(s.line)-1]
		if bytes.ContainsAny(line, "\r\x00") {
			return line, violation("got a line with CR or NUL: %.100q", line)
		}
		return line, nil
	}
}

// check checks a block against the blocks before it.
func (s *Stream) check(b Block) error {
	if s.state && s.begun && !s.placed {
		s.placed, s.last = true, Position{Epoch: b.ID.Epoch}
	}
	switch {
	case s.Closing != nil:
		return violation("got a block after sse.closing or sse.rejected")
	case b.Type == "sse.connected":
		return s.checkConnected(b)
	case b.Type == "sse.closing" || b.Type == "sse.rejected":
		return s.checkClosing(b)
	case !s.begun:
		return violation("the stream does not begin with sse.connected")
	case b.ID.Epoch == "":
		return violation("got a block without an id")
	case b.retry != 0:
		return violation("got a retry field in the middle of the stream")
	case b.Type == "sse.gap":
		return s.checkGap(b)
	case strings.HasPrefix(b.Type, "sse.") && b.Type != "sse.topics":
		return violation("unknown control event")
	case !s.placed:
		return violation("got no gap after sse.connected without an id")
	case !b.hasData && b.Type != "":
		return violation("got an event without data")
	case b.ID.Epoch != s.last.Epoch:
		return violation("the epoch changed without a gap")
	case b.ID.Seq <= s.last.Seq:
		return violation("got an event out of order")
	}
	s.last = b.ID
	if b.Type == "sse.topics" {
		return strict(b.Data, new(TopicChange))
	}
	return nil
}

func (s *Stream) checkConnected(b Block) error {
	if s.begun {
		return violation("got sse.connected twice")
	}
	s.begun = true
	if err := strict(b.Data, &s.Connected); err != nil {
		return err
	}
	c := s.Connected
	s.placed = b.ID.Epoch != ""
	switch {
	case b.retry <= 0:
		return violation("sse.connected without retry")
	case c.ConnectionID == "" || c.Heartbeat <= 0:
		return violation("sse.connected has no connectionId or no heartbeat")
	case len(c.Protocol) != 2 || c.Protocol[0] != 'h':
		return violation("unknown protocol %q", c.Protocol)
	case c.User != s.user:
		return violation("user of sse.connected: got %q, want %q", c.User, s.user)
	case c.Resumed != (s.requested != "" && s.placed):
		return violation("resumed: got %t, want the opposite", c.Resumed)
	case s.placed && s.requested != "" && b.ID.String() != s.requested && !strings.HasPrefix(b.ID.String(), s.requested+"-"): // the requested position had no tag
		return violation("resumed at another position")
	}
	s.last = b.ID
	return nil
}

func (s *Stream) checkGap(b Block) error {
	var gap Gap
	if err := strict(b.Data, &gap); err != nil {
		return err
	}
	switch gap.Reason {
	case "evicted", "epoch", "invalid":
	default:
		return violation("unknown reason of a gap")
	}
	if s.placed && b.ID.Epoch == s.last.Epoch && b.ID.Seq < s.last.Seq {
		return violation("the gap leads to an earlier position")
	}
	s.placed, s.last = true, b.ID
	return nil
}

func (s *Stream) checkClosing(b Block) error {
	s.Closing = new(Closing)
	if err := strict(b.Data, s.Closing); err != nil {
		return err
	}
	switch {
	case s.begun && b.Type == "sse.rejected":
		return violation("got sse.rejected after sse.connected")
	case !s.begun && b.Type == "sse.closing" && !slices.Contains([]string{"shutdown", "hub_closed", "lifetime"}, s.Closing.Reason):
		return violation("got sse.closing before sse.connected")
	case b.ID.Epoch != "":
		return violation("the last block has an id")
	case b.retry <= 0 || b.retry.Milliseconds() != s.Closing.RetryMs:
		return violation("retry is %s, retryMs %d", b.retry, s.Closing.RetryMs)
	}
	return nil
}

// strict decodes JSON that must have all the fields of to, and no others.
func strict(data string, to any) error {
	d := json.NewDecoder(strings.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(to); err != nil {
		return violation("%v", err)
	}
	if again, err := json.Marshal(to); err != nil || string(again) != data {
		return violation("data: want %s", again)
	}
	return nil
}
