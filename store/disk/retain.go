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
	minDrop   = 1024    // least events that a busy commit drops, so that whole pages become free; see isWorthDropping
	maxDrop   = 4096    // most events that a commit drops, unless it adds many
	maxChunks = 16      // most chunks of keys that a commit drops
	loadBatch = 1000    // most events that are read at once
	loadSize  = 4 << 20 // bytes after which a read of events ends

	idleAfter = 30 * time.Second // without a publish, before events are dropped
)

// load delivers the history of the file to the feed, except for what the hub has
// already. If the file does not continue the hub's history, load starts a new epoch.
func (s *Store) load(ctx context.Context, feed hub.Feed) error {
	next, err := s.oldestRetained()
	if err != nil {
		return err
	}
	have := feed.Begin(s.file.epoch, next)
	diverges, err := s.file.divergesFrom(have)
	if err != nil {
		return err
	}
	if diverges {
		s.log().Error("the file does not have the hub's last event: started a new epoch; clients are told of the gap",
			zap.Stringer("hub", have), zap.Uint64("file", s.file.span.next-1))
		if err := s.file.startEpoch(); err != nil {
			return err
		}
		have = feed.Begin(s.file.epoch, next)
	}
	next = max(next, have.Seq+1)
	for {
		records, err := s.file.readRecords(next)
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

// oldestRetained returns the oldest seq within the hub's bounds, MaxEvents and MaxAge.
func (s *Store) oldestRetained() (uint64, error) {
	opts, _ := s.retainArgs()
	oldest := s.file.span.oldest
	if n := uint64(opts.MaxEvents); n > 0 && s.file.span.next-oldest > n {
		oldest = s.file.span.next - n
	}
	cutoff := ageCutoff(opts)
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

// divergesFrom reports whether the file ends before the position, which is of its epoch,
// or has another record there.
func (f *file) divergesFrom(have hub.Position) (diverges bool, err error) {
	switch {
	case have.Seq >= f.span.next:
		return have.Seq > 0, nil
	case have.Seq < f.span.oldest, have.Tag == hub.Tag{}:
		return false, nil
	}
	err = f.view(func(tx *bbolt.Tx) error {
		key := encodeSeq(have.Seq)
		r, _, err := decodeRecord(key[:], tx.Bucket(bucketEvents).Get(key[:]))
		diverges = hub.TagOf(r.Data) != have.Tag
		return err
	})
	return diverges, err
}

// readRecords reads up to loadBatch records, from a seq on. A time in the future, of a
// clock that was ahead, becomes now.
func (f *file) readRecords(from uint64) (records []hub.Record, err error) {
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

// ageCutoff returns the time up to which events are too old. It is zero without MaxAge.
func ageCutoff(opts hub.Options) time.Time {
	if opts.MaxAge <= 0 {
		return time.Time{}
	}
	return time.Now().Add(-opts.MaxAge)
}

// surplus returns the number of events in the file that the hub no longer retains.
func (s *Store) surplus() uint64 {
	_, oldest := s.retainArgs()
	return min(max(oldest, s.file.span.oldest), s.file.span.next) - s.file.span.oldest
}

// isWorthDropping reports whether a busy commit has enough events to drop: minDrop, or more
// than are retained, which are few when events are large.
func (s *Store) isWorthDropping() bool {
	n := s.surplus()
	return n >= minDrop || n > s.file.span.next-s.file.span.oldest-n
}

// dropWhileIdle drops all events that are not retained, in transactions of bounded size.
// It is called when nobody publishes. It returns early if a request waits, or if ctx ends.
func (s *Store) dropWhileIdle(ctx context.Context, feed hub.Feed) {
	for s.loaded && s.failed.IsZero() && len(s.wake) == 0 && ctx.Err() == nil {
		before, nothing := s.file.span, &group{first: s.file.span.next}
		if err := s.write(nothing, true, feed); err != nil {
			s.fail(nothing, err, feed)
		}
		if s.file.span == before {
			return
		}
	}
}

// drop deletes the oldest events: those that the hub no longer retains, and those that
// are too old; at most maxDrop, or twice the added events if that is more, so that the file
// does not grow. Keys that are still remembered move to a chunk.
func (s *Store) drop(tx *bbolt.Tx, after *span, added int) error {
	n, most := s.surplus(), max(maxDrop, 2*uint64(added))
	opts, _ := s.retainArgs()
	cutoff := ageCutoff(opts)
	cursor, keys := tx.Bucket(bucketEvents).Cursor(), tx.Bucket(bucketKeys)
	first := encodeSeq(after.oldest)
	now := time.Now()
	chunk := make([]byte, 0, min(n, most)*uint64(chunkEntry)+crc32.Size)
	for i := uint64(0); i < most && after.oldest < s.file.span.next; i++ {
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

// forget deletes the oldest chunks whose keys are all forgotten, at most maxChunks. The
// keys in memory decide that, since the times in a chunk may be of another clock.
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
