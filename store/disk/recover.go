package disk

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ea766355/caddy-sse/hub"
)

// retryAfter is how long a file is left alone that could not be used.
const retryAfter = time.Second

// fail refuses everything from now on, and finds out what became of the group.
func (s *Store) fail(g *group, err error, feed hub.Feed) {
	s.doubt = g
	feed.Status(s.refuse(fmt.Errorf("the disk does not take it: %w", err)), 0)
	s.resolve(feed)
}

// refuse answers, from now on, with the error what has not been taken. It returns
// the answer.
func (s *Store) refuse(err error) error {
	s.broken = time.Now()
	err = fmt.Errorf("%s: %w", s.path, err)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refusing = err
	for _, r := range s.queue {
		r.answer(s.refusal(r, err))
	}
	s.queue = nil
	return err
}

// recovered reports whether the file can be used, and tries if it could not.
func (s *Store) recovered(ctx context.Context, feed hub.Feed) bool {
	if !s.broken.IsZero() {
		if time.Since(s.broken) < s.retry || !s.resolve(feed) {
			return false
		}
		probe := &group{first: s.span.next}
		if err := s.write(probe, false); err != nil {
			s.fail(probe, err, feed)
			return false
		}
	}
	if !s.loaded {
		if err := s.load(ctx, feed); err != nil {
			feed.Status(s.refuse(err), 0)
			return false
		}
		s.loaded = true
	}
	if !s.broken.IsZero() {
		s.broken = time.Time{}
		s.mu.Lock()
		s.refusing = nil
		s.mu.Unlock()
		feed.Status(nil, 0)
	}
	return true
}

// resolve opens the file anew after a commit has failed, and looks whether it is
// there all the same. It reports whether that could be done; then the group has
// its answer.
func (s *Store) resolve(feed hub.Feed) bool {
	if s.doubt == nil {
		return true
	}
	if s.db != nil {
		_ = s.db.Close() // what it has in memory is worth nothing any more
		s.db = nil
	}
	db, found, err := openFile(s.path, false, lockTimeout)
	if err != nil {
		s.refuse(err)
		return false
	}
	g := s.doubt
	stored := found.span.next == g.first+uint64(len(g.records))
	switch {
	case found.epoch != s.epoch:
		// It is another history, or lost its last transaction.
		stored, s.loaded, s.epoch, s.keys = false, false, found.epoch, found.keys
	case !stored && found.span.next != g.first:
		s.refuse(errors.Join(errOther, db.Close()))
		return false
	}
	s.db, s.span, s.doubt = db, found.span, nil
	if stored {
		s.finish(g, feed)
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flying = nil
	for _, r := range g.requests {
		r.answer(fmt.Errorf("%w: %w", hub.ErrNotStored, s.refusing))
	}
	return true
}

var errOther = errors.New("the file is not the one that was open: put that back, or restart with this one")
