package caddysse

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/ea766355/caddy-sse/hub"
	"github.com/ea766355/caddy-sse/internal/netyield"
)

// Limits of a batch.
const (
	maxBatch      = 1000
	maxBatchBytes = 8 << 20
)

// payload collects the fields of an event while the API reads it.
type payload struct {
	event   *hub.Event
	targets []targetField
	data    bool // the field data was given
	text    bool // the field text was given
}

// targetField is a field that names targets, such as user, with the names.
type targetField struct {
	field string
	names []string
}

// targetKinds are the fields that name targets.
var targetKinds = map[string]hub.Kind{
	"connection": hub.Connection, "user": hub.User, "session": hub.Session, "topic": hub.Topic,
}

// readEvent reads one event. Its errors name the field that is wrong.
func readEvent(event *hub.Event, body []byte, broadcast bool) error {
	err := parseEvent(event, body, broadcast)
	if errors.Is(err, errTrailing) {
		err = fmt.Errorf("%w; to send several events use Content-Type %s", err, typeNDJSON)
	}
	if err != nil {
		return apiErrorf(http.StatusBadRequest, "%s", err)
	}
	return nil
}

func parseEvent(event *hub.Event, body []byte, broadcast bool) (err error) {
	p := payload{event: event}
	if err := p.read(body); err != nil {
		return err
	}
	if broadcast {
		event.Targets, err = p.broadcastTargets()
	} else {
		event.Targets, err = p.sendTargets()
	}
	return err
}

// readBatch reads one event from each line. It returns the number of each event's line.
func readBatch(body []byte, broadcast bool) (events []hub.Event, lines []int, err error) {
	line := 0
	var yielder netyield.Yielder
	yielder.Begin()
	for text := range bytes.Lines(body) {
		line++
		if len(bytes.TrimSpace(text)) == 0 {
			continue
		}
		if len(events) == maxBatch {
			return nil, nil, apiErrorf(http.StatusRequestEntityTooLarge, "line %d: more than %d events in a batch: split the batch", line, maxBatch)
		}
		var event hub.Event
		err := parseEvent(&event, text, broadcast)
		if errors.Is(err, errTrailing) {
			err = fmt.Errorf("%w; put each event on a line of its own (curl keeps the line breaks of a file with --data-binary)", err)
		}
		if err != nil {
			return nil, nil, apiErrorf(http.StatusBadRequest, "line %d: %s", line, err)
		}
		events = append(events, event)
		lines = append(lines, line)
		yielder.Step()
	}
	if len(events) == 0 {
		return nil, nil, apiErrorf(http.StatusBadRequest, "the batch is empty: put one event on each line")
	}
	return events, lines, nil
}

// jsonOptions are lenient because they apply to the value of data, too, which belongs to
// the publisher. The fields of the event itself are checked by payload.read.
var jsonOptions = []jsontext.Options{jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)}

// eventDecoder is a decoder with the buffer that it reads.
type eventDecoder struct {
	*jsontext.Decoder
	body bytes.Buffer
}

// decoders are reused, since each has buffers. They are not those of encoding/json, which
// silently accepts duplicate fields and wrong letter case.
var decoders = sync.Pool{New: func() any { return &eventDecoder{Decoder: jsontext.NewDecoder(new(bytes.Buffer))} }}

// read reads the fields of an event.
func (p *payload) read(body []byte) error {
	if err := readObject(body, "event", p); err != nil {
		return err
	}
	switch {
	case p.data && p.text:
		return errors.New("data and text are both given: give data (any JSON value) or text (a string)")
	case !p.data && !p.text:
		return errors.New("the event has no payload: give data (any JSON value) or text (a string)")
	}
	return nil
}

// fieldSetter stores the fields of a JSON object.
type fieldSetter interface {
	// set reads the value of a field. The value is valid only until set returns.
	set(name string, value jsontext.Value) error
}

// readObject reads a JSON object field by field. what names the object in errors, such as
// event.
func readObject(body []byte, what string, to fieldSetter) error {
	if bytes.HasPrefix(body, []byte("\ufeff")) {
		return errors.New("invalid JSON: it begins with a byte order mark (U+FEFF); send UTF-8 without it")
	}
	if !utf8.Valid(body) {
		return errors.New("invalid JSON: it is not valid UTF-8")
	}
	decoder := decoders.Get().(*eventDecoder)
	defer decoders.Put(decoder)
	decoder.body = *bytes.NewBuffer(body)
	decoder.Reset(&decoder.body, jsonOptions...)
	if token, err := decoder.ReadToken(); err != nil {
		return jsonError(err)
	} else if token.Kind() != jsontext.KindBeginObject {
		return fmt.Errorf("invalid %s: it must be a JSON object (got %s)", what, kindName(token.Kind()))
	}
	var few [8]string
	seen := few[:0]
	for decoder.PeekKind() != jsontext.KindEndObject {
		token, err := decoder.ReadToken()
		if err != nil {
			return jsonError(err)
		}
		name := token.String() // always a string: the decoder rejects other names
		if slices.Contains(seen, name) {
			return fmt.Errorf("duplicate field %.100q: give it once", name)
		}
		seen = append(seen, name)
		value, err := decoder.ReadValue()
		if err != nil {
			return jsonError(err)
		}
		if err := to.set(name, value); err != nil {
			return err
		}
	}
	if _, err := decoder.ReadToken(); err != nil {
		return jsonError(err)
	}
	if _, err := decoder.ReadToken(); err != io.EOF {
		return errTrailing
	}
	return nil
}

