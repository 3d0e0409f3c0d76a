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

	"github.com/ea766355/caddy-sse/hub"
)

const (
	minDrop     = 1024 // events, so that whole pages become free
	maxDrop     = 4096 // events of one commit
	loadBatch   = 1000 // events
	idleAfter   = 30 * time.Second
	maxChunks   = 16 // of keys, dropped by one commit
	loadAtATime = 4 << 20
)

// load feeds the history.
func (s *Store) load(ctx context.Context, feed hub.Feed) error {
	s.mu.Lock()
	opts := s.opts
	s.mu.Unlock()
	return s.db.View(func(tx *bbolt.Tx) error {
		cursor := tx.Bucket(bucketEvents).Cursor()
		from := s.span.oldest
		if n := uint64(opts.MaxEvents); n > 0 && s.span.next-from > n {
			from = s.span.next - n
		}
		start := encodeSeq(from)
		key, value := cursor.Seek(start[:])
		for cutoff := tooOld(opts); key != nil; key, value = cursor.Next() {
			r, _, err := decodeRecord(key, value)
			if err != nil {
				return err
			}
			if r.At.After(cutoff) {
				break
			}
			from++
		}
		feed.Begin(s.epoch, from)
		var batch []hub.Record
		size := 0
		for ; key != nil; key, value = cursor.Next() {
			r, _, err := decodeRecord(key, slices.Clone(value))
			if err != nil {
				return err
			}
			batch = append(batch, r)
			if size += len(value); len(batch) == loadBatch || size >= loadAtATime {
				feed.Deliver(batch)
				feed.Status(nil, s.span.next-1-r.Seq)
				batch, size = nil, 0
				if err := ctx.Err(); err != nil {
					return err
				}
			}
		}
		feed.Deliver(batch)
		feed.Status(nil, 0)
		return nil
	})
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
	return min(max(s.oldest, s.span.oldest), s.span.next) - s.span.oldest
}

// tidy drops everything that is not retained, in transactions of bounded size:
// nobody publishes.
func (s *Store) tidy(feed hub.Feed) {
	for s.loaded && s.broken.IsZero() {
		before, nothing := s.span, &group{first: s.span.next}
		if err := s.write(nothing, true); err != nil {
			s.fail(nothing, err, feed)
		}
		if s.span == before {
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
	remembered := time.Now().Add(-hub.KeyLifetime)
	chunk := make([]byte, 0, min(n, maxDrop)*uint64(chunkEntry)+crc32.Size)
	for i := uint64(0); i < maxDrop && after.oldest < s.span.next; i++ {
		seq := encodeSeq(after.oldest)
		key, value := cursor.Seek(seq[:])
		r, sum, err := decodeRecord(seq[:], value)
		if err != nil || !bytes.Equal(key, seq[:]) {
			return errors.Join(err, fmt.Errorf("%w: event %d is missing", errDamaged, after.oldest))
		}
		if i >= n && r.At.After(cutoff) {
			break
		}
		if r.At.After(remembered) {
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
	return forget(keys, remembered)
}

// forget removes the oldest chunks of keys whose time is over.
func forget(keys *bbolt.Bucket, remembered time.Time) error {
	for range maxChunks {
		key, chunk := keys.Cursor().First()
		if !over(chunk, remembered) {
			return nil
		}
		if err := keys.Delete(key); err != nil {
			return err
		}
	}
	return nil
}
