package caddysse

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/ea766355/caddy-sse/hub"
)

// Limits of a batch.
const (
	maxBatch      = 1000
	maxBatchBytes = 8 << 20
)

// payload is an event as the API reads it.
type payload struct {
	event   *hub.Event
	targets []targetField
	data    bool
	text    bool
}

// targetField is a field that says whom an event is for, with its names.
type targetField struct {
	field string
	names []string
}

// targetKinds are the fields that say whom an event is for.
var targetKinds = map[string]hub.Kind{
	"connection": hub.Connection, "user": hub.User, "session": hub.Session, "topic": hub.Topic,
}

// readEvent reads one event. Its errors say which field to mend.
func readEvent(event *hub.Event, body []byte, broadcast bool) error {
	err := parseEvent(event, body, broadcast)
	if errors.Is(err, errMore) {
		err = fmt.Errorf("%w; for many events use Content-Type %s", err, typeNDJSON)
	}
	if err != nil {
		return fail(http.StatusBadRequest, "%s", err)
	}
	return nil
}

func parseEvent(event *hub.Event, body []byte, broadcast bool) (err error) {
	p := payload{event: event}
	if err := p.read(body); err != nil {
		return err
	}
	if broadcast {
		event.Targets, err = p.everyone()
	} else {
		event.Targets, err = p.target()
	}
	return err
}

// readBatch reads one event a line, and the number of each line.
func readBatch(body []byte, broadcast bool) (events []hub.Event, lines []int, err error) {
	line := 0
	for text := range bytes.Lines(body) {
		line++
		if len(bytes.TrimSpace(text)) == 0 {
			continue
		}
		if len(events) == maxBatch {
			return nil, nil, fail(http.StatusRequestEntityTooLarge, "line %d: a batch has at most %d events", line, maxBatch)
		}
		var event hub.Event
		err := parseEvent(&event, text, broadcast)
		if errors.Is(err, errMore) {
			err = fmt.Errorf("%w; write each event on a line of its own (curl keeps the line breaks of a file with --data-binary)", err)
		}
		if err != nil {
			return nil, nil, fail(http.StatusBadRequest, "line %d: %s", line, err)
		}
		events = append(events, event)
		lines = append(lines, line)
	}
	if len(events) == 0 {
		return nil, nil, fail(http.StatusBadRequest, "the batch is empty")
	}
	return events, lines, nil
}

// What data holds is the publisher's own: only the fields of the event are checked.
var jsonOptions = []jsontext.Options{jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)}

// decoders are reused, since each keeps buffers. encoding/json would accept a field
// that is given twice, or in other letter case.
var decoders = sync.Pool{New: func() any { return jsontext.NewDecoder(new(bytes.Buffer)) }}

// read reads the object field by field.
func (p *payload) read(body []byte) error {
	if bytes.HasPrefix(body, []byte("\ufeff")) {
		return errors.New("bad JSON: it begins with a byte order mark (U+FEFF); send UTF-8 without it")
	}
	if !utf8.Valid(body) {
		return errors.New("bad JSON: it is not valid UTF-8")
	}
	decoder := decoders.Get().(*jsontext.Decoder)
	defer decoders.Put(decoder)
	decoder.Reset(bytes.NewBuffer(body), jsonOptions...)
	if token, err := decoder.ReadToken(); err != nil {
		return badJSON(err)
	} else if token.Kind() != jsontext.KindBeginObject {
		return errors.New("an event is a JSON object")
	}
	var seen []string
	for decoder.PeekKind() != jsontext.KindEndObject {
		token, err := decoder.ReadToken()
		if err != nil {
			return badJSON(err)
		}
		name := token.String() // the decoder takes nothing else for a name
		if slices.Contains(seen, name) {
			return fmt.Errorf("field %q is given twice", name)
		}
		seen = append(seen, name)
		value, err := decoder.ReadValue()
		if err != nil {
			return badJSON(err)
		}
		if err := p.set(name, value); err != nil {
			return err
		}
	}
	if _, err := decoder.ReadToken(); err != nil {
		return badJSON(err)
	}
	if _, err := decoder.ReadToken(); err != io.EOF {
		return errMore
	}
	if p.data == p.text {
		return errors.New("an event has either data (any JSON value) or text (a string)")
	}
	return nil
}

var errMore = errors.New("bad JSON: there is more after the event")

func badJSON(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("bad JSON: it ends too early")
	}
	if syntax, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		return fmt.Errorf("bad JSON: %w at byte %d", syntax.Err, syntax.ByteOffset)
	}
	return fmt.Errorf("bad JSON: %w", err)
}

