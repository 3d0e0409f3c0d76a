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

// showReady tells a load balancer whether clients should come to this node. A store that
// is away does not count: it is away from the other nodes, too, and a browser's own
// EventSource does not come back after the 503 of a balancer that has no node left.
func showReady(w http.ResponseWriter, r *http.Request) error {
	if _, err := queryOf(r); err != nil {
		return err
	}
	if caddy.Exiting() {
		return fail(http.StatusServiceUnavailable, "Caddy is shutting down")
	}
	if caddy.ActiveContext().Context == nil {
		return fail(http.StatusServiceUnavailable, "Caddy is starting")
	}
	hubs, err := askedHubs(r)
	if err != nil {
		return err
	}
	var reasons []string
	for _, name := range slices.Sorted(maps.Keys(hubs)) {
		if err := unready(hubs[name].Stats()); err != nil {
			reasons = append(reasons, fmt.Sprintf("hub %s: %s", name, err))
		}
	}
	if len(reasons) > 0 {
		return fail(http.StatusServiceUnavailable, "%s", strings.Join(reasons, "; "))
	}
	answer(w, http.StatusOK, readiness{true})
	return nil
}

type readiness struct {
	Ready bool `json:"ready"`
}

// unready is why a hub would send its clients away.
func unready(s hub.Stats) error {
	switch {
	case s.Open:
		return nil
	case s.Problem != nil:
		return fmt.Errorf("its history is not open yet: %w", s.Problem)
	}
	return fmt.Errorf("its history is not open yet: %d records are still to be read", s.Behind)
}
