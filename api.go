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
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2"

	"github.com/ea766355/caddy-sse/hub"
)

// Back ends publish through this API. Both the admin endpoint and sse_api serve it. It
// keeps no state: it looks the hub up at each request, so it uses the hubs that are open
// after a reload, whether the reload succeeded or failed.

const (
	typeJSON   = "application/json"
	typeNDJSON = "application/x-ndjson"
)

// apiError is a refusal or a failure, as JSON.
type apiError struct {
	Status  int    `json:"-"`
	Message string `json:"error"`
	allow   string // the header Allow of a 405
	cause   error  // the error that the message quotes, or nil

	// For 503, whether the event was stored: "no" or "unknown". If it is unknown, the
	// publisher finds out by sending the event again with the key.
	Stored string   `json:"stored,omitempty"`
	Key    string   `json:"key,omitempty"`
	Keys   []string `json:"keys,omitempty"` // of a batch, in order

	Missing      []string `json:"missing,omitempty"`      // nodes that did not answer
	Disconnected *int     `json:"disconnected,omitempty"` // connections ended so far, when the command could not be stored for all nodes
}

func (e *apiError) Error() string { return e.Message }
func (e *apiError) Unwrap() error { return e.cause }

func apiErrorf(status int, format string, args ...any) error {
	return &apiError{Status: status, Message: fmt.Sprintf(format, args...)}
}

// bufferedError says which handler buffers a stream, which therefore cannot be sent. The
// header is already written. So only that handler can still answer something else.
type bufferedError struct{ error }

// serveAPI answers a request below /sse/. It returns an error only if it is a
// [bufferedError].
func serveAPI(w http.ResponseWriter, r *http.Request) error {
	err := routeAPI(w, r)
	if err == nil {
		return nil
	}
	if buffered, ok := errors.AsType[bufferedError](err); ok {
		return buffered
	}
	failure := asAPIError(err)
	if failure.allow != "" {
		w.Header().Set("Allow", failure.allow)
	}
	if failure.Status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1")
	}
	writeJSON(w, failure.Status, failure)
	return nil
}

func asAPIError(err error) *apiError {
	if failure, ok := errors.AsType[*apiError](err); ok {
		return failure
	}
	return &apiError{Status: http.StatusInternalServerError, Message: err.Error()}
}

// An endpoint is a path of the API with a handler for each method.
type endpoint struct {
	path    string // {id} stands for the id of a connection
	methods methods
}

type methods map[string]func(http.ResponseWriter, *http.Request) error

// endpoints are all paths and methods of the API.
var endpoints = []endpoint{
	{"/sse/send", methods{"POST": send}},
	{"/sse/broadcast", methods{"POST": broadcast}},
	{"/sse/connections", methods{"GET": listConnections, "PATCH": changeTopics, "DELETE": disconnect}},
	{"/sse/connections/{id}", methods{"PATCH": changeTopics, "DELETE": disconnectOne}},
	{"/sse/users", methods{"GET": listUsers}},
	{"/sse/events", methods{"GET": watchEvents}},
	{"/sse/why", methods{"GET": showWhy}},
	{"/sse/status", methods{"GET": showStatus}},
	{"/sse/ready", methods{"GET": showReady}},
}

func routeAPI(w http.ResponseWriter, r *http.Request) error {
	for i := range endpoints {
		if e := &endpoints[i]; e.matches(r.URL.Path) {
			return e.serve(w, r)
		}
	}
	paths := make([]string, len(endpoints))
	for i, e := range endpoints {
		paths[i] = e.path
	}
	return apiErrorf(http.StatusNotFound, "unknown path %q (available: %s)", r.URL.Path, strings.Join(paths, ", "))
}

// matches reports whether the request's path is that of the endpoint, and no other spelling
// of it. A site may guard a call by its path, and Caddy's matchers take /sse/send/ for
// another path, and /sse/connections/../ready for /sse/ready.
func (e *endpoint) matches(path string) bool {
	if prefix, ok := strings.CutSuffix(e.path, "{id}"); ok {
		id, below := strings.CutPrefix(path, prefix)
		return below && id != "" && !strings.Contains(id, "/")
	}
	return path == e.path
}

