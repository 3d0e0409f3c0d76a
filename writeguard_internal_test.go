package caddysse

import (
	"testing"
	"testing/synctest"
	"time"
)

// A write is aborted when it takes longer than the timeout, whatever came before it. Shorter
// writes are not, however many.
func TestWriteGuard(t *testing.T) {
	const timeout = time.Second
	short := func(g *writeGuard) {
		for range 30 {
			g.begin()
			time.Sleep(timeout - time.Millisecond)
			g.end()
		}
	}
	for name, before := range map[string]func(*writeGuard){
		"the first":               func(*writeGuard) {},
		"after many":              short,
		"just after another":      func(g *writeGuard) { g.begin(); time.Sleep(timeout / 3); g.end() },
		"after a pause":           func(g *writeGuard) { g.begin(); g.end(); time.Sleep(10 * timeout) },
		"after many, and a pause": func(g *writeGuard) { short(g); time.Sleep(timeout / 2) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var g writeGuard
				var aborted []time.Time
				g.init(timeout, func() { aborted = append(aborted, time.Now()) })
				defer g.timer.Stop()
				before(&g)
				synctest.Wait()
				if len(aborted) > 0 {
					t.Fatal("a short write was aborted")
				}
				began := time.Now()
				g.begin()
				time.Sleep(10 * timeout)
				g.end()
				synctest.Wait()
				if len(aborted) != 1 || aborted[0].Sub(began) != timeout {
					t.Errorf("a write that began at %v was aborted at %v: want once, after %v", began, aborted, timeout)
				}
			})
		})
	}
}
