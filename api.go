package caddysse

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2"

	"github.com/ea766355/caddy-sse/hub"
)

// The API by which back ends push, served by both the admin endpoint and
// sse_api. It keeps no state: hubs are looked up at each request, so it is right
// after reloads that succeed and after those that fail.

const (
	typeJSON   = "application/json"
	typeNDJSON = "application/x-ndjson"
)

// apiError is an answer other than success.
type apiError struct {
	Status  int    `json:"-"`
	Message string `json:"error"`
	allow   string // for 405
	cause   error  // that the message tells of; nil: there is no other

	// For 503: "no", or "unknown" and what to send again to know.
	Stored string   `json:"stored,omitempty"`
	Key    string   `json:"key,omitempty"`
	Keys   []string `json:"keys,omitempty"` // of a batch, in order

	Missing      []string `json:"missing,omitempty"`      // nodes that did not answer
	Disconnected *int     `json:"disconnected,omitempty"` // connections, although not all nodes know of it
}

func (e *apiError) Error() string { return e.Message }
func (e *apiError) Unwrap() error { return e.cause }

func fail(status int, format string, args ...any) error {
	return &apiError{Status: status, Message: fmt.Sprintf(format, args...)}
}

// serveAPI answers a request below /sse/.
func serveAPI(w http.ResponseWriter, r *http.Request) {
	err := routeAPI(w, r)
	if err == nil {
		return
	}
	failure := failureOf(err)
	if failure.allow != "" {
		w.Header().Set("Allow", failure.allow)
	}
	if failure.Status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1")
	}
	answer(w, failure.Status, failure)
}

func failureOf(err error) *apiError {
	if failure, ok := errors.AsType[*apiError](err); ok {
		return failure
	}
	return &apiError{Status: http.StatusInternalServerError, Message: err.Error()}
}

func routeAPI(w http.ResponseWriter, r *http.Request) error {
	name, id, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/sse/"), "/")
	switch {
	case !strings.HasPrefix(r.URL.Path, "/sse/"):
	case name == "connections" && id != "":
		return method(w, r, map[string]endpoint{"DELETE": disconnectOne, "PATCH": changeTopics})
	case id != "":
	case name == "send":
		return method(w, r, map[string]endpoint{"POST": send})
	case name == "broadcast":
		return method(w, r, map[string]endpoint{"POST": broadcast})
	case name == "connections":
		return method(w, r, map[string]endpoint{"GET": listConnections, "DELETE": disconnect, "PATCH": changeTopics})
	case name == "users":
		return method(w, r, map[string]endpoint{"GET": listUsers})
	case name == "events":
		return method(w, r, map[string]endpoint{"GET": watchEvents})
	case name == "why":
		return method(w, r, map[string]endpoint{"GET": showWhy})
	case name == "status":
		return method(w, r, map[string]endpoint{"GET": showStatus})
	case name == "ready":
		return method(w, r, map[string]endpoint{"GET": showReady})
	}
	return fail(http.StatusNotFound, "no such path: there are /sse/send, /sse/broadcast, /sse/connections, /sse/users, /sse/events, /sse/why, /sse/status and /sse/ready")
}

// endpoint is one call of the API.
type endpoint func(http.ResponseWriter, *http.Request) error

func method(w http.ResponseWriter, r *http.Request, endpoints map[string]endpoint) error {
	if call, ok := endpoints[r.Method]; ok {
		return call(w, r)
	}
	if get, ok := endpoints[http.MethodGet]; ok {
		if r.Method == http.MethodHead { // the server leaves the body out
			return get(w, r)
		}
		endpoints[http.MethodHead] = get
	}
	allow := strings.Join(slices.Sorted(maps.Keys(endpoints)), ", ")
	return &apiError{Status: http.StatusMethodNotAllowed, Message: r.Method + " is not allowed here: use " + allow, allow: allow}
}

func answer(w http.ResponseWriter, status int, body any) {
	setAPIHeader(w, typeJSON)
	w.WriteHeader(status)
	// What fails here is the client's connection.
	_ = json.NewEncoder(w).Encode(body)
}

// setAPIHeader keeps answers, which name users, out of caches.
func setAPIHeader(w http.ResponseWriter, contentType string) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
}

// queryOf reads a query that may have these parameters and no other, so that a
// misspelt filter does not mean everybody.
func queryOf(r *http.Request, allowed ...string) (url.Values, error) {
	if r.URL.RawQuery == "" {
		return nil, nil
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, fail(http.StatusBadRequest, "%s", errQuery)
	}
	for name := range query {
		if name != "hub" && !slices.Contains(allowed, name) {
			return nil, fail(http.StatusBadRequest, "unknown query parameter %q: there are %s",
				name, strings.Join(append([]string{"hub"}, allowed...), ", "))
		}
	}
	return query, nil
}

// hubOf is the hub that the request names.
func hubOf(r *http.Request) (*pooledHub, error) {
	h, err := findHub(hubNameOf(r))
	if err != nil && caddy.ActiveContext().Context == nil {
		// The admin endpoint is up before the first config, and the hubs, are.
		return nil, &apiError{Status: http.StatusServiceUnavailable, Message: "Caddy is starting", Stored: "no"}
	}
	if err != nil {
		return nil, fail(http.StatusNotFound, "%s", err)
	}
	return h, nil
}

