package hub

import (
	"strings"
	"sync"
	"testing"
	"time"
)

// A large batch does not block other publishers until it is stored. Their events are stored
// between events of the batch. On a busy machine all of a batch may be stored before another publisher
// gets a CPU, so the test tries again.
func TestBatchYieldsToOtherPublishers(t *testing.T) {
	h := newHub(t, Options{MaxEvents: 100_000})
	batch := make([]Event, 1000)
	for i := range batch {
		batch[i] = Event{Data: []byte(strings.Repeat("x", appendBytesAtOnce)), Targets: []Target{{}}}
	}
	for until := time.Now().Add(time.Minute); !hasOtherWithin(t, h, batch); {
		if time.Now().After(until) {
			t.Fatal("events stored between events of a batch: got none in a minute, want some")
		}
	}
}

// hasOtherWithin publishes the batch, and others until that is done. It reports whether one of the
// others was stored between events of the batch.
func hasOtherWithin(t *testing.T, h *Hub, batch []Event) bool {
	began, done := make(chan struct{}), make(chan struct{})
	var first, last uint64
	var publishing sync.WaitGroup
	publishing.Go(func() {
		defer close(done)
		close(began)
		receipts, err := h.Publish(t.Context(), batch...)
		if err != nil {
			t.Error(err)
			return
		}
		first, last = receipts[0].Position.Seq, receipts[len(receipts)-1].Position.Seq
	})
	<-began
	var others []uint64
	for {
		others = append(others, publish(t, h, "other").Position.Seq)
		select {
		case <-done:
			publishing.Wait()
			between := 0
			for _, seq := range others {
				if seq > first && seq < last {
					between++
				}
			}
			t.Logf("%d of %d other events were stored between events of the batch", between, len(others))
			return between > 0
		default:
		}
	}
}
