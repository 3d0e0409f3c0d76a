package caddysse

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/ea766355/caddy-sse/hub"
)

// The calls of the API that list, end and change connections. They cover all nodes that
// share a store.

// ConnectionPage is one page of a listing of open connections, by ascending id.
type ConnectionPage struct {
	Count       int        `json:"count"` // connections on all pages
	Connections []hub.Info `json:"connections"`
	Next        string     `json:"next,omitempty"`    // the value of after for the next page; empty on the last
	Missing     []string   `json:"missing,omitempty"` // names of nodes that did not answer
}

const (
	defaultPage = 100
	maxPage     = 1000
)

func listConnections(w http.ResponseWriter, r *http.Request) error {
	query, err := parseQuery(r, "user", "session", "topic", "limit", "after")
	if err != nil {
		return err
	}
	h, err := requestedHub(r)
	if err != nil {
		return err
	}
	limit, err := parseLimit(query)
	if err != nil {
		return err
	}
	filter, err := parseFilter(query)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, listOnAllNodes(r.Context(), h, filter, query.Get("after"), limit))
	return nil
}

// listOnAllNodes lists the connections that match the filter and have an id above after,
// on all nodes.
func listOnAllNodes(ctx context.Context, h *pooledHub, filter hub.Filter, after string, limit int) ConnectionPage {
	request := nodeRequest{Filter: filter, After: after, Limit: limit}
	found, missing := request.performOnAllNodes(ctx, h)
	p := ConnectionPage{Count: found.Count, Connections: append([]hub.Info{}, found.Connections...), Missing: missing}
	if found.More && len(found.Connections) > 0 {
		p.Next = found.Connections[len(found.Connections)-1].ID
	}
	return p
}

// parseLimit parses the number of rows on a page.
func parseLimit(query url.Values) (int, error) {
	given := query.Get("limit")
	if given == "" {
		return defaultPage, nil
	}
	limit, err := strconv.Atoi(given)
	if err != nil || limit < 1 || limit > maxPage {
		return 0, apiErrorf(http.StatusBadRequest, "invalid limit %q: it must be a number from 1 to %d", given, maxPage)
	}
	return limit, nil
}

// parseRequiredFilter is parseFilter for a call that ends or changes connections. The query
// must have a filter, or all=true.
func parseRequiredFilter(query url.Values) (hub.Filter, error) {
	filters := len(query["user"]) + len(query["session"]) + len(query["topic"])
	switch all := query.Get("all") == "true"; {
	case filters > 0 && all:
		return hub.Filter{}, apiErrorf(http.StatusBadRequest, "all=true and a filter contradict each other: leave one of them out")
	case filters == 0 && !all:
		return hub.Filter{}, apiErrorf(http.StatusBadRequest, "the query selects no connections: give user, session or topic, or all=true for all connections")
	}
	return parseFilter(query)
}

// parseFilter parses the filters of a query. A query ends up in logs, so it names a
// session by its hash. An error does not repeat an invalid value, which may be the secret.
func parseFilter(query url.Values) (hub.Filter, error) {
	f := hub.Filter{Users: query["user"], Topics: query["topic"], Sessions: query["session"]}
	for _, session := range f.Sessions {
		if !sessionHash.MatchString(session) {
			return f, apiErrorf(http.StatusBadRequest, "session is not a hash: give the hash as it is listed, "+
				"the first 16 bytes of the SHA-256 of the session's value in 32 lower case hex digits")
		}
	}
	return f, nil
}

var sessionHash = regexp.MustCompile(`^[0-9a-f]{32}$`)

type disconnectAnswer struct {
	Disconnected int      `json:"disconnected"`
	Missing      []string `json:"missing,omitempty"` // nodes that did not answer
}

func disconnect(w http.ResponseWriter, r *http.Request) error {
	query, err := parseQuery(r, "user", "session", "topic", "all")
	if err != nil {
		return err
	}
	h, err := requestedHub(r)
	if err != nil {
		return err
	}
	filter, err := parseRequiredFilter(query)
	if err != nil {
		return err
	}
	n, missing, err := disconnectOnAllNodes(r.Context(), h, filter)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, disconnectAnswer{n, missing})
	return nil
}