// serve calls the handler of the request's method. HEAD is served by the handler of GET.
func (e *endpoint) serve(w http.ResponseWriter, r *http.Request) error {
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet // the server removes the body
	}
	if handler := e.methods[method]; handler != nil {
		return handler(w, r)
	}
	allowed := slices.Collect(maps.Keys(e.methods))
	if e.methods[http.MethodGet] != nil {
		allowed = append(allowed, http.MethodHead)
	}
	slices.Sort(allowed)
	allow := strings.Join(allowed, ", ")
	return &apiError{
		Status: http.StatusMethodNotAllowed, allow: allow,
		Message: fmt.Sprintf("method %s is not allowed on %s (allowed: %s)", r.Method, e.path, allow),
	}
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	setAPIHeader(w, typeJSON)
	w.WriteHeader(status)
	// An error here means that the client is gone.
	_ = json.NewEncoder(w).Encode(body)
}

// setAPIHeader sets the header of an answer. Answers name users, so no cache may keep them.
func setAPIHeader(w http.ResponseWriter, contentType string) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
}

// parseQuery parses a query that may have only the allowed parameters, and hub. Without
// this check a misspelt filter would select all connections.
func parseQuery(r *http.Request, allowed ...string) (url.Values, error) {
	if r.URL.RawQuery == "" {
		return nil, nil
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, apiErrorf(http.StatusBadRequest, "%s", errQuery)
	}
	for name, values := range query {
		if name != "hub" && !slices.Contains(allowed, name) {
			return nil, apiErrorf(http.StatusBadRequest, "unknown query parameter %q (available: %s)",
				name, strings.Join(append([]string{"hub"}, allowed...), ", "))
		}
		if slices.ContainsFunc(values, func(value string) bool { return !utf8.ValidString(value) }) {
			// In a request to other nodes it would become U+FFFD, which may be another's name.
			return nil, apiErrorf(http.StatusBadRequest, "query parameter %q is not valid UTF-8: percent-encode its value in UTF-8", name)
		}
		// A guard before sse_api might read another of the values than the API.
		if len(values) > 1 && !slices.Contains(repeatable, name) {
			return nil, apiErrorf(http.StatusBadRequest, "query parameter %q is given twice: give it once", name)
		}
	}
	return query, nil
}

// repeatable are the query parameters that may have several values. GET /sse/why takes only
// one connection and one id, which it checks itself.
var repeatable = []string{"user", "session", "topic", "type", "connection", "id"}

// requestedHub returns the hub that the request names, or the default hub.
func requestedHub(r *http.Request) (*pooledHub, error) {
	h, err := findHub(requestedHubName(r))
	if err != nil && caddy.ActiveContext().Context == nil {
		// The admin endpoint starts before the first config and its hubs.
		return nil, &apiError{Status: http.StatusServiceUnavailable, Message: errStarting.Error(), Stored: "no"}
	}
	if err != nil {
		return nil, apiErrorf(http.StatusNotFound, "%s", err)
	}
	return h, nil
}

var errStarting = errors.New("no hubs yet, because Caddy is starting: try again")

