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

// maxCommit is the size in bytes up to which requests share a commit. A larger
// request gets a commit of its own.
const maxCommit = 8 << 20

// group is the requests of one commit.
type group struct {
	requests []*request
	keys     map[hub.KeySum]uint64 // seqs of its records
	records  []hub.Record
	values   [][]byte
	first    uint64 // seq of the first record, or of the next one if there is none
}

// Tail implements hub.Store. It also commits what Append queues.
func (s *Store) Tail(ctx context.Context, feed hub.Feed) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		case <-timer.C:
			s.dropWhileIdle(ctx, feed)
		}
		if s.ensureUsable(ctx, feed) {
			for g := s.takeGroup(); g != nil && s.commit(g, feed); g = s.takeGroup() {
			}
		}
		if s.failed.IsZero() {
			timer.Reset(idleAfter)
		} else {
			timer.Reset(s.retryWait())
		}
	}
}

// yieldToPublishers yields the processor until the queue stops growing, so that
// publishers that were just answered can join the next commit. Without publishers it
// costs no time.
func (s *Store) yieldToPublishers() {
	for before, n := 0, -1; n != before; {
		runtime.Gosched()
		s.mu.Lock()
		before, n = n, len(s.queue)
		s.mu.Unlock()
	}
}

// takeGroup returns a group of the queued requests, or nil if there is none.
func (s *Store) takeGroup() *group {
	s.yieldToPublishers()
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
		s.assignSeqs(g, r, now)
	}
	s.inFlight = g
	return g
}

// assignSeqs gives each new entry of the request a seq and adds it to the group. A
// duplicate gets the seq of the first entry with its key.
func (s *Store) assignSeqs(g *group, r *request, now time.Time) {
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

// commit stores the group and answers its requests. It reports whether the file can
// still be used.
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

// finish delivers a stored group to the feed and answers its requests.
func (s *Store) finish(g *group, feed hub.Feed) {
	now := time.Now()
	for i := range g.records {
		g.records[i].At = now // the age counts from the end of the commit, which may take long
	}
	feed.Deliver(g.records)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inFlight = nil
	for _, r := range g.requests {
		for i, sum := range r.sums {
			// Only a publisher without an answer can come back with a generated key.
			if !r.stored[i].Duplicate && (r.hasKey[i] || r.state == abandoned) {
				s.file.keys.Add(sum, r.stored[i].Position.Seq, now)
			}
		}
		r.answer(nil)
	}
}

// answer ends a request, unless it was abandoned. Store.mu is held.
func (r *request) answer(err error) {
	if r.state == abandoned {
		return
	}
	if r.state, r.err = answered, err; err != nil {
		r.stored = nil
	}
	close(r.done)
}

// write commits the records of the group. In the same transaction it drops events
// that the hub no longer retains: if isWorthDropping, or any number if idle. It drops none
// before the feed has the history of this file, because Retain may have been called for
// another history.
func (s *Store) write(g *group, idle bool, feed hub.Feed) error {
	after := s.file.span
	after.next += uint64(len(g.records))
	err := s.watchCommit(feed, func() error {
		return s.file.update(func(tx *bbolt.Tx) error {
			events := tx.Bucket(bucketEvents)
			events.FillPercent = 1 // they come in order
			for i, r := range g.records {
				key := encodeSeq(r.Seq)
				if err := events.Put(key[:], g.values[i]); err != nil {
					return err
				}
			}
			if idle || s.loaded && s.isWorthDropping() {
				if err := s.drop(tx, &after, len(g.records)); err != nil {
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

// slowAfter is how long a commit may take before the feed's status reports it.
const slowAfter = 3 * time.Second

// watchCommit runs a commit. It reports one that takes longer than the setting slow.
func (s *Store) watchCommit(feed hub.Feed, commit func() error) error {
	reported := make(chan struct{})
	timer := time.AfterFunc(s.slow, func() {
		defer close(reported)
		feed.Status(fmt.Errorf("%s: a write takes longer than %v: check the disk", s.path, s.slow), 0)
	})
	err := commit()
	if !timer.Stop() {
		<-reported                  // only one goroutine at a time may call feed
		if err == nil && s.loaded { // otherwise the history would open before the feed has it
			feed.Status(nil, 0)
		}
	}
	return err
}
