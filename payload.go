package caddysse

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2"

	"github.com/ea766355/caddy-sse/hub"
)

// Limits of a batch.
const (
	maxBatch      = 1000
	maxBatchBytes = 8 << 20
)

// payload is an event as the API reads it.
type payload struct {
	targets map[string][]string // by field
	event   hub.Event
	data    bool
	text    bool
}

// targetKinds are the fields that say whom an event is for.
var targetKinds = map[string]hub.Kind{
	"connection": hub.Connection, "user": hub.User, "session": hub.Session, "topic": hub.Topic,
}

// readEvent reads one event. Its errors say which field to mend.
func readEvent(body []byte, targets func(*payload) ([]hub.Target, error)) (hub.Event, error) {
	event, err := parseEvent(body, targets)
	if errors.Is(err, errMore) {
		err = fmt.Errorf("%w; for many events use Content-Type %s", err, typeNDJSON)
	}
	if err != nil {
		return hub.Event{}, fail(http.StatusBadRequest, "%s", err)
	}
	return event, nil
}

func parseEvent(body []byte, targets func(*payload) ([]hub.Target, error)) (hub.Event, error) {
	p := payload{targets: make(map[string][]string)}
	err := p.read(body)
	if err == nil {
		p.event.Targets, err = targets(&p)
	}
	return p.event, err
}

// readBatch reads one event a line, and the number of each line.
func readBatch(body []byte, targets func(*payload) ([]hub.Target, error)) (events []hub.Event, lines []int, err error) {
	line := 0
	for text := range bytes.Lines(body) {
		line++
		if len(bytes.TrimSpace(text)) == 0 {
			continue
		}
		if len(events) == maxBatch {
			return nil, nil, fail(http.StatusRequestEntityTooLarge, "line %d: a batch has at most %d events", line, maxBatch)
		}
		event, err := parseEvent(text, targets)
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

// read goes through the object field by field, since encoding/json would take a
// field that is given twice, or in other letter case, without a word.
func (p *payload) read(body []byte) error {
	if bytes.HasPrefix(body, []byte("\ufeff")) {
		return errors.New("bad JSON: it begins with a byte order mark (U+FEFF); send UTF-8 without it")
	}
	if !utf8.Valid(body) {
		return errors.New("bad JSON: it is not valid UTF-8")
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	if token, err := decoder.Token(); err != nil {
		return badJSON(err)
	} else if token != json.Delim('{') {
		return errors.New("an event is a JSON object")
	}
	seen := make(map[string]bool)
	for decoder.More() {
		token, err := decoder.Token()
		if err != nil {
			return badJSON(err)
		}
		name := token.(string) // what else would have been an error
		if seen[name] {
			return fmt.Errorf("field %q is given twice", name)
		}
		seen[name] = true
		var value json.RawMessage
		if err := decoder.Decode(&value); err != nil {
			return badJSON(err)
		}
		if err := p.set(name, value); err != nil {
			return err
		}
	}
	if _, err := decoder.Token(); err != nil {
		return badJSON(err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
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
	return fmt.Errorf("bad JSON: %w", err)
}

func (p *payload) set(name string, value json.RawMessage) (err error) {
	switch name {
	case "connection", "user", "session", "topic":
		p.targets[name], err = readNames(name, value)
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

func readString(name string, value json.RawMessage) (string, error) {
	var s *string
	if json.Unmarshal(value, &s) != nil || s == nil {
		return "", fmt.Errorf("%s must be a string", name)
	}
	return *s, checkSurrogates(name, value)
}

// checkSurrogates refuses strings with half of a surrogate pair, in place of which
// encoding/json would put U+FFFD. value is valid JSON.
func checkSurrogates(name string, value []byte) error {
	for i := 0; i < len(value); i++ {
		if value[i] != '\\' {
			continue
		}
		i++
		if value[i] != 'u' {
			continue
		}
		first := escapedRune(value[i:])
		if utf16.IsSurrogate(first) {
			var second rune
			if rest := value[i+5:]; rest[0] == '\\' {
				second = escapedRune(rest[1:])
			}
			if utf16.DecodeRune(first, second) == utf8.RuneError {
				return fmt.Errorf("%s holds %s, half of a surrogate pair, which is no character", name, value[i-1:i+5])
			}
			i += 6
		}
		i += 4
	}
	return nil
}

// escapedRune reads uXXXX, or returns 0 if s begins with another escape.
func escapedRune(s []byte) rune {
	if s[0] != 'u' {
		return 0
	}
	r, err := strconv.ParseUint(string(s[1:5]), 16, 16)
	if err != nil {
		return 0
	}
	return rune(r)
}

func readNames(name string, value json.RawMessage) ([]string, error) {
	var names []*string
	if value[0] != '[' {
		names = make([]*string, 1)
		if json.Unmarshal(value, &names[0]) != nil {
			return nil, fmt.Errorf("%s must be a string or a list of strings", name)
		}
	} else if json.Unmarshal(value, &names) != nil {
		return nil, fmt.Errorf("%s must be a string or a list of strings", name)
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("%s must not be an empty list", name)
	}
	if len(names) > hub.MaxTargets {
		return nil, fmt.Errorf("%s is a list of %d, at most %d are allowed", name, len(names), hub.MaxTargets)
	}
	out := make([]string, len(names))
	for i, s := range names {
		if s == nil {
			return nil, fmt.Errorf("%s must be a string or a list of strings", name)
		}
		if *s == "" {
			return nil, fmt.Errorf("%s must not be empty", name)
		}
		if len(*s) > hub.MaxNameLength {
			return nil, fmt.Errorf("%s is %d bytes long, at most %d are allowed", name, len(*s), hub.MaxNameLength)
		}
		out[i] = *s
	}
	return out, checkSurrogates(name, value)
}

// target is for send: exactly one field says whom the event is for.
func (p *payload) target() ([]hub.Target, error) {
	if len(p.targets) != 1 {
		return nil, fmt.Errorf("send needs exactly one of connection, user, session and topic, not %d; to reach everyone use broadcast", len(p.targets))
	}
	var targets []hub.Target
	for field, names := range p.targets {
		for _, name := range names {
			if field == "session" {
				name = hashSession(name)
			}
			targets = append(targets, hub.Target{Kind: targetKinds[field], Name: name})
		}
	}
	return targets, nil
}

// everyone is for broadcast.
func (p *payload) everyone() ([]hub.Target, error) {
	for field := range p.targets {
		return nil, fmt.Errorf("broadcast goes to everyone: leave out %s, or use send", field)
	}
	return []hub.Target{{Kind: hub.All}}, nil
}
