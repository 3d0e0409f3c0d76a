package caddysse

import (
	"net/http"
	"os"
	"runtime/debug"
	"strconv"

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
	Lag       uint64 `json:"lag"` // records that this node has yet to receive
	Problem   string `json:"problem,omitempty"`
	Note      string `json:"note,omitempty"` // what happened to the store that an operator should know of
}

func showStatus(w http.ResponseWriter, r *http.Request) error {
	if _, err := queryOf(r); err != nil {
		return err
	}
	open := openHubs()
	if r.URL.Query().Has("hub") {
		h, err := hubOf(r)
		if err != nil {
			return err
		}
		open = map[string]*pooledHub{hubNameOf(r): h}
	}
	s := status{Version: version(), Node: nodeName(), Hubs: make(map[string]hubStatus)}
	for name, h := range open {
		stats, used := h.Stats(), h.use()
		var connections int64
		for _, n := range stats.Connections {
			connections += n
		}
		hub := hubStatus{
			Connections: connections, Users: stats.Users,
			Head: positionOf(stats.Head), Oldest: positionOf(stats.Oldest),
			Events: stats.Events, Bytes: stats.EventBytes,
			Store: storeStatus{Kind: used.kind, Connected: stats.Problem == nil, Lag: stats.Behind},
		}
		if stats.Problem != nil {
			hub.Store.Problem = stats.Problem.Error()
		}
		if used.noter != nil {
			hub.Store.Note = used.noter.Note()
		}
		s.Hubs[name] = hub
	}
	answer(w, http.StatusOK, s)
	return nil
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
