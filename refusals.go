package caddysse

import (
	"context"
	"net/http"
	"sync/atomic"
)

// counters count by reason. The reasons are there from the start, so that an alert
// sees the first refusal.
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

// streamRefusals are the reasons why a request for a stream is refused before it comes
// to the hub, by status.
var streamRefusals = map[int]string{
	http.StatusBadRequest:          "invalid",
	http.StatusMethodNotAllowed:    "invalid",
	http.StatusUnauthorized:        "unauthorized",
	http.StatusForbidden:           "forbidden",
	http.StatusInternalServerError: "cannot_stream",
}

// publishRefusals are the reasons why a publish is refused, by status. That of 503 says
// what became of the events.
var publishRefusals = map[int]string{
	http.StatusBadRequest:            "invalid",
	http.StatusUnsupportedMediaType:  "invalid",
	http.StatusRequestEntityTooLarge: "too_large",
	http.StatusForbidden:             "cross_origin",
	http.StatusInternalServerError:   "error",
}

const (
	notStored = "not_stored"
	inDoubt   = "uncertain"
	canceled  = "canceled" // the publisher went away
)

// unknownHubs counts what was published to hubs that there are not.
var unknownHubs atomic.Uint64

// refusedStream counts a stream that the handler has refused with this status.
func (h *Handler) refusedStream(status int) {
	if n := h.app.held[h.Hub].streamsRefused[streamRefusals[status]]; n != nil {
		n.Add(1)
	}
}

// refusedPublish counts a publish that was refused.
func refusedPublish(ctx context.Context, hubName string, failure *apiError) {
	h, err := findHub(hubName)
	if err != nil {
		if failure.Status == http.StatusNotFound { // and not because Caddy is starting
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
			reason = inDoubt
		}
	}
	if n := h.publishesRefused[reason]; n != nil {
		n.Add(1)
	}
}