// set reads the value of a field. value is valid only until set returns.
func (p *payload) set(name string, value jsontext.Value) (err error) {
	switch name {
	case "connection", "user", "session", "topic":
		var names []string
		names, err = readNames(name, value)
		p.targets = append(p.targets, targetField{name, names})
	case "type":
		p.event.Type, err = readString(name, value)
	case "slot":
		if p.event.Slot, err = readString(name, value); err == nil && p.event.Slot == "" {
			err = errors.New("slot must not be empty")
		}
	case "key":
		p.event.Key, err = readString(name, value)
	case "data":
		var compact bytes.Buffer
		compact.Grow(len(value))
		err = json.Compact(&compact, value)
		p.event.Data, p.data = compact.Bytes(), true
	case "text":
		var text string
		text, err = readString(name, value)
		p.event.Data, p.text = []byte(text), true
	case "ttl":
		var ttl string
		if ttl, err = readString(name, value); err != nil {
			return err
		}
		d, err := caddy.ParseDuration(ttl)
		if err != nil || d <= 0 || d > maxTTL {
			return fmt.Errorf("ttl must be a duration of more than 0 and at most %s, such as \"10m\", not %q", maxTTL, ttl)
		}
		p.event.Expires = time.Now().Add(d)
	default:
		return fmt.Errorf("unknown field %q: there are connection, user, session, topic, type, data, text, slot, key and ttl", name)
	}
	return err
}

// maxTTL is far from where times in nanoseconds end, which is in 2262.
const maxTTL = 100 * 365 * 24 * time.Hour

// readString reads a string. Half of a surrogate pair is no character: browsers and
// stores would each put something else in its place.
func readString(name string, value jsontext.Value) (string, error) {
	if value.Kind() != jsontext.KindString {
		return "", fmt.Errorf("%s must be a string", name)
	}
	if bytes.IndexByte(value, '\\') < 0 {
		return string(value[1 : len(value)-1]), nil
	}
	s, err := jsontext.AppendUnquote(nil, value)
	if err != nil {
		return "", fmt.Errorf("%s holds half of a surrogate pair (\\ud800 to \\udfff), which is no character", name)
	}
	return string(s), nil
}

// readNames reads one name or a list of them.
func readNames(field string, value jsontext.Value) (names []string, err error) {
	if value.Kind() != jsontext.KindBeginArray {
		name, err := readName(field, value)
		return []string{name}, err
	}
	list := jsontext.NewDecoder(bytes.NewBuffer(value), jsonOptions...)
	_, err = list.ReadToken()
	for err == nil && list.PeekKind() != jsontext.KindEndArray {
		var name string
		if value, err = list.ReadValue(); err == nil {
			name, err = readName(field, value)
			names = append(names, name)
		}
	}
	switch {
	case err != nil:
		return nil, err
	case len(names) == 0:
		return nil, fmt.Errorf("%s must not be an empty list", field)
	case len(names) > hub.MaxTargets:
		return nil, fmt.Errorf("%s is a list of %d, at most %d are allowed", field, len(names), hub.MaxTargets)
	}
	return names, nil
}

func readName(field string, value jsontext.Value) (string, error) {
	if value.Kind() != jsontext.KindString {
		return "", fmt.Errorf("%s must be a string or a list of strings", field)
	}
	name, err := readString(field, value)
	switch {
	case err != nil:
		return "", err
	case name == "":
		return "", fmt.Errorf("%s must not be empty", field)
	case len(name) > hub.MaxNameLength:
		return "", fmt.Errorf("%s is %d bytes long, at most %d are allowed", field, len(name), hub.MaxNameLength)
	}
	return name, nil
}

// target is for send: exactly one field says whom the event is for.
func (p *payload) target() ([]hub.Target, error) {
	if len(p.targets) != 1 {
		return nil, fmt.Errorf("send needs exactly one of connection, user, session and topic, not %d; to reach everyone use broadcast", len(p.targets))
	}
	to := p.targets[0]
	targets := make([]hub.Target, len(to.names))
	for i, name := range to.names {
		if to.field == "session" {
			name = hashSession(name)
		}
		targets[i] = hub.Target{Kind: targetKinds[to.field], Name: name}
	}
	return targets, nil
}

// everyone is for broadcast.
func (p *payload) everyone() ([]hub.Target, error) {
	if len(p.targets) > 0 {
		return nil, fmt.Errorf("broadcast goes to everyone: leave out %s, or use send", p.targets[0].field)
	}
	return []hub.Target{{Kind: hub.All}}, nil
}
