package caddysse

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/ea766355/caddy-sse/hub"
	"github.com/ea766355/caddy-sse/internal/runlog"
)

// GET /sse/events streams the history of a hub to operators: all events, whatever their
// target, and commands. Such a stream is no connection of the hub.

const (
	watchTimeout    = time.Minute     // how long a write may make no progress
	watchRetry      = time.Second     // how long the client waits before it reconnects
	watchCloseGrace = 2 * time.Second // how long the client may take to read the end of the stream
)

// watchHeartbeat is how long the stream may be silent.
var watchHeartbeat = 15 * time.Second

// watchLifetime is the age at which the stream ends, so that the client comes back and is
// authenticated again. DELETE /sse/connections does not end it. Each stream ends at a random
// age between 90 % and 100 % of this value.
var watchLifetime = time.Hour

func watchEvents(w http.ResponseWriter, r *http.Request) error {
	query, err := parseQuery(r, "after", "user", "topic", "type", "data")
	if err != nil {
		return err
	}
	if data := query.Get("data"); query.Has("data") && data != "true" && data != "false" {
		return errDataParameter(data)
	}
	if n := len(query["user"]) + len(query["topic"]) + len(query["type"]); n > maxAskedTopics {
		return apiErrorf(http.StatusBadRequest, "the query has %d values of user, topic and type: at most %d are allowed; leave some out", n, maxAskedTopics)
	}
	filter := hub.EventFilter{Users: query["user"], Types: query["type"]}
	for _, name := range query["topic"] {
		topic, err := hub.ParseTopic(name)
		if err != nil {
			return apiErrorf(http.StatusBadRequest, "%s", err)
		}
		filter.Topics = append(filter.Topics, topic)
	}
	h, err := requestedHub(r)
	if err != nil {
		return err
	}
	if name := typeWithoutFlush(w); name != "" {
		return apiErrorf(http.StatusInternalServerError, "the response writer %s of a handler before the API cannot flush: keep that handler away from /sse/events", name)
	}
	if r.Method == http.MethodHead {
		setWatchHeader(w)
		return nil
	}
	given := cmp.Or(r.Header.Get("Last-Event-ID"), query.Get("after"))
	reader, err := h.Read(r.Context(), given, filter)
	if refusal, ok := errors.AsType[*hub.Refusal](err); ok {
		return apiErrorf(http.StatusServiceUnavailable, "the history of hub %s is not open (%s): try again", requestedHubName(r), refusal.Reason)
	}
	if err != nil {
		return nil // the client is gone
	}
	setWatchHeader(w)
	w.WriteHeader(http.StatusOK)
	if name := bufferingType(w); name != "" {
		return bufferedError{fmt.Errorf("%s of a handler before the API buffers the response: keep that handler away from /sse/events", name)}
	}
	watch := &watch{
		sink: newSink(w, r, watchTimeout), reader: reader, payloads: query.Get("data") == "true",
		hub: requestedHubName(r), resumed: given != "" && given != hub.Earliest, heartbeat: watchHeartbeat,
	}
	watch.run(r)
	return nil
}

func errDataParameter(value string) error {
	return apiErrorf(http.StatusBadRequest, "invalid data %q: it must be true or false", value)
}

func setWatchHeader(w http.ResponseWriter) {
	setAPIHeader(w, "text/event-stream")
	w.Header().Set("Cache-Control", "no-store, no-transform")
	w.Header().Set("X-Accel-Buffering", "no")
}

// watch is an open stream of all events.
type watch struct {
	sink      *sink
	reader    *hub.Reader
	payloads  bool
	hub       string
	resumed   bool // a position was given
	heartbeat time.Duration

	buf          bytes.Buffer // the bytes of the next write
	sentPosition hub.Position // the last position sent to the client
}

// run writes the stream until the client leaves, or the hub or the server ends it.
func (s *watch) run(r *http.Request) {
	defer s.sink.release()
	s.sink.logger = runlog.Logger((*App)(nil))
	ctx, cancel := context.WithTimeout(r.Context(), watchLifetime-rand.N(watchLifetime/10))
	defer cancel()
	ended, done := serverShutdown(r), make(chan struct{})
	var leaving sync.WaitGroup
	leaving.Go(func() { s.closeAtShutdown(ended, cancel, done) })
	defer leaving.Wait()
	defer close(done)
	s.writeOpening()
	for s.flush() == nil {
		beat, done := context.WithTimeout(ctx, s.heartbeat)
		lines, err := s.reader.Next(beat)
		done()
		refusal, over := errors.AsType[*hub.Refusal](err)
		switch {
		case over:
		case ended.Err() != nil:
			refusal, over = &hub.Refusal{Reason: hub.Shutdown, Retry: watchRetry}, true
		case r.Context().Err() == nil && ctx.Err() != nil:
			refusal, over = &hub.Refusal{Reason: hub.Lifetime, Retry: watchRetry}, true
		case ctx.Err() != nil:
			return
		}
		s.appendLines(lines)
		if over {
			s.buf.Write(refusal.Block())
			_ = s.flush()
			break
		}
	}
	s.sink.abortIfFailed()
}

// closeAtShutdown ends the stream when its server shuts down. If the client does not read
// the end of the stream within the grace time, it aborts the write. It does so repeatedly,
// because a write that begins at the same time may set its own deadline afterwards.
func (s *watch) closeAtShutdown(ended context.Context, cancel func(), done <-chan struct{}) {
	select {
	case <-done:
		return
	case <-ended.Done():
	}
	cancel()
	grace := time.NewTimer(watchCloseGrace)
	defer grace.Stop()
	for {
		select {
		case <-done:
			return
		case <-grace.C:
			s.sink.Abort()
			grace.Reset(watchCloseGrace / 8)
		}
	}
}

