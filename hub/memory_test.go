package hub

import (
	"strings"
	"sync"
	"testing"
)

// A large batch does not keep other publishers waiting until all of it is in: what
// they publish meanwhile is stored in its midst.
func TestBatchYieldsToOtherPublishers(t *testing.T) {
	h := newHub(t, Options{MaxEvents: 100_000})
	batch := make([]Event, 1000)
	for i := range batch {
		batch[i] = Event{Data: []byte(strings.Repeat("x", appendBytesAtOnce)), Targets: []Target{{}}}
	}
	began, over := make(chan struct{}), make(chan struct{})
	var first, last uint64
	var publishing sync.WaitGroup
	publishing.Go(func() {
		defer close(over)
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
		case <-over:
			publishing.Wait()
			amid := 0
			for _, seq := range others {
				if seq > first && seq < last {
					amid++
				}
			}
			t.Logf("%d of %d others are in the midst of the batch", amid, len(others))
			if amid == 0 {
				t.Error("no other event was stored before the whole batch was")
			}
			return
		default:
		}
	}
}
