package natsstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/ea766355/caddy-sse/hub"
)

const (
	// heartbeat is how long the server may be silent before it sends a heartbeat. It is
	// the least that the server allows. After twice that, a new consumer is created.
	heartbeat = 500 * time.Millisecond

	// consumerLifetime is how long the server keeps a consumer that nobody reads.
	consumerLifetime = 10 * time.Second

	// checkEvery is how often the state of the stream is checked beside its messages.
	// Another node may have started a new epoch.
	checkEvery = 5 * time.Second

	// workingAfter is how long a consumer must not fail before the store is said to work,
	// in the log, and in the status after a consumer that got nothing. Within that, a
	// consumer that gets nothing fails by its heartbeat.
	workingAfter = 4 * heartbeat

	// targetEvery is how often setTarget is called while messages are missing.
	targetEvery = time.Second

	// absentGrace is how long a stream must be missing before a new one is created.
	// Servers that have just started may not know the stream yet.
	absentGrace = 2 * time.Second

	// catchUpGrace is how long a stream may end before the last delivered message. Its
	// new leader may have to catch up.
	catchUpGrace = 5 * time.Second

	// agreeWait is how long a node waits after it has started a new epoch, so that all
	// nodes find the same one.
	agreeWait = 500 * time.Millisecond

	// pullBytes is how many bytes the server sends ahead of deliver.
	pullBytes = 16 << 20

	// deliverAtOnce is the most events in one call of deliver.
	deliverAtOnce = 512
)

// Reasons to end a consumer and look at the stream again.
var (
	errCreated    = errors.New("the stream was created")
	errOtherEpoch = errors.New("the stream has another epoch than before")
	errChanged    = errors.New("the config of the stream was changed")
	errReused     = errors.New("the stream has lost events: it used a position again")
	errSkipped    = errors.New("the server skipped a message")
	errLost       = errors.New("the connection to NATS was lost")
)

// Tail implements hub.Store.
func (s *store) Tail(ctx context.Context, feed hub.Feed) {
	t := &tail{store: s, feed: feed, ended: make(map[string]bool)}
	for ctx.Err() == nil {
		err := t.follow(ctx)
		if ctx.Err() != nil {
			return
		}
		t.setKnown(nil) // until locate has found that the stream has the same epoch
		t.silence = nil
		switch {
		case errors.Is(err, errOtherEpoch), errors.Is(err, errChanged):
			t.feed.Status(err, t.behind)
			continue
		// These are normal when servers start and stop, so they are not logged.
		case errors.Is(err, errCreated), errors.Is(err, errSkipped):
			t.feed.Status(err, t.behind)
		case errors.Is(err, jetstream.ErrNoHeartbeat):
			t.silence = s.cause(err)
			t.feed.Status(t.silence, t.behind)
		default:
			s.reportProblem(err)
			t.feed.Status(s.unavailable(), t.behind)
		}
		select {
		case <-ctx.Done():
		case <-s.wakeups:
		case <-time.After(retryWait):
		}
	}
}

// tail is the state of Tail. Only the goroutine of Tail uses it.
type tail struct {
	*store
	feed hub.Feed

	epoch       string
	ended       map[string]bool // epochs that have ended
	last        mark            // last message that the hub has
	behind      uint64
	target      uint64    // seq up to which the hub needs the messages before the history is complete; 0: it is
	absentSince time.Time // zero: the stream exists
	shortSince  time.Time // since when the stream has ended before last; zero: it does not
	reconnects  uint64    // of conn, when follow began
	silence     error     // why the last consumer got nothing; nil: it did, or this one gets messages

	// State of the current consumer.
	found     *stream
	deletions deletions
}

// follow finds the stream and reads it until an error or a change of the stream.
func (t *tail) follow(ctx context.Context) error {
	t.reconnects = t.conn.Stats().Reconnects
	if err := t.locate(ctx); err != nil {
		return err
	}
	request, cancel := context.WithTimeout(ctx, 2*requestTimeout)
	defer cancel()
	consumer, err := t.found.CreateConsumer(request, jetstream.ConsumerConfig{
		DeliverPolicy:     jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:       t.last.seq + 1,
		AckPolicy:         jetstream.AckNonePolicy,
		MemoryStorage:     true,
		Replicas:          1,
		InactiveThreshold: consumerLifetime,
	})
	if err != nil {
		return fmt.Errorf("creating a consumer of stream %s: %w", t.config.stream, err)
	}
	// A server that restarts with an older copy of the stream does not know the
	// consumer. So this check holds for as long as the consumer delivers.
	if err := t.verifyDelivered(request, t.found); errors.Is(err, errReused) {
		return t.replaceEpoch(ctx)
	} else if err != nil {
		return fmt.Errorf("comparing stream %s with the last delivered event: %w", t.config.stream, err)
	}
	if err := t.setTarget(ctx); err != nil {
		return err
	}
	t.setKnown(t.found)
	return t.read(ctx, consumer)
}