// disconnectOnAllNodes ends the connections that match the filter: on the nodes that
// answer at once, and on the others when they reach the command in the history.
func disconnectOnAllNodes(ctx context.Context, h *pooledHub, filter hub.Filter) (n int, missing []string, err error) {
	request := nodeRequest{Disconnect: true, Filter: filter}
	found, missing := request.performOnAllNodes(ctx, h)
	late, err := h.Disconnect(ctx, filter)
	n = found.Count + late
	if err == nil {
		return n, missing, nil
	}
	const unstored = "the disconnect could not be stored, so other nodes may keep their connections: %s; %s"
	if refused, ok := errors.AsType[*hub.BatchError](err); ok { // only the store knows its limit
		return n, missing, &apiError{
			Status: http.StatusRequestEntityTooLarge, Missing: missing, Disconnected: &n, cause: err,
			Message: fmt.Sprintf(unstored, refused.Err, "or name fewer users, sessions and topics in one request"),
		}
	}
	stored := "no"
	if errors.Is(err, hub.ErrUncertain) {
		stored = "unknown"
	}
	return n, missing, &apiError{
		Status: http.StatusServiceUnavailable, Stored: stored, Missing: missing, Disconnected: &n, cause: err,
		Message: fmt.Sprintf(unstored, err, "repeat the request"),
	}
}

func disconnectOne(w http.ResponseWriter, r *http.Request) error {
	if _, err := parseQuery(r); err != nil {
		return err
	}
	h, err := requestedHub(r)
	if err != nil {
		return err
	}
	id := connectionInPath(r)
	n, missing, err := disconnectOnAllNodes(r.Context(), h, hub.Filter{IDs: []string{id}})
	if err != nil {
		return err
	}
	if n == 0 {
		return &apiError{Status: http.StatusNotFound, Message: errNoConnection(id).Error(), Missing: missing}
	}
	writeJSON(w, http.StatusOK, disconnectAnswer{n, missing})
	return nil
}

func errNoConnection(id string) error {
	return fmt.Errorf("no open connection has the id %q: GET /sse/connections lists them", id)
}

// connectionInPath returns the id of the connection that the path names, or "".
func connectionInPath(r *http.Request) string {
	_, id, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/sse/"), "/")
	return id
}

// changeAnswer is the answer to a change of topics.
type changeAnswer struct {
	ID      string   `json:"id"`                // the position of the change
	Changed int      `json:"changed"`           // connections that match
	Missing []string `json:"missing,omitempty"` // nodes that did not answer; they learn of it from the history
}

// maxChange is the most topics that one call may add, and the most that it may remove.
const maxChange = 1000

// changeTopics adds and removes topics of open connections.
func changeTopics(w http.ResponseWriter, r *http.Request) error {
	filter, err := changeFilter(r)
	if err != nil {
		return err
	}
	h, err := requestedHub(r)
	if err != nil {
		return err
	}
	change := hub.TopicChange{Filter: filter}
	if err := readChange(w, r, &change); err != nil {
		return err
	}
	count := nodeRequest{Filter: filter}
	found, missing := count.performOnAllNodes(r.Context(), h)
	if len(filter.IDs) > 0 && found.Count == 0 && len(missing) == 0 {
		return apiErrorf(http.StatusNotFound, "%s", errNoConnection(filter.IDs[0]))
	}
	position, err := h.ChangeTopics(r.Context(), change)
	if err != nil {
		return publishError(err, nil)
	}
	writeJSON(w, http.StatusOK, changeAnswer{position.String(), found.Count, missing})
	return nil
}

func changeFilter(r *http.Request) (hub.Filter, error) {
	if id := connectionInPath(r); id != "" {
		_, err := parseQuery(r)
		return hub.Filter{IDs: []string{id}}, err
	}
	query, err := parseQuery(r, "user", "session", "topic", "all")
	if err != nil {
		return hub.Filter{}, err
	}
	return parseRequiredFilter(query)
}

