package hub

import (
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
)

// Each replay sleeps the longer, the more there are, so that all together leave
// some of the CPUs to others.
func TestReplaysLeaveTimeToOthers(t *testing.T) {
	for _, replays := range []int{1, 10, 500} {
		t.Run(fmt.Sprint(replays), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const batches, cost = 1000, 50 * time.Microsecond
				h := new(Hub)
				h.replaying.Add(int64(replays - 1))
				var p pacer
				began := time.Now()
				for range batches {
					p.pause(h, cost)
				}
				p.end()
				// Time stands still but for the sleeps.
				used, slept := batches*cost, time.Since(began)
				all := float64(used) / float64(used+slept) * float64(replays)
				if most := float64(runtime.GOMAXPROCS(0)) * paceShare / 100; all > 1.05*most {
					t.Errorf("%d replays use %.2f CPUs, want at most %.2f", replays, all, most)
				}
				want(t, "replays that are left", h.replaying.Load(), int64(replays-1))
			})
		})
	}
}
