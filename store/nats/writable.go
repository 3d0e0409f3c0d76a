package natsstore

import (
	"context"
	"crypto/rand"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ea766355/caddy-sse/hub"
)

// writes is what is known about whether the stream takes messages. A server that is
// left alone answers, and delivers what it has, long after that has ended.
type writes struct {
	problem error     // nil: it takes them
	since   time.Time // the problem is there
}

var (
	errNoLeader = errors.New("the stream has no leader: most of its NATS servers are away")
	errNoQuorum = errors.New("the stream takes nothing: most of its NATS servers are away")
)

// Writable implements the Writer of the module caddy-sse.
func (s *store) Writable() (problem error, since time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.writes.problem, s.writes.since
}

// setWritable notes why the stream takes no messages; nil: it does.
func (s *store) setWritable(problem error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case problem == nil:
		s.writes = writes{}
	case s.writes.problem == nil:
		s.writes = writes{problem, time.Now()}
	default:
		s.writes.problem = problem
	}
}

// noteAppend judges by what came of an Append. What its entries, or who gave it up,
// are to blame for says nothing about the stream.
func (s *store) noteAppend(ctx context.Context, err error) {
	if err == nil {
		if problem, _ := s.Writable(); problem != nil {
			s.setWritable(nil)
		}
		return
	}
	if _, ok := errors.AsType[*hub.BatchError](err); ok || errors.Is(err, errNoBatches) || errors.Is(err, errClosed) ||
		code(err) == codeAtomicTooLarge || errors.Is(ctx.Err(), context.Canceled) {
		return
	}
	s.setWritable(err)
}

// checkWritable looks whether the stream takes messages, without storing one, given
// the answer to what it is.
func (s *store) checkWritable(ctx context.Context, found jetstream.Stream, err error) {
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		err = errNoLeader // who would have answered
	case err == nil:
		err = quorum(found.CachedInfo().Cluster)
	}
	if problem, _ := s.Writable(); err == nil && problem != nil {
		err = s.probe(ctx)
	}
	if ctx.Err() == nil {
		s.setWritable(err)
	}
}

// quorum judges by whom the leader reaches. A server that is alone has no cluster.
func quorum(cluster *jetstream.ClusterInfo) error {
	if cluster == nil {
		return nil
	}
	if cluster.Leader == "" {
		return errNoLeader
	}
	reached := 1
	for _, replica := range cluster.Replicas {
		if !replica.Offline {
			reached++
		}
	}
	if reached <= (len(cluster.Replicas)+1)/2 {
		return errNoQuorum
	}
	return nil
}

// probe publishes what the leader refuses after it has checked all else.
func (s *store) probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	known, err := s.await(ctx)
	if err != nil {
		return err
	}
	msg := &nats.Msg{Subject: known.subject, Header: nats.Header{jetstream.MsgIDHeader: {rand.Text()}, jetstream.MsgRollup: {"none"}}}
	_, err = s.js.PublishMsg(ctx, msg, jetstream.WithRetryAttempts(0))
	if err == nil || code(err) == codeRollup {
		return nil
	}
	return s.cause(err)
}
