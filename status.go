package caddysse

import (
	"net/http"
	"os"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/ea766355/caddy-sse/hub"
)

// status is the answer to GET /sse/status.
type status struct {
	Version string               `json:"version"`
	Node    string               `json:"node"`
	Hubs    map[string]hubStatus `json:"hubs"`
}

type hubStatus struct {
	Connections int64       `json:"connections"`
	Users       int         `json:"users"`
	Head        string      `json:"head"`   // a client that connects with it misses nothing from now on
	Oldest      string      `json:"oldest"` // the oldest retained; the next, if there is none; both empty before the store has begun
	Events      int         `json:"events"`
	Bytes       int64       `json:"bytes"`
	Store       storeStatus `json:"store"`
}

type storeStatus struct {
	Kind      string `json:"kind"`
	Connected bool   `json:"connected"`
	Lag       uint64 `json:"lag"`      // records that this node has yet to receive
	Writable  bool   `json:"writable"` // as far as is known without an event to store

	// What keeps it from being reached, or from being written, and since when.
	Problem string    `json:"problem,omitempty"`
	Since   time.Time `json:"since,omitzero"`

	Note string `json:"note,omitempty"` // what happened to the store that an operator should know of
}

// storeStatus says how the hub's store is.
func (h *pooledHub) storeStatus(stats hub.Stats) storeStatus {
	used := h.use()
	problem, since := stats.Problem, stats.Since
	s := storeStatus{Kind: used.kind, Connected: problem == nil, Lag: stats.Behind}
	if problem == nil && used.writer != nil {
		problem, since = used.writer.Writable()
	}
	if s.Writable = problem == nil; !s.Writable {
		s.Problem, s.Since = problem.Error(), since
	}
	if used.noter != nil {
		s.Note = used.noter.Note()
	}
	return s
}

func showStatus(w http.ResponseWriter, r *http.Request) error {
	if _, err := queryOf(r); err != nil {
		return err
	}
	open, err := askedHubs(r)
	if err != nil {
		return err
	}
	s := status{Version: version(), Node: nodeName(), Hubs: make(map[string]hubStatus)}
	for name, h := range open {
		stats := h.Stats()
		var connections int64
		for _, n := range stats.Connections {
			connections += n
		}
		hub := hubStatus{
			Connections: connections, Users: stats.Users,
			Head: positionOf(stats.Head), Oldest: positionOf(stats.Oldest),
			Events: stats.Events, Bytes: stats.EventBytes,
			Store: h.storeStatus(stats),
		}
		s.Hubs[name] = hub
	}
	answer(w, http.StatusOK, s)
	return nil
}

// askedHubs are the one that the request names, or all.
func askedHubs(r *http.Request) (map[string]*pooledHub, error) {
	if !r.URL.Query().Has("hub") {
		return openHubs(), nil
	}
	h, err := hubOf(r)
	if err != nil {
		return nil, err
	}
	return map[string]*pooledHub{hubNameOf(r): h}, nil
}

// positionOf is empty where no store has begun yet: to connect with that is to
// connect from now on.
func positionOf(p hub.Position) string {
	if p.Epoch == "" {
		return ""
	}
	return p.String()
}

// version is this module's, as it was built in.
func version() string {
	const path = "github.com/ea766355/caddy-sse"
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, m := range append(info.Deps, &info.Main) {
		if m.Path == path {
			return m.Version
		}
	}
	return "unknown"
}

// nodeName tells the nodes of a cluster apart.
func nodeName() string {
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	return host + "-" + strconv.Itoa(os.Getpid())
}
