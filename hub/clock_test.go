package hub

import (
	"testing"
	"testing/synctest"
	"time"
)

// The clock of the node that accepted an event may be wrong. What counts is when
// the event was stored.
func TestClocksOfOtherNodes(t *testing.T) {
	for name, ahead := range map[string]time.Duration{"ahead": time.Hour, "behind": -time.Hour, "right": 0} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHub(t, Options{MaxAge: 10 * time.Minute})
				accepted := time.Now().Add(ahead)
				feed{h}.Deliver([]Record{
					recordOf(1, Event{Data: []byte("brief"), At: accepted, Expires: accepted.Add(time.Minute), Targets: []Target{{}}}),
					recordOf(2, Event{Data: []byte("long"), At: accepted, Targets: []Target{{}}}),
				})
				start := h.history.epoch + "-0"
				time.Sleep(59 * time.Second)
				want(t, "before the ttl is over", read(t, h, as("").at(start)).data(), "brief long")
				time.Sleep(time.Second)
				want(t, "after it", read(t, h, as("").at(start)).data(), "long")
				time.Sleep(9*time.Minute - 1)
				want(t, "before it is too old", read(t, h, as("").at(start)).data(), "long")
				time.Sleep(time.Nanosecond)
				want(t, "after that", read(t, h, as("").at(start)).data(), "")
			})
		})
	}
}

// An event that was stored in the future, by a clock that was set back since, ages
// from now on.
func TestClockThatWasSetBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{MaxAge: time.Minute})
		r := recordOf(1, Event{Data: []byte("x"), Targets: []Target{{}}})
		r.At = time.Now().Add(time.Hour)
		feed{h}.Deliver([]Record{r})
		time.Sleep(time.Minute)
		want(t, "after its age", read(t, h, as("").at(Earliest)).data(), "")
	})
}

// An event that was long in being stored is delivered to those who listen.
func TestStoredLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{MaxAge: 10 * time.Second})
		v := open(t, h, as(""))
		late := recordOf(1, Event{Data: []byte("late"), At: time.Now().Add(-11 * time.Second), Targets: []Target{{}}})
		feed{h}.Deliver([]Record{late})
		synctest.Wait()
		want(t, "got", v.client(t).data(), "late")
		want(t, "told", v.client(t).told(), "")
	})
}
