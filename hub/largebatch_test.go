package hub

import (
	"fmt"
	"testing"

	"github.com/ea766355/caddy-sse/internal/netyield"
)

// A publisher of a large batch gives way to goroutines that wait for the network.
func TestLargeBatchGivesWay(t *testing.T) {
	h := newHub(t, Options{})
	targets := make([]Target, MaxTargets)
	for i := range targets {
		targets[i] = user(fmt.Sprint("user ", i))
	}
	events := make([]Event, 300)
	for i := range events {
		events[i] = Event{Data: []byte("1"), Targets: targets}
	}
	before := netyield.Count.Load()
	if _, err := h.Publish(t.Context(), events...); err != nil {
		t.Fatal(err)
	}
	if n := netyield.Count.Load() - before; n < 5 {
		t.Errorf("a batch with %d targets gave way %d times", len(events)*len(targets), n)
	}
}
