package disk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/bbolt"
	"go.uber.org/zap"

	"github.com/ea766355/caddy-sse/hub"
)

const (
	// retryAfter is the wait before a file that failed is tried again.
	retryAfter = time.Second

	// retryFactor bounds how much of the time a file is read while its disk fails: the wait is
	// at least this many times as long as opening the file took, but at most retryAtMost: the
	// disk may have been slow because it failed.
	retryFactor = 10
	retryAtMost = time.Minute

	// probeSize is how many bytes a file must take before it can be used again. A commit
	// that adds nothing can succeed on a full disk.
	probeSize = 64 << 10
)

// fail handles a failed commit. It refuses all publishes from now on, and tries to find
// out whether the group is in the file.
func (s *Store) fail(g *group, err error, feed hub.Feed) {
	s.refuseAll(fmt.Errorf("cannot write to the file: %w", err), feed)
	s.uncertain = g
	if _, certain := errors.AsType[unwritten](err); certain {
		s.reject(g)
		s.uncertain = &group{first: g.first}
	}
	s.resolve(feed)
}

// reject answers a group that was not stored.
func (s *Store) reject(g *group) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inFlight = nil
	for _, r := range g.requests {
		r.answer(fmt.Errorf("%w: %w", hub.ErrNotStored, s.refuseErr))
	}
}

// refuseAll refuses the queued requests and all later ones with the error, until resume.
func (s *Store) refuseAll(err error, feed hub.Feed) {
	s.failed = time.Now()
	err = fmt.Errorf("%s: %w", s.path, err)
	feed.Status(err, 0)
	s.mu.Lock()
	isNew := s.refuseErr == nil || s.refuseErr.Error() != err.Error()
	s.refuseErr = err
	for _, r := range s.queue {
		r.answer(s.refusal(r, err))
	}
	s.queue = nil
	s.mu.Unlock()
	if isNew {
		s.log().Error("cannot use the history file: publishes are refused until it can be used again", zap.Error(err))
	}
}

// retryWait returns the wait before a file that failed is tried again.
func (s *Store) retryWait() time.Duration {
	return max(s.retry, min(retryFactor*s.opening, retryAtMost))
}

// ensureUsable reports whether the file can be used. If it failed before, ensureUsable
// opens it again, at most once per retryWait. It also loads a file that was opened.
func (s *Store) ensureUsable(ctx context.Context, feed hub.Feed) bool {
	failed := !s.failed.IsZero()
	if failed {
		if time.Since(s.failed) < s.retryWait() || !s.resolve(feed) {
			return false
		}
		if err := s.watchCommit(feed, s.file.probe); err != nil {
			s.fail(&group{first: s.file.span.next}, err, feed)
			return false
		}
		s.resume() // before the feed is told, so that the next publish succeeds
	}
	if !s.loaded {
		if err := s.load(ctx, feed); err != nil {
			if ctx.Err() == nil {
				s.fail(&group{first: s.file.span.next}, err, feed)
			}
			return false
		}
		s.loaded = true
	}
	if failed {
		s.log().Info("the history file can be used again: publishes are accepted")
		feed.Status(nil, 0)
	}
	return true
}

// resume accepts requests again.
func (s *Store) resume() {
	s.failed = time.Time{}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuseErr = nil
}

// resolve opens the file again after a failed commit, and checks whether the uncertain
// group is in it. It reports whether the file could be opened; then the group is
// answered.
func (s *Store) resolve(feed hub.Feed) bool {
	if s.uncertain == nil {
		return true
	}
	_ = s.file.close() // its state in memory may differ from the file
	began := time.Now()
	f, err := openFile(s.path, s.settings)
	if !errors.Is(err, errInUse) { // then it waited, and read nothing
		s.opening = time.Since(began) // also if it read a part, and failed
	}
	if err != nil {
		s.refuseAll(err, feed)
		return false
	}
	s.updateNote()
	stored, err := f.contains(s.uncertain)
	if err != nil {
		s.refuseAll(errors.Join(err, f.close()), feed)
		return false
	}
	if f.epoch != s.file.epoch {
		s.log().Error("the file has another history than before; clients are told of the gap")
	}
	g := s.uncertain
	s.file, s.uncertain = f, nil
	s.loaded = false // it may have another history
	s.retainMu.Lock()
	s.oldest = 0 // it was a seq of the history before; the hub calls Retain again
	s.retainMu.Unlock()
	if stored {
		s.finish(g, feed)
	} else {
		s.reject(g)
	}
	return true
}

// probe stores probeSize bytes, and deletes them.
func (f *file) probe() error {
	err := f.update(func(tx *bbolt.Tx) error { return tx.Bucket(bucketState).Put(keyProbe, make([]byte, probeSize)) })
	if err == nil {
		err = f.update(func(tx *bbolt.Tx) error { return tx.Bucket(bucketState).Delete(keyProbe) })
	}
	return err
}

// contains reports whether the file has all records of the group. Their values have the time
// of storing, so no other history has the same.
func (f *file) contains(g *group) (all bool, err error) {
	if len(g.values) == 0 {
		return false, nil
	}
	err = f.view(func(tx *bbolt.Tx) error {
		all = true
		for i, value := range g.values {
			key := encodeSeq(g.first + uint64(i))
			all = all && bytes.Equal(tx.Bucket(bucketEvents).Get(key[:]), value)
		}
		return nil
	})
	return all, err
}

// updateNote makes the note name the newest quarantined file, if there is one.
func (s *Store) updateNote() {
	note := ""
	if names := quarantined(s.path); len(names) > 0 {
		note = fmt.Sprintf("the history file was damaged and an empty history was started: the damaged file is %s; check the disk, and delete that file when you no longer need it",
			names[len(names)-1])
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.note = note
}
