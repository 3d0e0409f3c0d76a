package caddysse

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/ea766355/caddy-sse/hub"
)

// The part of the API that concerns connections and users. It covers all nodes that
// share a store.

// Page is a part of the open connections.
type Page struct {
	Count       int        `json:"count"` // all that match
	Connections []hub.Info `json:"connections"`
	Next        string     `json:"next,omitempty"`    // for ?after=, if there are more
	Missing     []string   `json:"missing,omitempty"` // nodes that did not answer
}

const (
	defaultPage = 100
	maxPage     = 1000
)

func listConnections(w http.ResponseWriter, r *http.Request) error {
	query, err := queryOf(r, "user", "session", "topic", "limit", "after")
	if err != nil {
		return err
	}
	h, err := hubOf(r)
	if err != nil {
		return err
	}
	limit, err := limitOf(query)
	if err != nil {
		return err
	}
	filter, err := filterOf(query)
	if err != nil {
		return err
	}
	answer(w, http.StatusOK, list(r.Context(), h, filter, query.Get("after"), limit))
	return nil
}

// list lists the connections that the filter chooses, on all nodes, after this one.
func list(ctx context.Context, h *pooledHub, filter hub.Filter, after string, limit int) Page {
	request := nodeRequest{Filter: filter, After: after, Limit: limit}
	found, missing := request.everywhere(ctx, h)
	p := Page{Count: found.Count, Connections: append([]hub.Info{}, found.Connections...), Missing: missing}
	if found.More && len(found.Connections) > 0 {
		p.Next = found.Connections[len(found.Connections)-1].ID
	}
	return p
}

// limitOf reads how many rows a page has.
func limitOf(query url.Values) (int, error) {
	given := query.Get("limit")
	if given == "" {
		return defaultPage, nil
	}
	limit, err := strconv.Atoi(given)
	if err != nil || limit < 1 || limit > maxPage {
		return 0, fail(http.StatusBadRequest, "limit must be a number from 1 to %d", maxPage)
	}
	return limit, nil
}

// strictFilterOf is filterOf for a query that must say whom it means.
func strictFilterOf(query url.Values) (hub.Filter, error) {
	filters := len(query["user"]) + len(query["session"]) + len(query["topic"])
	if all := query.Get("all") == "true"; (filters > 0) == all {
		return hub.Filter{}, fail(http.StatusBadRequest, "say which connections: with user, session or topic, or all of them with all=true")
	}
	return filterOf(query)
}

// filterOf reads which connections a query means. Queries end up in logs, so a
// session is named by its hash there, and a value that may be the secret is not
// repeated.
func filterOf(query url.Values) (hub.Filter, error) {
	f := hub.Filter{Users: query["user"], Topics: query["topic"], Sessions: query["session"]}
	for _, session := range f.Sessions {
		if !sessionHash.MatchString(session) {
			return f, fail(http.StatusBadRequest, "session must be the hash as it is listed: "+
				"the first 16 bytes of the SHA-256 of the session's value, in 32 hex digits of lower case")
		}
	}
	return f, nil
}

var sessionHash = regexp.MustCompile(`^[0-9a-f]{32}$`)

type disconnected struct {
	Disconnected int      `json:"disconnected"`
	Missing      []string `json:"missing,omitempty"` // nodes that did not answer
}

func disconnect(w http.ResponseWriter, r *http.Request) error {
	query, err := queryOf(r, "user", "session", "topic", "all")
	if err != nil {
		return err
	}
	h, err := hubOf(r)
	if err != nil {
		return err
	}
	filter, err := strictFilterOf(query)
	if err != nil {
		return err
	}
	n, missing, err := end(r.Context(), h, filter)
	if err != nil {
		return err
	}
	answer(w, http.StatusOK, disconnected{n, missing})
	return nil
}

// end ends the connections that the filter chooses: on the nodes that answer at
// once, and on the others when they reach the command in the history.
func end(ctx context.Context, h *pooledHub, filter hub.Filter) (n int, missing []string, err error) {
	request := nodeRequest{Disconnect: true, Filter: filter}
	found, missing := request.everywhere(ctx, h)
	late, err := h.Disconnect(ctx, filter)
	n = found.Count + late
	if err == nil {
		return n, missing, nil
	}
	stored := "no"
	if errors.Is(err, hub.ErrUncertain) {
		stored = "unknown"
	}
	return n, missing, &apiError{
		Status: http.StatusServiceUnavailable, Stored: stored, Missing: missing, Disconnected: &n, cause: err,
		Message: fmt.Sprintf("other nodes may keep their connections, because the disconnect could not be stored: %s; repeat it", err),
	}
}