// shutdownKey is the context key of a context that ends when the server shuts down.
type shutdownKey struct{}

// adminShutdowns has such contexts for the servers of the admin endpoint. Each config load
// starts a new server.
var adminShutdowns = struct {
	mu sync.Mutex
	of map[*http.Server]context.Context
}{of: make(map[*http.Server]context.Context)}

// serverShutdown returns a context that ends when the server of the request begins to shut
// down.
func serverShutdown(r *http.Request) context.Context {
	if end, ok := r.Context().Value(shutdownKey{}).(context.Context); ok {
		return end
	}
	srv, ok := r.Context().Value(http.ServerContextKey).(*http.Server)
	if !ok {
		return context.Background()
	}
	adminShutdowns.mu.Lock()
	defer adminShutdowns.mu.Unlock()
	if end, ok := adminShutdowns.of[srv]; ok {
		return end
	}
	end, cancel := context.WithCancel(context.Background())
	adminShutdowns.of[srv] = end
	srv.RegisterOnShutdown(func() {
		adminShutdowns.mu.Lock()
		delete(adminShutdowns.of, srv)
		adminShutdowns.mu.Unlock()
		cancel()
	})
	return end
}

// writeOpening appends the first block. The block has a position unless a gap comes next.
func (s *watch) writeOpening() {
	opening := struct {
		Hub       string `json:"hub"`
		Node      string `json:"node"`
		Heartbeat int64  `json:"heartbeat"`
		Resumed   bool   `json:"resumed"`
	}{s.hub, nodeName(), s.heartbeat.Milliseconds(), s.resumed && s.reader.Resumed()}
	fmt.Fprintf(&s.buf, "retry: %d\nevent: sse.connected\ndata: ", watchRetry.Milliseconds())
	s.appendJSON(opening)
	if s.reader.Resumed() {
		s.appendID(s.reader.Position())
	}
	s.buf.WriteByte('\n')
}

// appendLines appends the lines that were found, or a heartbeat if there are none.
func (s *watch) appendLines(lines hub.Lines) {
	if lines.Gap != "" {
		fmt.Fprintf(&s.buf, "event: sse.gap\ndata: {\"reason\":%q}\n", lines.Gap)
		s.appendID(lines.From)
		s.buf.WriteByte('\n')
	}
	for _, line := range lines.Lines {
		s.buf.WriteString("data: ")
		s.appendJSON(newEventView(line, s.payloads))
		s.appendID(line.Position)
		s.buf.WriteByte('\n')
	}
	switch {
	case s.buf.Len() > 0:
	case lines.Position != s.sentPosition:
		s.appendID(lines.Position)
		s.buf.WriteByte('\n')
	default:
		s.buf.WriteString(":\n")
	}
}

func (s *watch) appendID(p hub.Position) {
	s.sentPosition = p
	fmt.Fprintf(&s.buf, "id: %s\n", p)
}

// appendJSON appends a line of JSON.
func (s *watch) appendJSON(v any) {
	encoder := json.NewEncoder(&s.buf)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		panic(err) // strings, numbers, times and valid JSON
	}
}

// flush writes buf to the client and empties it.
func (s *watch) flush() error {
	_, err := s.sink.Write(s.buf.Bytes())
	if err == nil {
		err = s.sink.Flush()
	}
	if s.buf.Reset(); s.buf.Cap() > 1<<20 {
		s.buf = bytes.Buffer{}
	}
	return err
}

// eventView is an event as operators see it. The targets, data and text have the same names
// as in a publish. A session is shown as its hash.
type eventView struct {
	ID         string          `json:"id"`
	Stored     time.Time       `json:"stored"`
	Expires    time.Time       `json:"expires,omitzero"`
	All        bool            `json:"all,omitempty"` // the event is for everyone
	Connection []string        `json:"connection,omitempty"`
	User       []string        `json:"user,omitempty"`
	Session    []string        `json:"session,omitempty"`
	Topic      []string        `json:"topic,omitempty"`
	Type       string          `json:"type,omitempty"`
	Size       int             `json:"size,omitempty"`     // bytes of the payload
	Replaced   bool            `json:"replaced,omitempty"` // a newer event of the slot replaced it; its type and payload are not kept
	Data       json.RawMessage `json:"data,omitempty"`
	Text       *string         `json:"text,omitempty"`
	Command    json.RawMessage `json:"command,omitempty"` // the record is no event; it ends connections or changes their topics
}

func newEventView(line hub.Line, payload bool) eventView {
	e := eventView{ID: line.Position.String(), Stored: line.Stored, Expires: line.Expires}
	if line.Command != nil {
		e.Command = line.Command
		if !json.Valid(e.Command) {
			e.Command = json.RawMessage("{}") // a later version wrote it
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
		e.Data, e.Text = splitPayload(line.Data)
	}
	return e
}

// splitPayload returns a payload as data if publishing that data gives the same bytes, else
// as text.
func splitPayload(payload string) (data json.RawMessage, text *string) {
	var compact bytes.Buffer
	if json.Compact(&compact, []byte(payload)) == nil && compact.String() == payload {
		return compact.Bytes(), nil
	}
	return nil, &payload
}
