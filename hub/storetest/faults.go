package storetest

import (
	"context"
	"errors"
	"testing"

	"github.com/ea766355/caddy-sse/hub"
)

// startFrom opens a store for a hub whose history ends with a position.
func startFrom(t *testing.T, open func(*testing.T) hub.Store, end hub.Position) *tail {
	t.Helper()
	store := open(t)
	store.Retain(roomy, 0)
	return followFrom(t, store, roomy, end)
}

// endOf returns the position of the last delivered record.
func endOf(l *tail) hub.Position {
	records := l.mark()
	last := records[len(records)-1]
	return hub.Position{Epoch: l.epoch, Seq: last.Seq, Tag: hub.TagOf(last.Data)}
}

// storeTwo opens a store for a hub without a history, stores two records and closes
// it. It returns the end of the hub's history.
func storeTwo(t *testing.T, open func(*testing.T) hub.Store, name string) hub.Position {
	t.Helper()
	l := start(t, open, roomy)
	last := name + " again" // no other history has the same record there
	stored := publish(t, l, entry(name, ""), entry(last, ""))
	l.upTo(stored[1].Position.Seq)
	l.stop()
	return hub.Position{Epoch: l.epoch, Seq: stored[1].Position.Seq, Tag: hub.TagOf([]byte(last))}
}

func continues(t *testing.T, kind Kind) {
	open, _ := kind.Faulty(t)
	end := storeTwo(t, open, "one")
	l := startFrom(t, open, end)
	s := publish(t, l, entry("next", ""))[0]
	if s.Position.Epoch != end.Epoch || s.Position.Seq != end.Seq+1 {
		t.Errorf("position after %v: got %v, want the next one of the same epoch", end, s.Position)
	}
	if n := len(l.upTo(end.Seq + 1)); n != 1 {
		t.Errorf("delivered records: got %d, want only the one that the hub did not have", n)
	}
}

// endsBefore opens an older copy of the store, which ends before the hub's history.
func endsBefore(t *testing.T, kind Kind) {
	open, faults := kind.Faulty(t)
	storeTwo(t, open, "one")
	restore := faults.Snapshot()
	end := storeTwo(t, open, "two")
	restore()
	mustStartEpoch(t, open, end)
}

// otherRecord opens a copy that has another record than the hub at the same position.
func otherRecord(t *testing.T, kind Kind) {
	open, faults := kind.Faulty(t)
	storeTwo(t, open, "one")
	restore := faults.Snapshot()
	end := storeTwo(t, open, "two")
	restore()
	if other := storeTwo(t, open, "three"); other.Epoch != end.Epoch {
		return // the store noticed the change without the hub
	}
	mustStartEpoch(t, open, end)
}

// mustStartEpoch opens a store that lacks the end of a hub's history.
func mustStartEpoch(t *testing.T, open func(*testing.T) hub.Store, end hub.Position) {
	t.Helper()
	l := startFrom(t, open, end)
	s := publish(t, l, entry("next", ""))[0]
	l.upTo(s.Position.Seq)
	if s.Position.Epoch == end.Epoch || l.epoch == end.Epoch {
		t.Errorf("position in a store without the hub's %v: got %v, want one of a new epoch", end, s.Position)
	}
	if n := count(l.mark(), "next"); n != 1 {
		t.Errorf("deliveries of the next event: got %d, want 1", n)
	}
	l.stop()

	again := start(t, open, roomy)
	if end := endOf(again); end.Epoch != s.Position.Epoch {
		t.Errorf("epoch of a later process: got %s, want %s", end.Epoch, s.Position.Epoch)
	}
}

func lostAnswer(t *testing.T, kind Kind) {
	open, faults := kind.Faulty(t)
	if faults.LoseAnswers == nil {
		return
	}
	l := start(t, open, roomy)
	publish(t, l, entry("before", ""))
	restore := faults.LoseAnswers()
	entries := []hub.Entry{entry("lost", "lost")}
	err := hub.ErrNotStored
	for wait := hub.PublishTimeout / 5; errors.Is(err, hub.ErrNotStored) && wait < timeLimit; wait *= 2 { // a busy machine may send nothing in time
		ctx, cancel := context.WithTimeout(t.Context(), wait)
		_, err = l.Append(ctx, entries)
		cancel()
	}
	if !errors.Is(err, hub.ErrUncertain) {
		t.Errorf("error of Append without an answer: got %v, want ErrUncertain", err)
	}
	restore()
	first := publish(t, l, entries...)[0]
	if again := publish(t, l, entries...)[0]; again.Position != first.Position || !again.Duplicate {
		t.Errorf("repeated Append: got %+v, want a duplicate at %v", again, first.Position)
	}
	if n := count(l.mark(), "lost"); n != 1 {
		t.Errorf("deliveries of the event: got %d, want 1", n)
	}
}
