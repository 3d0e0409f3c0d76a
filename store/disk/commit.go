package disk

import (
	"context"
	"encoding/binary"
	"fmt"
	"runtime"
	"time"

	"go.etcd.io/bbolt"

	"github.com/ea766355/caddy-sse/hub"
)

// maxCommit is how many bytes one commit may have, if it has more than one request.
const maxCommit = 8 << 20

// group is what one commit stores.
type group struct {
	requests []*request
	keys     map[hub.KeySum]uint64 // of its records
	records  []hub.Record
	values   [][]byte
	first    uint64 // seq; that of the next commit, if it has no records
}

// Tail implements hub.Store. It is also the goroutine that commits.
func (s *Store) Tail(ctx context.Context, feed hub.Feed) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		case <-timer.C:
			s.tidy(feed)
		}
		if s.recovered(ctx, feed) {
			for g := s.take(); g != nil && s.commit(g, feed); g = s.take() {
			}
		}
		if s.failed.IsZero() {
			timer.Reset(idleAfter)
		} else {
			timer.Reset(s.retry)
		}
	}
}

// gather lets publishers that were just answered come back, as long as they do.
// It only yields, and so is no delay where there is nobody.
func (s *Store) gather() {
	for before, n := 0, -1; n != before; {
		runtime.Gosched()
		s.mu.Lock()
		before, n = n, len(s.queue)
		s.mu.Unlock()
	}
}

// take makes a group of the requests that wait, or returns nil.
func (s *Store) take() *group {
	s.gather()
	now := time.Now()
	s.file.keys.Expire(now)
	s.mu.Lock()
	defer s.mu.Unlock()
	size, entries, n := 0, 0, 0
	for n < len(s.queue) && (n == 0 || size+s.queue[n].size <= maxCommit) {
		size += s.queue[n].size
		entries += len(s.queue[n].entries)
		n++
	}
	if n == 0 {
		return nil
	}
	g := &group{
		requests: s.queue[:n:n],
		keys:     make(map[hub.KeySum]uint64, entries),
		records:  make([]hub.Record, 0, entries),
		values:   make([][]byte, 0, entries),
		first:    s.file.span.next,
	}
	s.queue = append(make([]*request, 0, len(s.queue)), s.queue[n:]...)
	for _, r := range g.requests {
		r.state = taken
		s.place(g, r, now)
	}
	s.flying = g
	return g
}

// place gives the entries of a request their positions, unless they have one.
func (s *Store) place(g *group, r *request, now time.Time) {
	r.stored = make([]hub.Stored, len(r.entries))
	for i, e := range r.entries {
		sum := r.sums[i]
		seq, known := g.keys[sum]
		if !known {
			seq, known = s.file.keys.Find(sum, now)
		}
		if !known {
			seq = g.first + uint64(len(g.records))
			g.keys[sum] = seq
			key := encodeSeq(seq)
			g.records = append(g.records, hub.Record{Seq: seq, At: now, Data: e.Data})
			binary.BigEndian.PutUint64(r.values[i], uint64(now.UnixNano()))
			g.values = append(g.values, seal(r.values[i], key[:]))
		}
		r.stored[i] = hub.Stored{Position: hub.Position{Epoch: s.file.epoch, Seq: seq}, Duplicate: known}
	}
}

// commit stores the group and answers it. It reports whether the file can be
// used on.
func (s *Store) commit(g *group, feed hub.Feed) bool {
	var err error
	if len(g.records) > 0 {
		if err = s.write(g, false, feed); err != nil {
			s.fail(g, err, feed)
			return false
		}
	}
	s.finish(g, feed)
	return true
}

// finish makes a group that was stored a part of the history.
func (s *Store) finish(g *group, feed hub.Feed) {
	now := time.Now()
	for i := range g.records {
		g.records[i].At = now // the commit may have taken long, and age counts from its end
	}
	feed.Deliver(g.records)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flying = nil
	for _, r := range g.requests {
		for i, sum := range r.sums {
			// Nobody asks for a key that was made here, but who was left without
			// an answer.
			if !r.stored[i].Duplicate && (r.keyed[i] || r.state == abandoned) {
				s.file.keys.Add(sum, r.stored[i].Position.Seq, now)
			}
		}
		r.answer(nil)
	}
}

// answer ends a request. Store.mu is held.
func (r *request) answer(err error) {
	if r.state == abandoned {
		return
	}
	if r.state, r.err = answered, err; err != nil {
		r.stored = nil
	}
	close(r.done)
}

// write commits the records of the group. What is not retained it drops when there
// is enough of it, or what there is if nobody publishes.
func (s *Store) write(g *group, idle bool, feed hub.Feed) error {
	after := s.file.span
	after.next += uint64(len(g.records))
	err := s.watch(feed, func() error {
		return s.file.update(func(tx *bbolt.Tx) error {
			events := tx.Bucket(bucketEvents)
			events.FillPercent = 1 // they come in order
			for i, r := range g.records {
				key := encodeSeq(r.Seq)
				if err := events.Put(key[:], g.values[i]); err != nil {
					return err
				}
			}
			if idle || s.surplus() >= minDrop {
				if err := s.drop(tx, &after); err != nil {
					return err
				}
			}
			if idle && after == s.file.span {
				return errNoChange
			}
			state := tx.Bucket(bucketState)
			if len(g.records) > 0 {
				if err := state.Put(keyStamp, s.stamp(g, after.next).encode()); err != nil {
					return err
				}
			}
			return state.Put(keySpan, after.encode())
		})
	})
	if err == nil {
		s.file.span = after
	}
	return err
}

// slowAfter is how long a commit may take before the status says so.
const slowAfter = 3 * time.Second

// watch runs a commit, and has the status tell when that takes long.
func (s *Store) watch(feed hub.Feed, commit func() error) error {
	told := make(chan struct{})
	timer := time.AfterFunc(s.slow, func() {
		defer close(told)
		feed.Status(fmt.Errorf("%s: a write has taken more than %v", s.path, s.slow), 0)
	})
	err := commit()
	if !timer.Stop() {
		<-told // nothing else calls feed meanwhile
		if err == nil {
			feed.Status(nil, 0)
		}
	}
	return err
}
