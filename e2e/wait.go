package e2e

import (
	"testing"
	"time"
)

// Patience is how long the tests wait for what should take a moment, on a
// machine that has other things to do.
const Patience = 30 * time.Second

// Wait returns as soon as the condition holds, which is to say that it gives no
// error, and fails the test if that takes longer than within.
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
