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

// retryAfter is how long a file is left alone that could not be used.
const retryAfter = time.Second

// fail refuses everything from now on, and finds out what became of the group.
func (s *Store) fail(g *group, err error, feed hub.Feed) {
	s.refuse(fmt.Errorf("the disk does not take it: %w", err), feed)
	s.doubt = g
	if _, certain := errors.AsType[unwritten](err); certain {
		s.giveUp(g)
		s.doubt = &group{first: g.first}
	}
	s.resolve(feed)
}

// giveUp answers a group that was not stored.
func (s *Store) giveUp(g *group) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flying = nil
	for _, r := range g.requests {
		r.answer(fmt.Errorf("%w: %w", hub.ErrNotStored, s.refusing))
	}
}

// refuse answers, from now on, with the error what has not been taken.
func (s *Store) refuse(err error, feed hub.Feed) {
	s.failed = time.Now()
	err = fmt.Errorf("%s: %w", s.path, err)
	feed.Status(err, 0)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refusing == nil || s.refusing.Error() != err.Error() {
		s.log().Error("publishes are refused until the file can be used", zap.Error(err))
	}
	s.refusing = err
	for _, r := range s.queue {
		r.answer(s.refusal(r, err))
	}
	s.queue = nil
}

// recovered reports whether the file can be used, and tries if it could not.
func (s *Store) recovered(ctx context.Context, feed hub.Feed) bool {
	failed := !s.failed.IsZero()
	if failed {
		if time.Since(s.failed) < s.retry || !s.resolve(feed) {
			return false
		}
		probe := &group{first: s.file.span.next}
		if err := s.write(probe, false, feed); err != nil {
			s.fail(probe, err, feed)
			return false
		}
		s.accept() // before the status says so
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
		s.log().Info("the file can be used again")
		feed.Status(nil, 0)
	}
	return true
}

// accept ends the refusal of requests.
func (s *Store) accept() {
	s.failed = time.Time{}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refusing = nil
}

// resolve opens the file anew after a commit has failed, and looks whether it is
// there all the same. It reports whether that could be done; then the group has
// its answer.
func (s *Store) resolve(feed hub.Feed) bool {
	if s.doubt == nil {
		return true
	}
	_ = s.file.close() // what it has in memory is worth nothing any more
	f, err := openFile(s.path, s.settings)
	if err != nil {
		s.refuse(err, feed)
		return false
	}
	s.lookBeside()
	stored, err := f.holds(s.doubt, s.file.epoch)
	if err != nil {
		s.refuse(errors.Join(err, f.close()), feed)
		return false
	}
	if f.epoch != s.file.epoch {
		s.log().Error("the file is another history: clients are told of the gap")
	}
	g := s.doubt
	s.file, s.doubt = f, nil
	s.loaded = false // it may be another file
	s.mu.Lock()
	s.oldest = 0 // that was of the former; the hub says it again
	s.mu.Unlock()
	if stored {
		s.finish(g, feed)
	} else {
		s.giveUp(g)
	}
	return true
}

// holds reports whether the file has what the group was to store.
func (f *file) holds(g *group, epoch string) (all bool, err error) {
	if f.epoch != epoch || len(g.values) == 0 {
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

// lookBeside notes the damaged files that were set aside.
func (s *Store) lookBeside() {
	note := ""
	if names := asides(s.path); len(names) > 0 {
		note = fmt.Sprintf("the history was damaged and an empty one began: %s is the damaged one; check the disk, and remove that file when you need it no more",
			names[len(names)-1])
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.note = note
}
