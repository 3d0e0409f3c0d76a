package storetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ea766355/caddy-sse/hub"
)

func positions(t *testing.T, kind Kind) {
	l := start(t, kind.New(t), roomy)
	var want []string
	next := uint64(0)
	for i := range 20 {
		batch := make([]hub.Entry, 1+i%4)
		for j := range batch {
			want = append(want, fmt.Sprint(i, ".", j))
			batch[j] = entry(want[len(want)-1], "")
		}
		for _, s := range publish(t, l, batch...) {
			if next == 0 {
				next = s.Position.Seq
			}
			if s.Position.Seq != next || s.Duplicate {
				t.Fatalf("Append: got %+v, want seq %d and no duplicate", s, next)
			}
			if s.Position.Epoch == "" {
				t.Fatal("epoch of a position: got none, want one")
			}
			next++
		}
	}
	var got []string
	for _, r := range l.upTo(next - 1) {
		got = append(got, string(r.Data))
	}
	if !slices.Equal(got, want) {
		t.Errorf("delivered records: got %q, want %q", got, want)
	}
}

func roundTrip(t *testing.T, kind Kind) {
	want := []hub.Entry{
		{Data: []byte{0}, Key: "k"},
		{Data: []byte("one\ntwo\r\nthree\x00\xff\xf0\x9f\x90\x9f"), Key: "schlüssel / #1 \x01"},
		{Data: []byte(strings.Repeat("x", 700_000)), Key: strings.Repeat("y", hub.MaxKeyLength)},
	}
	l := start(t, kind.New(t), roomy)
	began := time.Now()
	var head uint64
	for _, e := range want {
		head = publish(t, l, e)[0].Position.Seq
	}
	for i, r := range l.upTo(head) {
		if string(r.Data) != string(want[i].Data) {
			t.Errorf("record %d: got %.300q, want %.300q", i, r.Data, want[i].Data)
		}
		// The clock of the machine that stored the record is known only roughly.
		if r.At.Before(began.Add(-time.Second)) || r.At.After(time.Now().Add(time.Second)) {
			t.Errorf("time of record %d: got %s, want %s or later", i, r.At, began)
		}
	}
}

func appendBeforeTail(t *testing.T, kind Kind) {
	store := kind.New(t)(t)
	store.Retain(roomy, 0)
	answer := make(chan error, 1)
	go func() {
		_, err := store.Append(t.Context(), []hub.Entry{entry("early", "")})
		answer <- err
	}()
	l := follow(t, store, roomy)
	if err := <-answer; err != nil {
		t.Fatal(err)
	}
	if n := count(l.mark(), "early"); n != 1 {
		t.Errorf("deliveries of the event: got %d, want 1", n)
	}
}

func concurrency(t *testing.T, kind Kind) {
	const publishers, rounds = 64, 20
	l := start(t, kind.New(t), roomy)
	var seqs [publishers][]uint64
	var wg sync.WaitGroup
	for p := range publishers {
		wg.Go(func() {
			for i := range rounds {
				batch := []hub.Entry{entry(fmt.Sprint(p, "-", 2*i), ""), entry(fmt.Sprint(p, "-", 2*i+1), fmt.Sprint(p, "/", i))}
				stored, err := l.Append(t.Context(), batch)
				if err != nil {
					t.Errorf("Append: %v", err)
					return
				}
				for _, s := range stored {
					seqs[p] = append(seqs[p], s.Position.Seq)
				}
			}
		})
	}
	wg.Wait()
	at := make(map[uint64]string)
	for _, r := range l.mark() {
		at[r.Seq] = string(r.Data)
	}
	for p := range publishers {
		for i, seq := range seqs[p] {
			if want := fmt.Sprint(p, "-", i); at[seq] != want {
				t.Errorf("record at %d: got %s, want %s, as Append answered", seq, at[seq], want)
			}
		}
		if !slices.IsSorted(seqs[p]) {
			t.Errorf("seqs of publisher %d: got %v, want them in order", p, seqs[p])
		}
	}
	if len(at) != publishers*rounds*2+1 {
		t.Errorf("delivered events: got %d, want %d", len(at), publishers*rounds*2+1)
	}
}

func keys(t *testing.T, kind Kind) {
	l := start(t, kind.New(t), roomy)
	first := publish(t, l, entry("a", "k1"), entry("b", "k2"), entry("a again", "k1"), entry("c", ""))
	second := publish(t, l, entry("d", ""), entry("b again", "k2"), entry("e", "k3"), entry("c", ""))
	want := func(s hub.Stored, seq uint64, duplicate bool) {
		t.Helper()
		if s.Position.Seq != seq || s.Duplicate != duplicate {
			t.Errorf("Append: got %+v, want seq %d, duplicate %v", s, seq, duplicate)
		}
	}
	one := first[0].Position.Seq
	want(first[0], one, false)
	want(first[1], one+1, false)
	want(first[2], one, true)
	want(first[3], one+2, false)
	want(second[0], one+3, false)
	want(second[1], one+1, true)
	want(second[2], one+4, false)
	want(second[3], one+5, false)
	got := texts(l.upTo(one + 5))
	if got["a"] != 1 || got["b"] != 1 || got["a again"]+got["b again"] != 0 || got["c"] != 2 {
		t.Errorf("deliveries by event: got %v, want a and b once, c twice, and no repeated event", got)
	}
}

