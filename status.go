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
	Head        string      `json:"head"`   // the newest position, "" before the store has begun
	Oldest      string      `json:"oldest"` // the oldest retained position, or the next one if none is retained; "" before the store has begun
	Events      int         `json:"events"`
	Bytes       int64       `json:"bytes"`
	Store       storeStatus `json:"store"`
}

type storeStatus struct {
	Kind      string `json:"kind"`
	Connected bool   `json:"connected"`
	Lag       uint64 `json:"lag"`      // records that this node has yet to receive
	Writable  bool   `json:"writable"` // false if a failed write or check is known

	// Why the store cannot be reached or written, and since when.
	Problem string    `json:"problem,omitempty"`
	Since   time.Time `json:"since,omitzero"`

	Note string `json:"note,omitempty"` // see Noter
}

// storeStatus returns the state of the hub's store.
func (h *pooledHub) storeStatus(stats hub.Stats) storeStatus {
	used := h.storeInUse()
	problem, since := stats.Problem, stats.Since
	s := storeStatus{Kind: used.kind, Connected: problem == nil, Lag: stats.Behind}
	if problem == nil && used.writer != nil {
		since, problem = used.writer.Writable()
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
	if _, err := parseQuery(r); err != nil {
		return err
	}
	open, err := requestedHubs(r)
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
	writeJSON(w, http.StatusOK, s)
	return nil
}

// requestedHubs returns the hub that the request names, or all open hubs if it names none.
func requestedHubs(r *http.Request) (map[string]*pooledHub, error) {
	if !r.URL.Query().Has("hub") {
		return openHubs(), nil
	}
	h, err := requestedHub(r)
	if err != nil {
		return nil, err
	}
	return map[string]*pooledHub{requestedHubName(r): h}, nil
}

// positionOf formats a position. Before the store has begun the result is "", and a client
// that connects with "" receives the events from then on.
func positionOf(p hub.Position) string {
	if p.Epoch == "" {
		return ""
	}
	return p.String()
}

// version returns the version of this module in the running binary.
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

// nodeName returns a name that is different for each node of a cluster.
func nodeName() string {
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	return host + "-" + strconv.Itoa(os.Getpid())
}
