package hub

import (
	"context"
	"slices"
	"sync"
	"time"
)

// copyableStore is a store in memory. A test can make a copy that continues differently.
type copyableStore struct {
	epoch  string
	shared bool
	tailed chan struct{} // closed when feed is set

	mu      sync.Mutex
	records []Record
	feed    Feed
}

func newCopyableStore(epoch string, shared bool, records []Record) *copyableStore {
	return &copyableStore{epoch: epoch, shared: shared, tailed: make(chan struct{}), records: slices.Clone(records)}
}

// add appends a record without delivering it.
func (s *copyableStore) add(data []byte) Record {
	r := Record{uint64(len(s.records) + 1), time.Now(), data}
	s.records = append(s.records, r)
	return r
}

func (s *copyableStore) Append(_ context.Context, entries []Entry) (stored []Stored, err error) {
	<-s.tailed
	s.mu.Lock()
	defer s.mu.Unlock()
	var news []Record
	for _, e := range entries {
		r := s.add(e.Data)
		news = append(news, r)
		stored = append(stored, Stored{Position: Position{Epoch: s.epoch, Seq: r.Seq}})
	}
	s.feed.Deliver(news)
	return stored, nil
}

func (s *copyableStore) Tail(ctx context.Context, feed Feed) {
	s.mu.Lock()
	have := feed.Begin(s.epoch, 1)
	if n := have.Seq; n > uint64(len(s.records)) || n > 0 && TagOf(s.records[n-1].Data) != have.Tag {
		s.epoch = NewEpoch()
		have = feed.Begin(s.epoch, 1)
	}
	feed.Deliver(s.records[have.Seq:])
	feed.Status(nil, 0)
	s.feed = feed
	s.mu.Unlock()
	close(s.tailed)
	<-ctx.Done()
}

func (*copyableStore) Retain(Options, uint64) {}
func (s *copyableStore) Shared() bool         { return s.shared }
func (*copyableStore) Close() error           { return nil }
