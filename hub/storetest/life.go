package storetest

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/ea766355/caddy-sse/hub"
)

func keyReopened(t *testing.T, kind Kind) {
	open := kind.New(t)
	l := start(t, open, roomy)
	first := publish(t, l, entry("a", "k1"), entry("b", "k2"))
	l.stop()
	l = start(t, open, roomy)
	for i, key := range []string{"k1", "k2"} {
		if s := publish(t, l, entry("again", key))[0]; s.Position != first[i].Position || !s.Duplicate {
			t.Errorf("key %s in a later process: got %+v, want a duplicate at %v", key, s, first[i].Position)
		}
	}
	if n := count(l.mark(), "again"); n != 0 {
		t.Errorf("entries that were stored again: got %d, want 0", n)
	}
}

// keyOutlivesEvent stores many events, so that the first one is dropped.
func keyOutlivesEvent(t *testing.T, kind Kind) {
	small := roomy
	small.MaxEvents = 10
	open := kind.New(t)
	l := start(t, open, small)
	first := publish(t, l, entry("first", "first"))[0]
	fill(t, l, 5_000)
	l.stop()
	for range 2 {
		l = start(t, open, small)
		if s := publish(t, l, entry("again", "first"))[0]; s.Position != first.Position || !s.Duplicate {
			t.Errorf("key of a dropped event: got %+v, want a duplicate at %v", s, first.Position)
		}
		l.stop()
	}
}

// fill stores n records and waits until they are delivered.
func fill(t *testing.T, l *tail, n int) {
	t.Helper()
	fillWith(t, l, n, 0)
}

// fillWith is like fill, with records of at least size bytes.
func fillWith(t *testing.T, l *tail, n, size int) {
	t.Helper()
	batch := make([]hub.Entry, 100)
	padding := strings.Repeat(" ", size)
	for i := 0; i < n; i += len(batch) {
		for j := range batch {
			batch[j] = entry(number("fill ", i+j)+padding, "")
		}
		stored := publish(t, l, batch...)
		l.upTo(stored[len(stored)-1].Position.Seq)
	}
}

func wholeHistory(t *testing.T, kind Kind) {
	const n = 2_500
	open := kind.New(t)
	l := start(t, open, roomy)
	fill(t, l, n)
	before := l.mark()
	l.stop()

	l = start(t, open, roomy)
	answers := make(chan hub.Stored, 20)
	go func() {
		defer close(answers)
		for i := range 20 {
			if stored, err := l.Append(t.Context(), []hub.Entry{entry(number("new ", i), "")}); err == nil {
				answers <- stored[0]
			}
		}
	}()
	l.open()
	if head := before[len(before)-1].Seq; l.atOpen < head {
		t.Errorf("head when the history was open: got %d, want at least %d", l.atOpen, head)
	}
	var last uint64
	answered := 0
	for s := range answers {
		last = s.Position.Seq
		answered++
	}
	if answered != 20 {
		t.Fatalf("events stored meanwhile: got %d, want 20", answered)
	}
	after := l.upTo(last)
	if after[0].Seq != before[0].Seq || l.oldest != before[0].Seq {
		t.Errorf("beginning of the history and first event: got %d and %d, want %d", l.oldest, after[0].Seq, before[0].Seq)
	}
	for i, r := range before {
		if after[i].Seq != r.Seq || string(after[i].Data) != string(r.Data) {
			t.Fatalf("record after reopening: got %d %s, want %d %s", after[i].Seq, after[i].Data, r.Seq, r.Data)
		}
	}
}

func epoch(t *testing.T, kind Kind) {
	open := kind.New(t)
	l := start(t, open, roomy)
	first := publish(t, l, entry("a", ""))[0].Position
	l.upTo(first.Seq)
	if l.epoch != first.Epoch {
		t.Errorf("epoch of Begin: got %s, want that of Append, %s", l.epoch, first.Epoch)
	}
	l.stop()
	l = start(t, open, roomy)
	second := publish(t, l, entry("b", ""))[0].Position
	if kind.Durable && (second.Epoch != first.Epoch || second.Seq != first.Seq+1) {
		t.Errorf("position of a later process after %v: got %v, want the next one of the same epoch", first, second)
	}
	if !kind.Durable && second.Epoch == first.Epoch {
		t.Errorf("epoch of a second history: got %s again, want another one", first.Epoch)
	}
	l.stop()
	l = start(t, kind.New(t), roomy)
	if other := publish(t, l, entry("c", ""))[0].Position; other.Epoch == first.Epoch {
		t.Errorf("epoch of another history: got %s again, want another one", first.Epoch)
	}
}