func keyInFlight(t *testing.T, kind Kind) {
	l := start(t, kind.New(t), roomy)
	for round := range 5 {
		var stored [64]hub.Stored
		var wg sync.WaitGroup
		for i := range stored {
			wg.Go(func() {
				answer, err := l.Append(t.Context(), []hub.Entry{entry("once", number("k", round))})
				if err != nil {
					t.Errorf("Append: %v", err)
					return
				}
				stored[i] = answer[0]
			})
		}
		wg.Wait()
		fresh := 0
		for _, s := range stored {
			if !s.Duplicate {
				fresh++
			}
			if s.Position != stored[0].Position {
				t.Errorf("position of one key: got %v and %v, want one", s.Position, stored[0].Position)
			}
		}
		if fresh != 1 {
			t.Errorf("stored entries of one key: got %d, want 1", fresh)
		}
	}
	if n := count(l.mark(), "once"); n != 5 {
		t.Errorf("delivered events: got %d, want 5", n)
	}
}

func keyExpires(t *testing.T, kind Kind) {
	open := kind.New(t)
	l := start(t, open, roomy)
	first := publish(t, l, entry("a", "k"))[0]
	sleep(hub.KeyLifetime - time.Second)
	if s := publish(t, l, entry("a", "k"))[0]; s.Position != first.Position || !s.Duplicate {
		t.Errorf("the key within its lifetime: got %+v, want a duplicate at %v", s, first.Position)
	}
	sleep(2 * time.Second)
	if s := publish(t, l, entry("b", "k"))[0]; s.Duplicate {
		t.Errorf("the key after its lifetime: got %+v, want no duplicate", s)
	}
	// A store that was opened again may remember a key for longer: the event may have
	// waited for up to PublishTimeout before it was stored.
	if kind.Durable {
		l.stop()
		sleep(hub.KeyLifetime + hub.PublishTimeout + time.Second)
		l = start(t, open, roomy)
		if s := publish(t, l, entry("c", "k"))[0]; s.Duplicate {
			t.Errorf("the key after its lifetime in a later process: got %+v, want no duplicate", s)
		}
	}
	l.stop()
}

// sleep advances the clock of a bubble.
func sleep(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func endedContext(t *testing.T, kind Kind) {
	l := start(t, kind.New(t), roomy)
	l.open()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var failed []int
	for i := range 20 {
		_, err := l.Append(ctx, []hub.Entry{entry(number("late ", i), number("late ", i))})
		switch {
		case errors.Is(err, hub.ErrNotStored):
			failed = append(failed, i)
		case err != nil && !errors.Is(err, hub.ErrUncertain):
			t.Errorf("error of Append: got %v, want ErrNotStored or ErrUncertain", err)
		}
	}
	got := texts(l.mark())
	for _, i := range failed {
		if got[number("late ", i)] > 0 {
			t.Errorf("event %d: got ErrNotStored and a delivery, want no delivery", i)
		}
	}
}

// allOrNone cancels Append at random times, and compares the answers with the history.
func allOrNone(t *testing.T, kind Kind) {
	open := kind.New(t)
	l := start(t, open, roomy)
	l.open()
	want := outcomes(t, l, func() (context.Context, context.CancelFunc) {
		return context.WithTimeout(t.Context(), time.Duration(rand.Int64N(int64(3*time.Millisecond))))
	})
	want.check(t, l.mark())
	if kind.Durable {
		l.stop()
		l = start(t, open, roomy)
		want.check(t, l.mark())
	}
}

// results maps the names of batches to whether they must be in the history.
type results map[string]bool

const batchSize = 3

// outcomes appends batches from 32 goroutines. After an uncertain answer it appends a batch
// again with the same keys.
func outcomes(t *testing.T, store hub.Store, attempt func() (context.Context, context.CancelFunc)) results {
	var mu sync.Mutex
	stored := make(results)
	var wg sync.WaitGroup
	for p := range 32 {
		wg.Go(func() {
			for i := range 20 {
				name := fmt.Sprint(p, ".", i)
				batch := make([]hub.Entry, batchSize)
				for j := range batch {
					batch[j] = entry(name, "")
				}
				ctx, cancel := attempt()
				_, err := store.Append(ctx, batch)
				cancel()
				for errors.Is(err, hub.ErrUncertain) {
					if slices.ContainsFunc(batch, func(e hub.Entry) bool { return e.Key == "" }) {
						t.Error("entries after ErrUncertain: got some without keys, want keys to append them again")
						return
					}
					ctx, cancel := context.WithTimeout(t.Context(), timeLimit)
					_, err = store.Append(ctx, batch)
					cancel()
				}
				if err != nil && !errors.Is(err, hub.ErrNotStored) {
					t.Errorf("error of Append: got %v, want ErrNotStored or ErrUncertain", err)
				}
				mu.Lock()
				stored[name] = err == nil
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return stored
}

func (want results) check(t *testing.T, records []hub.Record) {
	t.Helper()
	got := texts(records)
	for name, stored := range want {
		switch n := got[name]; {
		case stored && n != batchSize:
			t.Errorf("events of the stored batch %s: got %d, want %d", name, n, batchSize)
		case !stored && n != 0:
			t.Errorf("events of batch %s after ErrNotStored: got %d, want 0", name, n)
		}
	}
}
