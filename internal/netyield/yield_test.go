package netyield

import (
	"testing"
	"testing/synctest"
	"time"
)

// A stretch of work is as long as its steps, and time without work does not count.
func TestStepGivesWayAfterAStretch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var y Yielder
		gaveWay := func(after time.Duration, want bool) {
			t.Helper()
			time.Sleep(after)
			if got := y.Step(); got != want {
				t.Errorf("it gave way: %t, want %t", got, want)
			}
		}
		y.Begin()
		gaveWay(every-1, false)
		gaveWay(1, true)
		gaveWay(every/2, false)
		time.Sleep(time.Hour)
		y.Begin()
		gaveWay(every/2, false)
		gaveWay(every/2, true)
	})
}