func hubNameOf(r *http.Request) string {
	if r.URL.RawQuery == "" {
		return defaultHub
	}
	return cmp.Or(r.URL.Query().Get("hub"), defaultHub)
}

// receipt is the answer to one event.
type receipt struct {
	ID          string `json:"id"`
	Connections int    `json:"connections"`
	Duplicate   bool   `json:"duplicate,omitempty"`
}

func send(w http.ResponseWriter, r *http.Request) error { return publish(w, r, false) }

func broadcast(w http.ResponseWriter, r *http.Request) error { return publish(w, r, true) }

// publish reads one event, or a batch, and says what became of it. The events of a
// broadcast are for everyone.
func publish(w http.ResponseWriter, r *http.Request, broadcast bool) error {
	err := tryPublish(w, r, broadcast)
	if err != nil {
		refusedPublish(r.Context(), hubNameOf(r), failureOf(err))
	}
	return err
}

func tryPublish(w http.ResponseWriter, r *http.Request, broadcast bool) error {
	if _, err := queryOf(r); err != nil {
		return err
	}
	h, err := hubOf(r)
	if err != nil {
		return err
	}
	// Several may be given in one header, or in several.
	if encoding := strings.Join(r.Header["Content-Encoding"], ", "); encoding != "" && !strings.EqualFold(encoding, "identity") {
		return fail(http.StatusUnsupportedMediaType, "Content-Encoding %q is not supported: send the body without", encoding)
	}
	contentType, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if contentType != typeJSON && contentType != typeNDJSON {
		return fail(http.StatusUnsupportedMediaType, "Content-Type must be %s for one event or %s for one event a line", typeJSON, typeNDJSON)
	}
	batch := contentType == typeNDJSON
	buf := bodies.Get().(*bytes.Buffer)
	defer recycle(buf)
	if err := readBody(w, r, batch, h.MaxEventSize(), buf); err != nil {
		return err
	}
	events, lines, err := readEvents(buf.Bytes(), batch, broadcast)
	if err != nil {
		return err
	}

	receipts, err := h.Publish(r.Context(), events...)
	if err != nil {
		return publishError(err, lines)
	}
	if !batch {
		answer(w, http.StatusOK, receiptOf(receipts[0]))
		return nil
	}
	setAPIHeader(w, typeNDJSON)
	encoder := json.NewEncoder(w)
	for _, r := range receipts {
		if encoder.Encode(receiptOf(r)) != nil {
			return nil // the client is gone
		}
	}
	return nil
}

// A large body keeps a CPU busy. So that others need not wait, as many are read at a
// time as there are CPUs less one, or one.
const large = 64 << 10

var decoding = make(chan struct{}, max(1, runtime.GOMAXPROCS(0)-1))

// readEvents reads what a body holds, and the numbers of the lines of a batch, from 1.
func readEvents(body []byte, batch, broadcast bool) (events []hub.Event, lines []int, err error) {
	if len(body) > large {
		decoding <- struct{}{}
		defer func() { <-decoding }()
	}
	if batch {
		return readBatch(body, broadcast)
	}
	events = make([]hub.Event, 1)
	return events, nil, readEvent(&events[0], body, broadcast)
}

func receiptOf(r hub.Receipt) receipt {
	return receipt{r.Position.String(), r.Connections, r.Duplicate}
}

// bodies are reused: nothing that is read from a body refers to it.
var bodies = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// recycle gives a buffer back, unless keeping it would cost more than it saves.
func recycle(buf *bytes.Buffer) {
	if buf.Cap() <= 64<<10 {
		buf.Reset()
		bodies.Put(buf)
	}
}

// readBody reads what one event, or a batch, may take into buf. JSON may escape a
// payload to a multiple of its size; the event itself is measured by the hub.
func readBody(w http.ResponseWriter, r *http.Request, batch bool, maxEventSize int, buf *bytes.Buffer) error {
	limit := int64(maxBatchBytes)
	if !batch {
		limit = max(limit, 6*int64(maxEventSize))
	}
	_, err := buf.ReadFrom(http.MaxBytesReader(w, r.Body, limit))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return fail(http.StatusRequestEntityTooLarge, "the body is larger than %d bytes", limit)
	}
	if err != nil {
		return fail(http.StatusBadRequest, "reading the body: %s", err)
	}
	return nil
}

// publishError is what the hub's refusal is over HTTP. lines is nil for a single
// event.
func publishError(err error, lines []int) error {
	if errors.Is(err, hub.ErrNotStored) {
		return &apiError{Status: http.StatusServiceUnavailable, Message: err.Error(), Stored: "no"}
	}
	if uncertain, ok := errors.AsType[*hub.Uncertain](err); ok {
		failure := &apiError{Status: http.StatusServiceUnavailable, Message: err.Error(), Stored: "unknown"}
		if lines == nil {
			failure.Key = uncertain.Keys[0]
		} else {
			failure.Keys = uncertain.Keys
		}
		return failure
	}
	refused, ok := errors.AsType[*hub.BatchError](err)
	if !ok {
		return err
	}
	status := http.StatusBadRequest
	if errors.Is(err, hub.ErrTooLarge) {
		status = http.StatusRequestEntityTooLarge
	}
	if lines == nil {
		return fail(status, "%s", refused.Err)
	}
	return fail(status, "line %d: %s", lines[refused.Index], refused.Err)
}
