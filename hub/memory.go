package hub

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/ea766355/caddy-sse/internal/netyield"
)

// Memory is a [Store] that keeps nothing: only the history has the events. Each Memory
// has a new epoch. Any goroutine may call its methods.
type Memory struct {
	epoch  string
	tailed chan struct{} // closed when feed is set

	appending sync.RWMutex // held for reading while a batch is appended; locked before mu

	mu   sync.Mutex // held while a part of a batch is appended and delivered
	feed Feed       // nil after Close
	seq  uint64
	keys Keys
}

// NewMemory returns an empty store, for one call of [Hub.Use].
func NewMemory() *Memory {
	return &Memory{epoch: NewEpoch(), tailed: make(chan struct{})}
}

// Append implements [Store]. It delivers the records to the feed itself, on the goroutine
// of the caller, in slices: other publishers get their turn in between. So a batch may be
// interleaved with others. Any goroutine may call it.
func (m *Memory) Append(ctx context.Context, entries []Entry) ([]Stored, error) {
	if err := m.awaitTail(ctx); err != nil {
		return nil, err
	}
	m.appending.RLock()
	defer m.appending.RUnlock()
	stored := make([]Stored, 0, len(entries))
	var yielder netyield.Yielder
	yielder.Begin()
	for len(stored) < len(entries) {
		var err error
		if stored, err = m.appendSome(stored, entries[len(stored):]); err != nil {
			return nil, err
		}
		if len(stored) < len(entries) && !yielder.Step() {
			runtime.Gosched() // other publishers wait for their turn
		}
	}
	return stored, nil
}

// awaitTail waits until feed is set, or ctx ends. Its error wraps [ErrNotStored].
func (m *Memory) awaitTail(ctx context.Context) error {
	select {
	case <-m.tailed:
		return nil // almost always: then ctx need not make a channel
	default:
	}
	select {
	case <-m.tailed:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrNotStored, ctx.Err())
	}
}

// appendBytesAtOnce is about how many bytes are appended while Memory.mu is held once.
const appendBytesAtOnce = 4 << 10

// appendSome appends the first entries, and their answers to stored, which it returns. The
// caller calls it again with the others. It fails only before the first entry of a batch,
// because Close waits for a batch that has begun. The caller holds m.appending for reading,
// and must not hold m.mu.
func (m *Memory) appendSome(stored []Stored, entries []Entry) ([]Stored, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.feed == nil {
		return nil, fmt.Errorf("%w: the store is closed", ErrNotStored)
	}
	now := time.Now()
	m.keys.Expire(now)
	var records []Record
	size := 0
	for _, e := range entries {
		if size >= appendBytesAtOnce {
			break
		}
		key := SumKey(e.Key)
		seq, known := m.keys.Find(key, now)
		if !known {
			m.seq++
			seq = m.seq
			m.keys.Add(key, seq, now)
			records = append(records, Record{seq, now, e.Data})
			size += len(e.Data)
		}
		stored = append(stored, Stored{Position{Epoch: m.epoch, Seq: seq}, known})
	}
	m.feed.Deliver(records)
	return stored, nil
}

// Tail implements [Store]. It opens the store, and then only waits for ctx: Append
// delivers. The hub calls it, once.
func (m *Memory) Tail(ctx context.Context, feed Feed) {
	m.mu.Lock()
	m.feed = feed
	feed.Begin(m.epoch, 1)
	feed.Status(nil, 0)
	m.mu.Unlock()
	close(m.tailed)
	<-ctx.Done()
}

// Retain implements [Store]. There is nothing to drop.
func (*Memory) Retain(Options, uint64) {}

// Shared implements [Store].
func (*Memory) Shared() bool { return false }

// Close implements [Store]. It waits for batches that have begun. Later ones fail. The hub
// calls it, after Tail has returned.
func (m *Memory) Close() error {
	m.appending.Lock()
	defer m.appending.Unlock()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.feed = nil // otherwise a later Append would reach the history of another store
	return nil
}
