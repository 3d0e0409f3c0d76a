package disk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"time"

	"go.etcd.io/bbolt"
	"go.uber.org/zap"

	"github.com/ea766355/caddy-sse/hub"
)

const (
	minDrop   = 1024 // events, so that whole pages become free
	maxDrop   = 4096 // events of one commit
	maxChunks = 16   // of keys, dropped by one commit
	idleAfter = 30 * time.Second
	loadBatch = 1000    // events that are read at once
	loadSize  = 4 << 20 // bytes that are read at once
)

// load feeds the history. What the hub has already it leaves out.
func (s *Store) load(ctx context.Context, feed hub.Feed) error {
	next, err := s.oldestRetained()
	if err != nil {
		return err
	}
	have := feed.Begin(s.file.epoch, next)
	lacks, err := s.file.lacks(have)
	if err != nil {
		return err
	}
	if lacks {
		s.log().Error("the file does not have what the hub has: a new epoch begins, and clients are told of the gap",
			zap.Stringer("hub", have), zap.Uint64("file", s.file.span.next-1))
		if err := s.file.renew(); err != nil {
			return err
		}
		have = feed.Begin(s.file.epoch, next)
	}
	next = max(next, have.Seq+1)
	for {
		records, err := s.file.read(next)
		if err != nil {
			return err
		}
		feed.Deliver(records)
		next += uint64(len(records))
		feed.Status(nil, s.file.span.next-next)
		if next == s.file.span.next {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

// oldestRetained is the oldest seq that is within the bounds of the hub.
func (s *Store) oldestRetained() (uint64, error) {
	s.mu.Lock()
	opts := s.opts
	s.mu.Unlock()
	oldest := s.file.span.oldest
	if n := uint64(opts.MaxEvents); n > 0 && s.file.span.next-oldest > n {
		oldest = s.file.span.next - n
	}
	cutoff := tooOld(opts)
	err := s.file.view(func(tx *bbolt.Tx) error {
		cursor := tx.Bucket(bucketEvents).Cursor()
		start := encodeSeq(oldest)
		for key, value := cursor.Seek(start[:]); key != nil; key, value = cursor.Next() {
			r, _, err := decodeRecord(key, value)
			if err != nil || r.At.After(cutoff) {
				return err
			}
			oldest++
		}
		return nil
	})
	return oldest, err
}

// lacks reports whether the file ends before a position of its epoch, or has
// another record there.
func (f *file) lacks(have hub.Position) (lacks bool, err error) {
	switch {
	case have.Seq >= f.span.next:
		return have.Seq > 0, nil
	case have.Seq < f.span.oldest, have.Tag == hub.Tag{}:
		return false, nil
	}
	err = f.view(func(tx *bbolt.Tx) error {
		key := encodeSeq(have.Seq)
		r, _, err := decodeRecord(key[:], tx.Bucket(bucketEvents).Get(key[:]))
		lacks = hub.TagOf(r.Data) != have.Tag
		return err
	})
	return lacks, err
}

// read reads some records, from one on. One that was stored while the clock was
// ahead is as old as one that is stored now.
func (f *file) read(from uint64) (records []hub.Record, err error) {
	err = f.view(func(tx *bbolt.Tx) error {
		cursor := tx.Bucket(bucketEvents).Cursor()
		start := encodeSeq(from)
		now := time.Now()
		size := 0
		for key, value := cursor.Seek(start[:]); key != nil && len(records) < loadBatch && size < loadSize; key, value = cursor.Next() {
			r, _, err := decodeRecord(key, slices.Clone(value))
			if err != nil {
				return err
			}
			if r.At.After(now) {
				r.At = now
			}
			records = append(records, r)
			size += len(value)
		}
		return nil
	})
	return records, err
}

// tooOld is the time from which on, and before, events are not retained.
func tooOld(opts hub.Options) time.Time {
	if opts.MaxAge <= 0 {
		return time.Time{}
	}
	return time.Now().Add(-opts.MaxAge)
}

// surplus counts the events in the file that the hub does not retain.
func (s *Store) surplus() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return min(max(s.oldest, s.file.span.oldest), s.file.span.next) - s.file.span.oldest
}

// tidy drops everything that is not retained, in transactions of bounded size:
// nobody publishes.
func (s *Store) tidy(feed hub.Feed) {
	for s.loaded && s.failed.IsZero() {
		before, nothing := s.file.span, &group{first: s.file.span.next}
		if err := s.write(nothing, true, feed); err != nil {
			s.fail(nothing, err, feed)
		}
		if s.file.span == before {
			return
		}
	}
}

// drop removes, from the oldest on, events that the hub does not retain or that
// time made too old. Their keys stay as long as they are remembered.
func (s *Store) drop(tx *bbolt.Tx, after *span) error {
	n := s.surplus()
	s.mu.Lock()
	cutoff := tooOld(s.opts)
	s.mu.Unlock()
	cursor, keys := tx.Bucket(bucketEvents).Cursor(), tx.Bucket(bucketKeys)
	first := encodeSeq(after.oldest)
	now := time.Now()
	chunk := make([]byte, 0, min(n, maxDrop)*uint64(chunkEntry)+crc32.Size)
	for i := uint64(0); i < maxDrop && after.oldest < s.file.span.next; i++ {
		seq := encodeSeq(after.oldest)
		key, value := cursor.Seek(seq[:])
		r, sum, err := decodeRecord(seq[:], value)
		if err != nil || !bytes.Equal(key, seq[:]) {
			return errors.Join(err, fmt.Errorf("%w: record %d is missing", errDamaged, after.oldest))
		}
		if i >= n && r.At.After(cutoff) {
			break
		}
		if known, remembered := s.file.keys.Find(sum, now); remembered && known == after.oldest {
			chunk = appendKey(chunk, sum, after.oldest, r.At)
		}
		if err := cursor.Delete(); err != nil {
			return err
		}
		after.oldest++
	}
	if len(chunk) > 0 {
		if err := keys.Put(first[:], seal(chunk, nil)); err != nil {
			return err
		}
	}
	return s.forget(keys, now)
}

// forget removes the oldest chunks of keys of which none is remembered. The
// memory decides that and not the times in them, which may be of another clock.
func (s *Store) forget(keys *bbolt.Bucket, now time.Time) error {
	for range maxChunks {
		key, chunk := keys.Cursor().First()
		if key == nil {
			return nil
		}
		remembered := false
		err := eachKey(chunk, func(sum hub.KeySum, seq uint64, _ time.Time) {
			if !remembered {
				known, found := s.file.keys.Find(sum, now)
				remembered = found && known == seq
			}
		})
		if err != nil || remembered {
			return err
		}
		if err := keys.Delete(key); err != nil {
			return err
		}
	}
	return nil
}
