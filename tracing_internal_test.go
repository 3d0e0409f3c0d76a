package caddysse

import (
	"testing"

	"github.com/ea766355/caddy-sse/hub"
)

// TestPublishWithoutTraceCostsNothing: a publish without a trace allocates what the hub
// allocates for it.
func TestPublishWithoutTraceCostsNothing(t *testing.T) {
	h := &pooledHub{Hub: openHub(t), name: "default"}
	events := []hub.Event{{Data: []byte("x"), Targets: []hub.Target{{}}}}
	measure := func(publish func() error) float64 {
		return testing.AllocsPerRun(20_000, func() {
			if err := publish(); err != nil {
				t.Error(err)
			}
		})
	}
	through := func() error { _, err := h.publishTraced(t.Context(), events); return err }
	measure(through) // fills the history, and grows what grows
	direct := measure(func() error { _, err := h.Publish(t.Context(), events...); return err })
	if got := measure(through); got > direct {
		t.Errorf("%v allocations, the hub alone has %v", got, direct)
	}
}
