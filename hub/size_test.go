package hub

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// measureVariable is set in the environment of the process that measures.
const measureVariable = "MEASURE_THE_HEAP"

// TestPromise12HistorySizeIsTheHeap: the history takes about MaxBytes of the heap, for any shape
// of events.
func TestPromise12HistorySizeIsTheHeap(t *testing.T) {
	if os.Getenv(measureVariable) == "" {
		// The measurement needs its own process, because other tests leave garbage for seconds.
		cmd := exec.Command(os.Args[0], "-test.run=^TestPromise12HistorySizeIsTheHeap$", "-test.v")
		cmd.Env = append(os.Environ(), measureVariable+"=1")
		out, err := cmd.CombinedOutput()
		if t.Logf("%s", out); err != nil {
			t.Error(err)
		}
		return
	}
	const size = 32 << 20
	long := strings.Repeat("n", 500)
	lines := []byte(strings.Repeat("a line\r\n", 100))
	for _, shape := range []struct {
		name     string
		patterns []string
		events   int // about three times what fits
		event    func(i int) Event
	}{
		{"tiny events to one topic", nil, 600_000, func(int) Event {
			return Event{Data: []byte("x"), Targets: []Target{topic("t")}}
		}},
		{"tiny events to distinct users", nil, 300_000, func(i int) Event {
			return Event{Data: []byte("x"), Targets: []Target{user(fmt.Sprint("user-", i))}}
		}},
		{"tiny events to distinct topics with two patterns", []string{"a/*", "*/b/*"}, 300_000, func(i int) Event {
			return Event{Data: []byte("x"), Targets: []Target{topic(fmt.Sprint("a/", i%3, "/", i))}}
		}},
		{"1 KB events to one topic", nil, 80_000, func(int) Event {
			return Event{Data: []byte(strings.Repeat("x", 1000)), Targets: []Target{topic("t")}}
		}},
		{"1,000 targets an event", nil, 400, func(i int) Event {
			e := Event{Data: []byte("x")}
			for n := range MaxTargets {
				e.Targets = append(e.Targets, user(fmt.Sprint("user-", i, "-", n)))
			}
			return e
		}},
		{"long names", nil, 100_000, func(i int) Event {
			return Event{Data: []byte("x"), Targets: []Target{user(fmt.Sprint(long, i))}}
		}},
		{"multi-line text with CR LF", nil, 80_000, func(int) Event {
			return Event{Data: lines, Targets: []Target{topic("t")}}
		}},
		{"traced events", nil, 180_000, func(int) Event {
			return Event{Data: []byte("x"), Trace: someTrace, Targets: []Target{topic("traced")}}
		}},
	} {
		t.Run(shape.name, func(t *testing.T) {
			h := newHub(t, Options{MaxEvents: 10_000_000, MaxBytes: size})
			for _, p := range shape.patterns {
				h.learnShape(p)
			}
			if shape.event(0).Trace != "" {
				h.ReportDeliveries(func(Delivery) {})
				connect(t, h, requestOf("alice", "traced"))
			}
			before := liveHeap()
			now := time.Now()
			records := make([]Record, 0, 100)
			for i := range shape.events {
				e := shape.event(i)
				e.At = now
				records = append(records, Record{uint64(i + 1), now, encodeEvent(&e)})
				if len(records) == cap(records) || i == shape.events-1 {
					feed{h}.Deliver(records)
					records = records[:0]
					h.traces.finishAll()
					h.traces.ending.Wait()
				}
			}
			clear(records[:cap(records)])
			took, counted := liveHeap()-before, h.Stats().EventBytes
			t.Logf("%d events, %d lanes: %.1f MiB of heap, %.1f MiB counted: %.2f", h.Stats().Events, len(h.history.lanes),
				float64(took)/(1<<20), float64(counted)/(1<<20), float64(took)/float64(counted))
			if counted > size {
				t.Errorf("counted bytes: got %d, want at most %d", counted, size)
			}
			if counted < size*9/10 {
				t.Errorf("counted bytes: got %d, want at least %d (the history is not full)", counted, size*9/10)
			}
			if ratio := float64(took) / size; ratio < 0.85 || ratio > 1.15 {
				t.Errorf("heap divided by MaxBytes: got %.2f, want 0.85 to 1.15", ratio)
			}
			checkBytes(t, h.history)
			runtime.KeepAlive(h)
		})
	}
}

// liveHeap collects garbage until the heap stops shrinking, and returns its size. Objects in pools
// or with finalizers need several rounds.
func liveHeap() int64 {
	var m runtime.MemStats
	for last := ^uint64(0); ; last = m.HeapAlloc {
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		if m.HeapAlloc+64<<10 >= last {
			return int64(m.HeapAlloc)
		}
	}
}

// checkBytes counts the bytes of a history again, and compares its lanes with its entries.
func checkBytes(t testing.TB, h *history) {
	t.Helper()
	sum := evictedBytes*int64(len(h.recentEvicted)+len(h.olderEvicted)) + slotBytes*int64(len(h.slots))
	places := 0
	for seq := h.oldest; seq <= h.head; seq++ {
		e := h.entry(seq)
		sum += e.cost
		places += len(e.lanes)
		for _, l := range e.lanes {
			if _, found := slices.BinarySearch(l.seqs, seq); !found {
				t.Fatalf("lane of %v: got no seq %d, want it", l.target, seq)
			}
		}
	}
	for _, l := range h.lanes {
		places -= len(l.seqs)
		if len(l.seqs) > 0 {
			sum += l.bytes()
		}
	}
	if places != 0 {
		t.Errorf("entries in the lanes: got %d more than in the events, want the same (negative: fewer)", -places)
	}
	if h.bytes != sum {
		t.Errorf("bytes of the history: got %d, want the sum of its parts, %d", h.bytes, sum)
	}
}