func readChange(w http.ResponseWriter, r *http.Request, change *hub.TopicChange) error {
	if err := checkEncoding(r); err != nil {
		return err
	}
	if contentType, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); contentType != typeJSON {
		return apiErrorf(http.StatusUnsupportedMediaType, "unsupported Content-Type %q: use %s", r.Header.Get("Content-Type"), typeJSON)
	}
	body := new(bytes.Buffer)
	if err := readBody(w, r, false, 0, body); err != nil {
		return err
	}
	defer waitToDecode(body.Bytes())()
	var lists topicLists
	err := readObject(body.Bytes(), "change", &lists)
	if errors.Is(err, errTrailing) {
		err = errors.New("invalid JSON: there is more text after the object")
	}
	if err != nil {
		return apiErrorf(http.StatusBadRequest, "%s", err)
	}
	for field, names := range map[string][]string{"add": lists.add, "remove": lists.remove} {
		for i, name := range names {
			if err := validateExactTopic(name); err != nil {
				return apiErrorf(http.StatusBadRequest, "%s: topic %d %.100q: %s", field, i+1, name, err)
			}
		}
	}
	for _, name := range lists.add {
		if slices.Contains(lists.remove, name) {
			return apiErrorf(http.StatusBadRequest, "topic %q is in add and in remove: leave it out of one of them", name)
		}
	}
	if len(lists.add)+len(lists.remove) == 0 {
		return apiErrorf(http.StatusBadRequest, "add and remove are both empty: give at least one topic")
	}
	change.Add, change.Remove = lists.add, lists.remove
	return nil
}

// topicLists are the fields of a change of topics.
type topicLists struct{ add, remove []string }

// set implements fieldSetter.
func (l *topicLists) set(name string, value jsontext.Value) (err error) {
	switch name {
	case "add":
		l.add, err = readTopics(name, value)
	case "remove":
		l.remove, err = readTopics(name, value)
	default:
		err = fmt.Errorf("unknown field %.100q (available: add, remove)", name)
	}
	return err
}

// readTopics reads a list of strings. The value null stands for an empty list.
func readTopics(field string, value jsontext.Value) (names []string, err error) {
	switch value.Kind() {
	case jsontext.KindNull:
		return nil, nil
	case jsontext.KindBeginArray:
	default:
		return nil, fmt.Errorf("invalid %s %.50s: it must be a list of topics, such as [\"room/1\"]", field, value)
	}
	list := jsontext.NewDecoder(bytes.NewBuffer(value), jsonOptions...)
	n := 0
	for _, err = list.ReadToken(); err == nil && list.PeekKind() != jsontext.KindEndArray; {
		if value, err = list.ReadValue(); err != nil {
			break
		}
		if n++; n > maxChange {
			continue // a body has room for very many
		}
		name, err := readString("topic", value)
		if err != nil {
			return nil, fmt.Errorf("%s: topic %d: %w", field, n, err)
		}
		names = append(names, name)
	}
	if err == nil && n > maxChange {
		err = fmt.Errorf("%s has %d topics: at most %d are allowed in one call", field, n, maxChange)
	}
	return names, err
}

// userPage is one page of a listing of users, by ascending name.
type userPage struct {
	Users   []hub.UserInfo `json:"users"`
	Next    string         `json:"next,omitempty"`    // the value of after for the next page
	Missing []string       `json:"missing,omitempty"` // nodes that did not answer
}

func listUsers(w http.ResponseWriter, r *http.Request) error {
	query, err := parseQuery(r, "topic", "limit", "after")
	if err != nil {
		return err
	}
	h, err := requestedHub(r)
	if err != nil {
		return err
	}
	limit, err := parseLimit(query)
	if err != nil {
		return err
	}
	list := nodeRequest{Users: true, Filter: hub.Filter{Topics: query["topic"]}, After: query.Get("after"), Limit: limit}
	found, missing := list.performOnAllNodes(r.Context(), h)
	p := userPage{Users: append([]hub.UserInfo{}, found.Users...), Missing: missing}
	if found.More && len(found.Users) > 0 {
		p.Next = found.Users[len(found.Users)-1].User
	}
	writeJSON(w, http.StatusOK, p)
	return nil
}