// kindName names a kind of JSON value in an error.
func kindName(kind jsontext.Kind) string {
	switch kind {
	case jsontext.KindBeginArray:
		return "array"
	case jsontext.KindString:
		return "string"
	case jsontext.KindNumber:
		return "number"
	}
	return kind.String()
}

var errTrailing = errors.New("invalid JSON: there is more text after the event")

func jsonError(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("invalid JSON: unexpected end of input")
	}
	if syntax, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		return fmt.Errorf("invalid JSON: %w at byte %d", syntax.Err, syntax.ByteOffset)
	}
	return fmt.Errorf("invalid JSON: %w", err)
}

// set implements fieldSetter: it reads the value of a field into the event.
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
			err = errors.New("slot is empty: give it a name, or leave it out")
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
			return fmt.Errorf("%w, such as \"10m\"", err)
		}
		d, err := caddy.ParseDuration(ttl)
		if err != nil || d <= 0 || d > maxTTL {
			return fmt.Errorf("invalid ttl %q: it must be a duration of more than 0 and at most 100 years, such as \"10m\"", ttl)
		}
		p.event.Expires = time.Now().Add(d)
	default:
		return fmt.Errorf("unknown field %.100q (available: connection, user, session, topic, type, data, text, slot, key, ttl)", name)
	}
	return err
}

// maxTTL keeps expiry times below the year 2262, the last one that fits into nanoseconds.
const maxTTL = 100 * 365 * 24 * time.Hour

// readString reads a string. It rejects half of a surrogate pair, which is not a character:
// browsers and stores would each replace it by something else.
func readString(name string, value jsontext.Value) (string, error) {
	if value.Kind() != jsontext.KindString {
		return "", fmt.Errorf("invalid %s %.50s: it must be a string", name, value)
	}
	return unquote(name, value, string(value))
}

// unquote returns the content of a JSON string, which is a part of text if it has no escapes.
func unquote(name string, value jsontext.Value, text string) (string, error) {
	if strings.IndexByte(text, '\\') < 0 {
		return text[1 : len(text)-1], nil
	}
	s, err := jsontext.AppendUnquote(nil, value)
	if err != nil {
		return "", fmt.Errorf("%s has half of a surrogate pair (\\ud800 to \\udfff), which is not a character: send both halves", name)
	}
	return string(s), nil
}

// readNames reads one name or a list of names.
func readNames(field string, value jsontext.Value) (names []string, err error) {
	if value.Kind() != jsontext.KindBeginArray {
		name, err := readName(field, value, string(value))
		return []string{name}, err
	}
	list := jsontext.NewDecoder(bytes.NewBuffer(value), jsonOptions...)
	_, err = list.ReadToken()
	text := string(value) // the names are parts of it, which saves an allocation for each
	names = make([]string, 0, min(1+bytes.Count(value, []byte{','}), hub.MaxTargets))
	for err == nil && list.PeekKind() != jsontext.KindEndArray {
		var name string
		if value, err = list.ReadValue(); err == nil {
			end := list.InputOffset()
			name, err = readName(field, value, text[end-int64(len(value)):end])
			names = append(names, name)
		}
	}
	switch {
	case err != nil:
		return nil, err
	case len(names) == 0:
		return nil, fmt.Errorf("%s is an empty list: give at least one name, or broadcast to everyone", field)
	case len(names) > hub.MaxTargets:
		return nil, fmt.Errorf("%s has %d names: at most %d are allowed in one event", field, len(names), hub.MaxTargets)
	}
	return names, nil
}

// readName reads one name. text is the value as a string, and the name may be a part of it.
func readName(field string, value jsontext.Value, text string) (string, error) {
	if value.Kind() != jsontext.KindString {
		return "", fmt.Errorf("invalid %s %.50s: it must be a string or a list of strings", field, value)
	}
	name, err := unquote(field, value, text)
	switch {
	case err != nil:
		return "", err
	case name == "":
		return "", fmt.Errorf("%s is empty: give a name, or broadcast to everyone", field)
	case len(name) > hub.MaxNameLength:
		return "", fmt.Errorf("%s has %d bytes: at most %d are allowed", field, len(name), hub.MaxNameLength)
	}
	return name, nil
}

// sendTargets returns the targets of an event that is sent. Exactly one field must name
// them.
func (p *payload) sendTargets() ([]hub.Target, error) {
	if n := len(p.targets); n != 1 {
		many := "none"
		if n > 0 {
			many = strconv.Itoa(n)
		}
		return nil, fmt.Errorf("the event has %s of the fields connection, user, session and topic: send needs exactly one; to reach everyone use broadcast", many)
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

// broadcastTargets returns the target of a broadcast: everyone. No field may name another.
func (p *payload) broadcastTargets() ([]hub.Target, error) {
	if len(p.targets) > 0 {
		return nil, fmt.Errorf("the event has the field %s, but broadcast goes to everyone: leave the field out, or use send", p.targets[0].field)
	}
	return []hub.Target{{Kind: hub.All}}, nil
}