func requestedHubName(r *http.Request) string {
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

// publish reads one event or a batch, stores it and answers with receipts. It counts
// refusals. The events of a broadcast are for everyone.
func publish(w http.ResponseWriter, r *http.Request, broadcast bool) error {
	err := tryPublish(w, r, broadcast)
	if err != nil {
		countRefusedPublish(r.Context(), requestedHubName(r), asAPIError(err))
	}
	return err
}

func tryPublish(w http.ResponseWriter, r *http.Request, broadcast bool) error {
	if _, err := parseQuery(r); err != nil {
		return err
	}
	h, err := requestedHub(r)
	if err != nil {
		return err
	}
	if err := checkEncoding(r); err != nil {
		return err
	}
	contentType := r.Header.Get("Content-Type")
	if contentType != typeJSON { // it may have parameters
		contentType, _, _ = mime.ParseMediaType(contentType)
	}
	if contentType != typeJSON && contentType != typeNDJSON {
		return apiErrorf(http.StatusUnsupportedMediaType, "unsupported Content-Type %q: use %s for one event, or %s for a batch with one event on each line",
			r.Header.Get("Content-Type"), typeJSON, typeNDJSON)
	}
	batch := contentType == typeNDJSON
	buf := bodies.Get().(*bytes.Buffer)
	defer recycleBuffer(buf)
	if err := readBody(w, r, batch, h.MaxEventSize(), buf); err != nil {
		return err
	}
	events, lines, err := readEvents(buf.Bytes(), batch, broadcast)
	if err != nil {
		return err
	}

	receipts, err := h.publishTraced(traceOf(r), events)
	if err != nil {
		return publishError(err, lines)
	}
	if !batch {
		writeJSON(w, http.StatusOK, receiptOf(receipts[0]))
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

// checkEncoding returns an error if the body has an encoding, such as gzip.
func checkEncoding(r *http.Request) error {
	// A request may have several encodings, in one header or in several.
	if encoding := strings.Join(r.Header["Content-Encoding"], ", "); encoding != "" && !strings.EqualFold(encoding, "identity") {
		return apiErrorf(http.StatusUnsupportedMediaType, "unsupported Content-Encoding %q: send the body without an encoding", encoding)
	}
	return nil
}

// largeBody is the size in bytes above which reading a body needs one of the decodeSlots.
const largeBody = 64 << 10

// decodeSlots limits how many large bodies are read at the same time. Each keeps a CPU
// busy, and one CPU stays free for other requests, if there is more than one.
var decodeSlots = make(chan struct{}, max(1, runtime.GOMAXPROCS(0)-1))

// waitToDecode waits for a slot if the body is large. The caller calls done when it has read
// the body.
func waitToDecode(body []byte) (done func()) {
	if len(body) <= largeBody {
		return func() {}
	}
	decodeSlots <- struct{}{}
	return func() { <-decodeSlots }
}

// readEvents reads the events of a body. For a batch it also returns the number of the
// line of each event, from 1.
func readEvents(body []byte, batch, broadcast bool) (events []hub.Event, lines []int, err error) {
	defer waitToDecode(body)()
	if batch {
		return readBatch(body, broadcast)
	}
	events = make([]hub.Event, 1)
	return events, nil, readEvent(&events[0], body, broadcast)
}

func receiptOf(r hub.Receipt) receipt {
	return receipt{r.Position.String(), r.Connections, r.Duplicate}
}

// bodies are buffers to reuse. Events are copied out of a body, so none refers to it.
var bodies = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// recycleBuffer gives a buffer back, unless it is so large that keeping it wastes memory.
func recycleBuffer(buf *bytes.Buffer) {
	if buf.Cap() <= 64<<10 {
		buf.Reset()
		bodies.Put(buf)
	}
}

// readBody reads the body into buf, up to a limit for one event or for a batch. The limit
// for one event is six times the event's, since JSON may escape each byte of a payload as
// six. The hub checks the size of the event itself.
func readBody(w http.ResponseWriter, r *http.Request, batch bool, maxEventSize int, buf *bytes.Buffer) error {
	limit := int64(maxBatchBytes)
	if !batch {
		limit = max(limit, 6*int64(maxEventSize))
	}
	_, err := buf.ReadFrom(http.MaxBytesReader(w, r.Body, limit))
	// The directive request_body may set a lower limit.
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return apiErrorf(http.StatusRequestEntityTooLarge, "the body has more than %d bytes: send smaller events, or fewer in a batch", tooLarge.Limit)
	}
	if err != nil {
		return apiErrorf(http.StatusBadRequest, "reading the body: %s", err)
	}
	return nil
}

// publishError turns an error of the hub into an answer. lines has the line numbers of a
// batch, and is nil for a single event.
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
		return apiErrorf(status, "%s", refused.Err)
	}
	return apiErrorf(status, "line %d: %s", lines[refused.Index], refused.Err)
}
