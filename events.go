package caddysse

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/ea766355/caddy-sse/hub"
)

// GET /sse/events is the history of a hub as a stream, for operators: all events, to
// whomever they are, and commands. It is no connection of the hub.

const (
	watchTimeout = time.Minute     // in which the operator must take something
	watchRetry   = time.Second     // before the operator comes back
	watchLeave   = 2 * time.Second // for the operator to take the end
)

// watchBeat is how long the stream may be silent.
var watchBeat = 15 * time.Second

func watchEvents(w http.ResponseWriter, r *http.Request) error {
	query, err := queryOf(r, "after", "user", "topic", "type", "data")
	if err != nil {
		return err
	}
	if data := query.Get("data"); query.Has("data") && data != "true" && data != "false" {
		return fail(http.StatusBadRequest, "data must be true or false")
	}
	if n := len(query["user"]) + len(query["topic"]) + len(query["type"]); n > maxAskedTopics {
		return fail(http.StatusBadRequest, "%d values of user, topic and type: at most %d are allowed; leave some out", n, maxAskedTopics)
	}
	filter := hub.EventFilter{Users: query["user"], Types: query["type"]}
	for _, name := range query["topic"] {
		topic, err := hub.ParseTopic(name)
		if err != nil {
			return fail(http.StatusBadRequest, "%s", err)
		}
		filter.Topics = append(filter.Topics, topic)
	}
	h, err := hubOf(r)
	if err != nil {
		return err
	}
	if name := noFlusher(w); name != "" {
		return fail(http.StatusInternalServerError, "a handler before the API has a response writer that cannot flush (%s): keep it away from /sse/events", name)
	}
	if r.Method == http.MethodHead {
		setWatchHeader(w)
		return nil
	}
	given := cmp.Or(r.Header.Get("Last-Event-ID"), query.Get("after"))
	reader, err := h.Read(r.Context(), given, filter)
	if refusal, ok := errors.AsType[*hub.Refusal](err); ok {
		return &apiError{Status: http.StatusServiceUnavailable, Message: "the history of the hub is not open: " + string(refusal.Reason)}
	}
	if err != nil {
		return nil // the client is gone
	}
	setWatchHeader(w)
	w.WriteHeader(http.StatusOK)
	watch := &watch{
		sink: newSink(w, r, watchTimeout), reader: reader, payloads: query.Get("data") == "true",
		hub: hubNameOf(r), resumed: given != "" && given != hub.Earliest,
	}
	watch.run(r)
	return nil
}

func setWatchHeader(w http.ResponseWriter) {
	setAPIHeader(w, "text/event-stream")
	w.Header().Set("Cache-Control", "no-store, no-transform")
	w.Header().Set("X-Accel-Buffering", "no")
}

// watch is an open stream of all events.
type watch struct {
	sink     *sink
	reader   *hub.Reader
	payloads bool
	hub      string
	resumed  bool // a position was given

	buf  bytes.Buffer // of one write
	told hub.Position // that the client was last given
}

// run writes until the client, the hub or the server ends.
func (s *watch) run(r *http.Request) {
	defer s.sink.release()
	s.sink.logger = caddy.Log().Named("sse")
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	ended, done := endOf(r), make(chan struct{})
	var leaving sync.WaitGroup
	leaving.Go(func() { s.leave(ended, cancel, done) })
	defer leaving.Wait()
	defer close(done)
	s.open()
	for s.write() == nil {
		beat, done := context.WithTimeout(ctx, watchBeat)
		lines, err := s.reader.Next(beat)
		done()
		refusal, over := errors.AsType[*hub.Refusal](err)
		switch {
		case over:
		case ended.Err() != nil:
			refusal, over = &hub.Refusal{Reason: hub.Shutdown, Retry: watchRetry}, true
		case ctx.Err() != nil:
			return
		}
		s.add(lines)
		if over {
			s.buf.Write(refusal.Block())
			_ = s.write()
			break
		}
	}
	s.sink.abort()
}

// leave ends the stream when its server ends, and cuts off a client that does not
// take the end. A write that began at that moment may have set its own deadline after
// the cut, so it repeats itself.
func (s *watch) leave(ended context.Context, cancel func(), done <-chan struct{}) {
	select {
	case <-done:
		return
	case <-ended.Done():
	}
	cancel()
	late := time.NewTimer(watchLeave)
	defer late.Stop()
	for {
		select {
		case <-done:
			return
		case <-late.C:
			s.sink.Abort()
			late.Reset(watchLeave / 8)
		}
	}
}

// endKey is the key of a context that ends with the server of a request.
type endKey struct{}

// adminEnds has such contexts for the servers of the admin endpoint. Each config load
// has its own server, which tells of its end alone.
var adminEnds = struct {
	mu sync.Mutex
	of map[*http.Server]context.Context
}{of: make(map[*http.Server]context.Context)}

