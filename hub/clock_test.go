package hub

import (
	"testing"
	"testing/synctest"
	"time"
	"unsafe"
)

// The clock of the node that accepted an event may be wrong. The time of storing decides.
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
				want(t, "before the ttl is over", read(t, h, requestOf("").at(start)).data(), "brief long")
				time.Sleep(time.Second)
				want(t, "after the ttl", read(t, h, requestOf("").at(start)).data(), "long")
				time.Sleep(9*time.Minute - 1)
				want(t, "before max_age", read(t, h, requestOf("").at(start)).data(), "long")
				time.Sleep(time.Nanosecond)
				want(t, "after max_age", read(t, h, requestOf("").at(start)).data(), "")
			})
		})
	}
}

// An event that expires in a year that has no Unix nanoseconds is delivered. The clock of the node
// that accepted it may be wrong, too.
func TestExpiresInAThousandYears(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		now := time.Now()
		for i, at := range []time.Time{now, now.Add(-200 * 365 * 24 * time.Hour)} {
			feed{h}.Deliver([]Record{
				recordOf(uint64(2*i+1), Event{Data: []byte("x"), At: at, Expires: at.AddDate(250, 0, 0), Targets: []Target{{}}}),
				recordOf(uint64(2*i+2), Event{Data: []byte("y"), At: at, Expires: at.AddDate(1000, 0, 0), Targets: []Target{{}}}),
			})
		}
		want(t, "events", read(t, h, requestOf("").at(Earliest)).data(), "x y x y")
	})
}

// An event may have a time of storing in the future, because the clock was set back since. Its age
// counts from now.
func TestClockWasSetBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{MaxAge: time.Minute})
		r := recordOf(1, Event{Data: []byte("x"), Targets: []Target{{}}})
		r.At = time.Now().Add(time.Hour)
		feed{h}.Deliver([]Record{r})
		time.Sleep(time.Minute)
		want(t, "after max_age", read(t, h, requestOf("").at(Earliest)).data(), "")
	})
}

// An event that took long to be stored is still delivered to open streams.
func TestStoredLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{MaxAge: 10 * time.Second})
		v := open(t, h, requestOf(""))
		late := recordOf(1, Event{Data: []byte("late"), At: time.Now().Add(-11 * time.Second), Targets: []Target{{}}})
		feed{h}.Deliver([]Record{late})
		synctest.Wait()
		want(t, "events", v.client(t).data(), "late")
		want(t, "control events", v.client(t).controlSummary(), "")
	})
}

// wallAhead changes t as if the wall clock had been ahead by whole seconds when t was read. The
// monotonic reading stays.
func wallAhead(t *time.Time, ahead time.Duration) {
	// The seconds are in the 33 bits after the first bit, before 30 bits of nanoseconds.
	wall := (*uint64)(unsafe.Pointer(t))
	*wall += uint64(ahead/time.Second) << 30
}

// The end of a login is a time of the wall clock. The clock may be set after the wheel began. The
// alarm still goes off on time, and once.
func TestWheelAfterTheClockWasSet(t *testing.T) {
	for _, ahead := range []time.Duration{time.Hour, 0, -time.Hour} {
		t.Run(ahead.String(), func(t *testing.T) {
			var w wheel
			conns := make([]Conn, 2)
			began := time.Now()
			w.add(&conns[0], began.Add(time.Minute))
			wallAhead(&w.began, ahead)
			if off := time.Now().Round(0).Sub(w.began.Round(0)) + ahead; off.Abs() > 10*time.Second {
				t.Fatalf("difference of the wall clocks: got %v more than wanted", off)
			}
			w.add(&conns[1], time.Now().Round(0).Add(20*time.Second))
			due := time.Now().Add(20 * time.Second)
			if early := w.takeDue(began.Add(20*time.Second - 2*wheelTick)); len(early) > 0 {
				t.Errorf("alarms before the time: got %d, want 0", len(early))
			}
			if n := len(w.takeDue(due.Add(2 * wheelTick))); n != 1 {
				t.Errorf("alarms at the time: got %d, want 1", n)
			}
		})
	}
}