func retention(t *testing.T, kind Kind) {
	// The records exceed each of the bounds, since a store may apply only one of them.
	const keep, n, size = 50, 6_000, 4 << 10
	small := roomy
	small.MaxEvents, small.MaxBytes = keep, 2*keep*size
	open := kind.New(t)
	l := start(t, open, small)
	fillWith(t, l, n, size)
	records := l.mark()
	head := records[len(records)-1].Seq
	l.stop()

	// Open it with bounds that allow all events: only the dropped ones are missing.
	l = start(t, open, roomy)
	l.open()
	l.stop()
	if l.head != head {
		t.Errorf("head: got %d, want %d", l.head, head)
	}
	if l.oldest > head-keep+1 {
		t.Errorf("oldest record: got %d, want at most %d, which was retained", l.oldest, head-keep+1)
	}
	if len(l.records) >= n {
		t.Errorf("stored records: got %d of %d, want less, because only %d must be kept", len(l.records), n, keep)
	}

	// The bounds at the start also apply to the delivered events.
	small.MaxEvents = 10
	l = start(t, open, small)
	l.open()
	if len(l.records) != 10 {
		t.Errorf("delivered events: got %d, want 10", len(l.records))
	}
	if l.mark(); l.head != head+1 {
		t.Errorf("seq of the next event: got %d, want %d", l.head, head+1)
	}
}

func retainAge(t *testing.T, kind Kind) {
	aged := roomy
	aged.MaxAge = time.Hour
	open := kind.New(t)
	l := start(t, open, aged)
	publish(t, l, entry("old", ""))
	sleep(40 * time.Minute)
	young := publish(t, l, entry("young", ""))[0].Position.Seq
	l.stop()
	sleep(40 * time.Minute)

	l = start(t, open, aged)
	records := l.upTo(young)
	if len(records) != 1 || l.oldest != young {
		t.Errorf("oldest and number of delivered events: got %d and %d, want %d and 1", l.oldest, len(records), young)
	}
	sleep(2 * time.Hour)
	l.stop()

	// With bounds that allow these events, they are gone from the disk.
	l = start(t, open, roomy)
	l.open()
	if len(l.records) != 0 || l.oldest != young+1 {
		t.Errorf("oldest and number of delivered events: got %d and %d, want %d and 0", l.oldest, len(l.records), young+1)
	}
	l.stop()
}

func closing(t *testing.T, kind Kind) {
	open := kind.New(t)
	l := start(t, open, roomy)
	l.open()
	time.AfterFunc(5*time.Millisecond, l.stop)
	want := outcomes(t, l, func() (context.Context, context.CancelFunc) {
		return context.WithTimeout(t.Context(), timeLimit)
	})
	l.stop()
	records := l.records
	if kind.Durable {
		l = start(t, open, roomy)
		records = l.mark()
	}
	want.check(t, records)
}

func closed(t *testing.T, kind Kind) {
	l := start(t, kind.New(t), roomy)
	publish(t, l, entry("a", "k"))
	l.stop()
	fed := len(l.records)
	for _, key := range []string{"", "k2"} {
		if _, err := l.Append(t.Context(), []hub.Entry{entry("b", key)}); !errors.Is(err, hub.ErrNotStored) {
			t.Errorf("error of Append after Close: got %v, want ErrNotStored", err)
		}
	}
	l.Retain(roomy, 1)
	if len(l.records) != fed {
		t.Errorf("records after Tail had returned: got %d, want %d", len(l.records), fed)
	}
}

// shared runs two nodes with one history.
func shared(t *testing.T, kind Kind) {
	open := kind.New(t)
	a := start(t, open, roomy)
	if !a.Shared() {
		return
	}
	b := start(t, open, roomy)
	b.open()
	first := publish(t, a, entry("of a", "k"))[0]
	second := publish(t, b, entry("of b", ""))[0]
	if second.Position.Epoch != first.Position.Epoch || second.Position.Seq != first.Position.Seq+1 {
		t.Errorf("position of the other node after %v: got %v, want the next one of the same epoch", first.Position, second.Position)
	}
	if s := publish(t, b, entry("again", "k"))[0]; s.Position != first.Position || !s.Duplicate {
		t.Errorf("the key on the other node: got %+v, want a duplicate at %v", s, first.Position)
	}
	for _, l := range []*tail{a, b} {
		got := texts(l.upTo(second.Position.Seq))
		if got["of a"] != 1 || got["of b"] != 1 || got["again"] != 0 {
			t.Errorf("deliveries of a node: got %v, want the events of both nodes once", got)
		}
	}
}