// endOf ends when the server by which the request came begins to shut down.
func endOf(r *http.Request) context.Context {
	if end, ok := r.Context().Value(endKey{}).(context.Context); ok {
		return end
	}
	srv, ok := r.Context().Value(http.ServerContextKey).(*http.Server)
	if !ok {
		return context.Background()
	}
	adminEnds.mu.Lock()
	defer adminEnds.mu.Unlock()
	if end, ok := adminEnds.of[srv]; ok {
		return end
	}
	end, cancel := context.WithCancel(context.Background())
	adminEnds.of[srv] = end
	srv.RegisterOnShutdown(func() {
		adminEnds.mu.Lock()
		delete(adminEnds.of, srv)
		adminEnds.mu.Unlock()
		cancel()
	})
	return end
}

// open begins with the position, unless a gap has to be told first.
func (s *watch) open() {
	opening := struct {
		Hub       string `json:"hub"`
		Node      string `json:"node"`
		Heartbeat int64  `json:"heartbeat"`
		Resumed   bool   `json:"resumed"`
	}{s.hub, nodeName(), watchBeat.Milliseconds(), s.resumed && s.reader.Resumed()}
	fmt.Fprintf(&s.buf, "retry: %d\nevent: sse.connected\ndata: ", watchRetry.Milliseconds())
	s.encode(opening)
	if s.reader.Resumed() {
		s.id(s.reader.Position())
	}
	s.buf.WriteByte('\n')
}

// add puts into buf what was found, or else a heartbeat.
func (s *watch) add(lines hub.Lines) {
	if lines.Gap != "" {
		fmt.Fprintf(&s.buf, "event: sse.gap\ndata: {\"reason\":%q}\n", lines.Gap)
		s.id(lines.From)
		s.buf.WriteByte('\n')
	}
	for _, line := range lines.Lines {
		s.buf.WriteString("data: ")
		s.encode(shownEvent(line, s.payloads))
		s.id(line.Position)
		s.buf.WriteByte('\n')
	}
	switch {
	case s.buf.Len() > 0:
	case lines.Position != s.told:
		s.id(lines.Position)
		s.buf.WriteByte('\n')
	default:
		s.buf.WriteString(":\n")
	}
}

func (s *watch) id(p hub.Position) {
	s.told = p
	fmt.Fprintf(&s.buf, "id: %s\n", p)
}

// encode writes a line of JSON.
func (s *watch) encode(v any) {
	encoder := json.NewEncoder(&s.buf)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		panic(err) // strings, numbers, times and valid JSON
	}
}

// write sends what is in buf.
func (s *watch) write() error {
	_, err := s.sink.Write(s.buf.Bytes())
	if err == nil {
		err = s.sink.Flush()
	}
	if s.buf.Reset(); s.buf.Cap() > 1<<20 {
		s.buf = bytes.Buffer{}
	}
	return err
}

// eventShown is an event as operators see it. Whom it is for, data and text are the
// fields by which it is published. A session is its hash.
type eventShown struct {
	ID         string          `json:"id"`
	Stored     time.Time       `json:"stored"`
	Expires    time.Time       `json:"expires,omitzero"`
	All        bool            `json:"all,omitempty"` // it is for everybody
	Connection []string        `json:"connection,omitempty"`
	User       []string        `json:"user,omitempty"`
	Session    []string        `json:"session,omitempty"`
	Topic      []string        `json:"topic,omitempty"`
	Type       string          `json:"type,omitempty"`
	Size       int             `json:"size,omitempty"`     // bytes of the payload
	Replaced   bool            `json:"replaced,omitempty"` // by a newer event of its slot: its type and payload are not kept
	Data       json.RawMessage `json:"data,omitempty"`
	Text       *string         `json:"text,omitempty"`
	Command    json.RawMessage `json:"command,omitempty"` // it is no event, but ends connections or changes their topics
}

func shownEvent(line hub.Line, payload bool) eventShown {
	e := eventShown{ID: line.Position.String(), Stored: line.Stored, Expires: line.Expires}
	if line.Command != nil {
		e.Command = line.Command
		if !json.Valid(e.Command) {
			e.Command = json.RawMessage("{}") // of a later version
		}
		return e
	}
	for _, t := range line.Targets {
		switch t.Kind {
		case hub.All:
			e.All = true
		case hub.Connection:
			e.Connection = append(e.Connection, t.Name)
		case hub.User:
			e.User = append(e.User, t.Name)
		case hub.Session:
			e.Session = append(e.Session, t.Name)
		case hub.Topic:
			e.Topic = append(e.Topic, t.Name)
		}
	}
	e.Type, e.Size, e.Replaced = line.Type, len(line.Data), line.Replaced
	if payload && !line.Replaced {
		e.Data, e.Text = publishedAs(line.Data)
	}
	return e
}

// publishedAs gives a payload as data, if that publishes the same bytes, and else as
// text.
func publishedAs(payload string) (data json.RawMessage, text *string) {
	var compact bytes.Buffer
	if json.Compact(&compact, []byte(payload)) == nil && compact.String() == payload {
		return compact.Bytes(), nil
	}
	return nil, &payload
}