func disconnectOne(w http.ResponseWriter, r *http.Request) error {
	if _, err := queryOf(r); err != nil {
		return err
	}
	h, err := hubOf(r)
	if err != nil {
		return err
	}
	id := idOf(r)
	n, missing, err := end(r.Context(), h, hub.Filter{IDs: []string{id}})
	if err != nil {
		return err
	}
	if n == 0 {
		return &apiError{Status: http.StatusNotFound, Message: fmt.Sprintf("there is no open connection %q", id), Missing: missing}
	}
	answer(w, http.StatusOK, disconnected{n, missing})
	return nil
}

// idOf is the connection that the path names, or empty.
func idOf(r *http.Request) string {
	_, id, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/sse/"), "/")
	return id
}

// changed is the answer to a change of topics.
type changed struct {
	ID      string   `json:"id"`                // the position of the change
	Changed int      `json:"changed"`           // connections that it concerns
	Missing []string `json:"missing,omitempty"` // nodes that did not answer; they learn of it from the history
}

// maxChange is how many topics one call may add, or remove.
const maxChange = 1000

// changeTopics adds and removes topics of open connections.
func changeTopics(w http.ResponseWriter, r *http.Request) error {
	filter, err := changeFilter(r)
	if err != nil {
		return err
	}
	h, err := hubOf(r)
	if err != nil {
		return err
	}
	change := hub.TopicChange{Filter: filter}
	if err := readChange(w, r, &change); err != nil {
		return err
	}
	count := nodeRequest{Filter: filter}
	found, missing := count.everywhere(r.Context(), h)
	if len(filter.IDs) > 0 && found.Count == 0 && len(missing) == 0 {
		return fail(http.StatusNotFound, "there is no open connection %q", filter.IDs[0])
	}
	position, err := h.ChangeTopics(r.Context(), change)
	if err != nil {
		return publishError(err, nil)
	}
	answer(w, http.StatusOK, changed{position.String(), found.Count, missing})
	return nil
}

func changeFilter(r *http.Request) (hub.Filter, error) {
	if id := idOf(r); id != "" {
		_, err := queryOf(r)
		return hub.Filter{IDs: []string{id}}, err
	}
	query, err := queryOf(r, "user", "session", "topic", "all")
	if err != nil {
		return hub.Filter{}, err
	}
	return strictFilterOf(query)
}

func readChange(w http.ResponseWriter, r *http.Request, change *hub.TopicChange) error {
	if contentType, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); contentType != typeJSON {
		return fail(http.StatusUnsupportedMediaType, "Content-Type must be %s", typeJSON)
	}
	body := new(bytes.Buffer)
	if err := readBody(w, r, false, 0, body); err != nil {
		return err
	}
	var lists struct {
		Add    []string `json:"add"`
		Remove []string `json:"remove"`
	}
	decoder := json.NewDecoder(body)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&lists); err != nil {
		return fail(http.StatusBadRequest, "bad JSON: %s; the body is {\"add\":[...],\"remove\":[...]}, lists of topics", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return fail(http.StatusBadRequest, "bad JSON: there is more after the object")
	}
	for field, names := range map[string][]string{"add": lists.Add, "remove": lists.Remove} {
		if len(names) > maxChange {
			return fail(http.StatusBadRequest, "%s has %d topics, at most %d are allowed", field, len(names), maxChange)
		}
		for i, name := range names {
			if err := exactTopic(name); err != nil {
				return fail(http.StatusBadRequest, "%s: topic %d: %s", field, i+1, err)
			}
		}
	}
	for _, name := range lists.Add {
		if slices.Contains(lists.Remove, name) {
			return fail(http.StatusBadRequest, "topic %q is in add and in remove", name)
		}
	}
	if len(lists.Add)+len(lists.Remove) == 0 {
		return fail(http.StatusBadRequest, "nothing to change: give add or remove, lists of topics")
	}
	change.Add, change.Remove = lists.Add, lists.Remove
	return nil
}

// userPage is the answer to a listing of users.
type userPage struct {
	Users   []hub.UserInfo `json:"users"`
	Next    string         `json:"next,omitempty"`    // for ?after=, if there are more
	Missing []string       `json:"missing,omitempty"` // nodes that did not answer
}

func listUsers(w http.ResponseWriter, r *http.Request) error {
	query, err := queryOf(r, "topic", "limit", "after")
	if err != nil {
		return err
	}
	h, err := hubOf(r)
	if err != nil {
		return err
	}
	limit, err := limitOf(query)
	if err != nil {
		return err
	}
	list := nodeRequest{Users: true, Filter: hub.Filter{Topics: query["topic"]}, After: query.Get("after"), Limit: limit}
	found, missing := list.everywhere(r.Context(), h)
	p := userPage{Users: append([]hub.UserInfo{}, found.Users...), Missing: missing}
	if found.More && len(found.Users) > 0 {
		p.Next = found.Users[len(found.Users)-1].User
	}
	answer(w, http.StatusOK, p)
	return nil
}