// locate finds the stream, or creates it, and the position to continue from.
func (t *tail) locate(ctx context.Context) error {
	found, err := t.find(ctx)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		if t.absentSince.IsZero() {
			t.absentSince = time.Now()
		}
		if t.epoch == "" || time.Since(t.absentSince) >= absentGrace {
			return cmp.Or(t.make(ctx), errCreated)
		}
	}
	if err != nil {
		t.shortSince = time.Time{}
		return err
	}
	t.absentSince = time.Time{}
	info := found.CachedInfo()
	epoch := epochOf(info.Config, info.Created)
	t.found = &stream{found, epoch, termsOf(info.Config)}
	switch {
	case t.ended[epoch]:
		// Two nodes changed the stream at the same time, and one wrote back the epoch
		// that the other had replaced. Or the stream was restored.
		return t.replaceEpoch(ctx)
	case epoch != t.epoch:
		t.beginEpoch(epoch, info.State)
	}
	if info.State.LastSeq < t.last.seq {
		if t.shortSince.IsZero() {
			t.shortSince = time.Now()
		}
		if time.Since(t.shortSince) < catchUpGrace {
			return fmt.Errorf("stream %s ends at message %d, but has delivered message %d", t.config.stream, info.State.LastSeq, t.last.seq)
		}
		return t.replaceEpoch(ctx)
	}
	t.shortSince = time.Time{}
	return nil
}

// setTarget sets the target to the last message that is still in the stream.
func (t *tail) setTarget(ctx context.Context) error {
	if err := t.deletions.refresh(ctx, t.found); err != nil {
		return err
	}
	t.target = t.deletions.last
	if t.target <= t.last.seq {
		t.passDeleted()
		t.status(0)
	}
	return nil
}

// passDeleted tells the feed that the last messages of the stream were deleted before they
// were delivered. No message after them may come for a long time.
func (t *tail) passDeleted() {
	if t.deletions.last > t.last.seq || t.deletions.end <= t.last.seq {
		return
	}
	t.last = mark{seq: t.deletions.end}
	t.feed.Begin(t.epoch, t.last.seq+1)
	t.setDelivered(t.last)
}

// beginEpoch starts an epoch of the history. If the hub has a part of this epoch, the tail
// continues after it.
func (t *tail) beginEpoch(epoch string, state jetstream.StreamState) {
	first := max(state.FirstSeq, 1)
	if state.Msgs == 0 {
		first = state.LastSeq + 1
	}
	if n := uint64(t.options().MaxEvents); n > 0 && state.LastSeq >= n {
		first = max(first, state.LastSeq-n+1)
	}
	if t.epoch != "" {
		t.ended[t.epoch] = true
	}
	t.epoch, t.last = epoch, mark{seq: first - 1}
	if have := t.feed.Begin(epoch, first); have.Seq > 0 && have.Seq >= t.last.seq {
		t.last = mark{have.Seq, have.Tag}
	}
	t.setDelivered(t.last)
}

// replaceEpoch gives the stream a new epoch, since positions were used again. All nodes
// notice this at about the same time and set an epoch. So replaceEpoch waits until they
// have, and the last one set is the epoch for all.
func (t *tail) replaceEpoch(ctx context.Context) error {
	if err := t.startEpoch(ctx, t.found); err != nil {
		return fmt.Errorf("%w; starting a new epoch failed: %w", errReused, err)
	}
	select {
	case <-ctx.Done():
	case <-time.After(agreeWait):
	}
	return errOtherEpoch
}

// status tells the feed how many messages are missing. After a consumer that got nothing, the
// problem goes on until this one works: the server may not let this node read.
func (t *tail) status(behind uint64) {
	if t.target > t.last.seq {
		behind = max(behind, t.target-t.last.seq)
	} else if t.target > 0 {
		t.target, behind = 0, 0 // complete, up to the target
		t.passDeleted()
	}
	t.behind = behind
	t.feed.Status(t.silence, behind)
}
