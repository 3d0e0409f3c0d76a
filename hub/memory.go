package hub

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// Memory is a store that keeps nothing: the history alone holds the events, and
// each Memory is a new epoch. Its methods may be called from any goroutine.
type Memory struct {
	epoch  string
	tailed chan struct{} // closed when feed is set

	mu   sync.Mutex // held while an event is appended and delivered
	feed Feed       // nil after Close
	seq  uint64
	keys Keys
}

// NewMemory returns an empty store.
func NewMemory() *Memory {
	return &Memory{epoch: NewEpoch(), tailed: make(chan struct{})}
}

// Append implements Store.
func (m *Memory) Append(ctx context.Context, entries []Entry) ([]Stored, error) {
	select {
	case <-m.tailed:
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", ErrNotStored, ctx.Err())
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.feed == nil {
		return nil, fmt.Errorf("%w: the store is closed", ErrNotStored)
	}
	now := time.Now()
	m.keys.Expire(now)
	stored := make([]Stored, len(entries))
	records := make([]Record, 0, len(entries))
	for i, e := range entries {
		key := SumKey(e.Key)
		seq, known := m.keys.Find(key, now)
		if !known {
			m.seq++
			seq = m.seq
			m.keys.Add(key, seq, now)
			records = append(records, Record{seq, now, e.Data})
		}
		stored[i] = Stored{Position{Epoch: m.epoch, Seq: seq}, known}
	}
	m.feed.Deliver(records)
	return stored, nil
}

// Tail implements Store.
func (m *Memory) Tail(ctx context.Context, feed Feed) {
	m.mu.Lock()
	m.feed = feed
	feed.Begin(m.epoch, 1)
	feed.Status(nil, 0)
	m.mu.Unlock()
	close(m.tailed)
	<-ctx.Done()
}

// Retain implements Store.
func (*Memory) Retain(Options, uint64) {}

// Shared implements Store.
func (*Memory) Shared() bool { return false }

// Close implements Store.
func (m *Memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.feed = nil // or what is appended later would get into another store's history
	return nil
}
