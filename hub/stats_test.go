package hub

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// slowStore takes two seconds to store something.
type slowStore struct{ *Memory }

func (s slowStore) Append(ctx context.Context, entries []Entry) ([]Stored, error) {
	time.Sleep(2 * time.Second)
	return s.Memory.Append(ctx, entries)
}

func TestStatsOfTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{MaxEvents: 2, MaxBytes: 1 << 20})
		if err := h.Use(slowStore{NewMemory()}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		s := h.Stats()
		want(t, "bound of events", s.MaxEvents, 2)
		want(t, "bound of bytes", s.MaxBytes, 1<<20)
		want(t, "age of nothing", s.OldestAge, 0)
		for range 3 {
			publish(t, h, "x")
		}
		s = h.Stats()
		want(t, "commits", s.Commits.Sum, 6*time.Second)
		want(t, "age of the second event", s.OldestAge, 2*time.Second)
		if _, err := h.Publish(t.Context(), Event{Type: "open", Targets: []Target{{}}}); err == nil {
			t.Error("a reserved type was accepted")
		}
		want(t, "commits after a refusal", h.Stats().Commits.Sum, 6*time.Second)
	})
}

// TestStatsSayWhenTheProblemBegan: it does not begin again when the store says more
// about it.
func TestStatsSayWhenTheProblemBegan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		synctest.Wait()
		want(t, "no problem", h.Stats().Since, time.Time{})
		begun := time.Now()
		feed{h}.Status(errors.New("away"), 0)
		time.Sleep(time.Minute)
		feed{h}.Status(errors.New("still away"), 0)
		want(t, "a minute later", h.Stats().Since, begun)
		feed{h}.Status(nil, 0)
		want(t, "in the end", h.Stats().Since, time.Time{})
	})
}

// TestStatsCountFromZero: an alert can compare a counter only with what it was.
func TestStatsCountFromZero(t *testing.T) {
	s := newHub(t, Options{}).Stats()
	want(t, "reasons of refusals", len(s.Rejected), len(refusalReasons))
	want(t, "reasons of ends", len(s.Closed), len(closeReasons))
	want(t, "waits", s.Waits, Histogram{})
}

func TestLockCountsWaits(t *testing.T) {
	var l timedMutex
	l.Lock()
	want(t, "waits for a lock that is free", l.waits.read(), Histogram{})
	l.Unlock()

	l.RLock()
	locked := make(chan struct{})
	go func() {
		l.Lock()
		close(locked)
	}()
	eventually(t, "it to wait", func() bool {
		if l.TryRLock() {
			l.RUnlock()
			return false
		}
		return true
	})
	l.RUnlock()
	<-locked
	l.Unlock()
	waits := l.waits.read()
	var n uint64
	for _, count := range waits.Counts {
		n += count
	}
	want(t, "waits", n, 1)
	if waits.Sum <= 0 {
		t.Errorf("it waited for %v", waits.Sum)
	}
}
