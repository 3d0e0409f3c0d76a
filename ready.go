package caddysse

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/ea766355/caddy-sse/hub"
)

// showReady tells a load balancer whether this node can serve clients. An unreachable store
// does not make a node unready: the other nodes do not reach it either, and a native
// EventSource never reconnects after the 503 of a balancer without nodes.
func showReady(w http.ResponseWriter, r *http.Request) error {
	if _, err := parseQuery(r); err != nil {
		return err
	}
	if caddy.Exiting() {
		return apiErrorf(http.StatusServiceUnavailable, "Caddy is shutting down")
	}
	if caddy.ActiveContext().Context == nil {
		return apiErrorf(http.StatusServiceUnavailable, "%s", errStarting)
	}
	hubs, err := requestedHubs(r)
	if err != nil {
		return err
	}
	// A config that is being loaded has opened such hubs. It is not in force, and may fail.
	maps.DeleteFunc(hubs, func(_ string, h *pooledHub) bool { return h.store.Load() == nil && !r.URL.Query().Has("hub") })
	var reasons []string
	for _, name := range slices.Sorted(maps.Keys(hubs)) {
		if err := checkReady(hubs[name].Stats()); err != nil {
			reasons = append(reasons, fmt.Sprintf("hub %s: %s", name, err))
		}
	}
	if len(reasons) > 0 {
		return apiErrorf(http.StatusServiceUnavailable, "%s", strings.Join(reasons, "; "))
	}
	writeJSON(w, http.StatusOK, readiness{true})
	return nil
}

type readiness struct {
	Ready bool `json:"ready"`
}

// checkReady returns why the hub would refuse its clients, or nil.
func checkReady(s hub.Stats) error {
	switch {
	case s.Open:
		return nil
	case s.Problem != nil:
		return fmt.Errorf("the history is not open yet: %w", s.Problem)
	}
	return fmt.Errorf("the history is not open yet: %d records are not read yet", s.Behind)
}
