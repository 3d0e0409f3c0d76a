package e2e

import (
	"testing"
	"time"
)

// Patience is how long the tests wait for a short operation on a busy machine.
const Patience = 90 * time.Second

// Wait waits until the condition returns no error. It fails the test after within.
func Wait(t testing.TB, within time.Duration, what string, condition func() error) {
	t.Helper()
	deadline := time.Now().Add(within)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := condition()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited %s for %s: %v", within, what, err)
		}
		<-tick.C
	}
}
