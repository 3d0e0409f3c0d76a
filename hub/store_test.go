package hub

import (
	"context"
	"sync"
	"testing"
)

// retainer is a store that begins when it is told to.
type retainer struct {
	*Memory
	begin chan struct{}

	mu     sync.Mutex
	oldest []uint64 // as Retain was told
}

func (r *retainer) Tail(ctx context.Context, feed Feed) {
	select {
	case <-r.begin:
		r.Memory.Tail(ctx, feed)
	case <-ctx.Done():
	}
}

func (r *retainer) Retain(_ Options, oldest uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.oldest = append(r.oldest, oldest)
}

// What the hub retains of one store's history is nothing to another store, which
// would drop its own by it.
func TestRetainIsOfTheStoresOwnHistory(t *testing.T) {
	h := newHub(t, Options{MaxEvents: 1})
	for range 100 {
		publish(t, h, "x")
	}
	store := &retainer{Memory: NewMemory(), begin: make(chan struct{})}
	if err := h.Use(store); err != nil {
		t.Fatal(err)
	}
	h.SetOptions(Options{MaxEvents: 2})
	store.mu.Lock()
	for _, oldest := range store.oldest {
		want(t, "before it has begun", oldest, 0)
	}
	store.oldest = nil
	store.mu.Unlock()
	close(store.begin)
	for range 3 {
		publish(t, h, "x")
	}
	store.mu.Lock()
	defer store.mu.Unlock()
	want(t, "at last", store.oldest[len(store.oldest)-1], 2)
}
