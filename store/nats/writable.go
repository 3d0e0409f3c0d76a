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

// writes says whether the stream can store messages. A server that has lost the majority
// still answers and delivers for a long time, but stores nothing.
type writes struct {
	problem error     // nil: the stream stores messages
	since   time.Time // when the problem began
}

var (
	errNoLeader = errors.New("the stream has no leader: most of its NATS servers are not reachable")
	errNoQuorum = errors.New("the stream cannot store messages: most of its NATS servers are not reachable")
)

// Writable implements WriteChecker of the module caddy-sse.
func (s *store) Writable() (since time.Time, problem error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.writes.since, s.writes.problem
}

// setWritable records why the stream cannot store messages; nil: it can.
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

// noteAppend records the result of an Append. Errors that are due to the entries or to
// the caller say nothing about the stream, and are ignored.
func (s *store) noteAppend(ctx context.Context, err error) {
	if err == nil {
		if _, problem := s.Writable(); problem != nil {
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

// checkWritable checks whether the stream can store messages, without storing one. found
// and err are the result of find.
func (s *store) checkWritable(ctx context.Context, found jetstream.Stream, err error) {
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		err = errNoLeader // a leader would have answered
	case err == nil:
		err = checkQuorum(found.CachedInfo().Cluster)
	}
	if _, problem := s.Writable(); err == nil && problem != nil {
		err = s.probe(ctx)
	}
	if ctx.Err() == nil {
		s.setWritable(err)
	}
}

// checkQuorum returns an error unless the leader reaches a majority of the servers. cluster
// is nil for a server without a cluster.
func checkQuorum(cluster *jetstream.ClusterInfo) error {
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

// probe publishes a message with a header that the leader refuses. The refusal is the
// leader's last check, so it shows that the leader could have stored the message.
func (s *store) probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	known, err := s.awaitStream(ctx)
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
