package caddysse

import (
	"context"
	"net/http"
	"sync/atomic"
)

// counters count by reason. All reasons exist from the start: a counter that appears with
// the value 1 is no increase to Prometheus, and an alert would miss the first refusal.
type counters map[string]*atomic.Uint64

func newCounters(reasons map[int]string, more ...string) counters {
	c := make(counters)
	for _, reason := range reasons {
		c[reason] = new(atomic.Uint64)
	}
	for _, reason := range more {
		c[reason] = new(atomic.Uint64)
	}
	return c
}

// streamRefusals are the reasons why the handler refuses a stream before it asks the hub,
// by status.
var streamRefusals = map[int]string{
	http.StatusBadRequest:          "invalid",
	http.StatusMethodNotAllowed:    "invalid",
	http.StatusUnauthorized:        "unauthorized",
	http.StatusForbidden:           "forbidden",
	http.StatusInternalServerError: "cannot_stream",
}

// publishRefusals are the reasons why a publish is refused, by status. A 503 has one of the
// reasons below.
var publishRefusals = map[int]string{
	http.StatusBadRequest:            "invalid",
	http.StatusUnsupportedMediaType:  "invalid",
	http.StatusRequestEntityTooLarge: "too_large",
	http.StatusForbidden:             "cross_origin",
	http.StatusTooEarly:              "early_data",
	http.StatusInternalServerError:   "error",
}

const (
	notStored      = "not_stored"
	storeUncertain = "uncertain"
	canceled       = "canceled" // the publisher disconnected
)

// unknownHubs counts publishes to hubs that do not exist.
var unknownHubs atomic.Uint64

// countRefusedStream counts a stream that the handler refused with this status.
func (h *Handler) countRefusedStream(status int) {
	if n := h.app.held[h.Hub].streamsRefused[streamRefusals[status]]; n != nil {
		n.Add(1)
	}
}

// countRefusedPublish counts a publish that was refused.
func countRefusedPublish(ctx context.Context, hubName string, failure *apiError) {
	h, err := findHub(hubName)
	if err != nil {
		if failure.Status == http.StatusNotFound { // else Caddy is starting
			unknownHubs.Add(1)
		}
		return
	}
	reason := publishRefusals[failure.Status]
	if failure.Status == http.StatusServiceUnavailable {
		switch {
		case ctx.Err() != nil:
			reason = canceled
		case failure.Stored == "no":
			reason = notStored
		default:
			reason = storeUncertain
		}
	}
	if n := h.publishesRefused[reason]; n != nil {
		n.Add(1)
	}
}
