package natsstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/ea766355/caddy-sse/hub"
)

const (
	// heartbeat is the silence after which the server says that it is there; it
	// allows no less. Twice that, and the consumer is made anew.
	heartbeat = 500 * time.Millisecond

	// forgotten is how long the server keeps a consumer that nobody reads.
	forgotten = 10 * time.Second

	// checkEvery is how often the stream is looked at beside what it sends: for
	// another life, which some other node may have begun.
	checkEvery = 5 * time.Second

	// aimEvery is how often it is made sure that what is still missing is there.
	aimEvery = time.Second

	// absence is how long a stream that was there must be missing before another is
	// made: servers that have just started may not know it yet.
	absence = 2 * time.Second

	// patience is how long a stream may end before what was delivered from it: its
	// leader may have to catch up.
	patience = 5 * time.Second

	// agree is how long nodes have to agree on another life.
	agree = 500 * time.Millisecond

	// pullBytes is how much the server sends ahead of what is delivered.
	pullBytes = 16 << 20

	// deliverAtOnce is how many events are delivered in one go.
	deliverAtOnce = 512
)

// Why a consumer is given up, and the next one begun.
var (
	errMade      = errors.New("the stream was made")
	errOtherLife = errors.New("the stream is not the one it was")
	errChanged   = errors.New("the stream was changed")
	errReused    = errors.New("a position of the stream was used again: it has lost events")
	errHole      = errors.New("the server left out a message")
	errLost      = errors.New("the connection to NATS was lost")
)

// Tail implements hub.Store.
func (s *store) Tail(ctx context.Context, feed hub.Feed) {
	t := &tail{store: s, feed: feed, left: make(map[string]bool)}
	for ctx.Err() == nil {
		err := t.follow(ctx)
		if ctx.Err() != nil {
			return
		}
		t.learn(nil) // until it is certain that the stream is the one it was
		switch {
		case errors.Is(err, errOtherLife), errors.Is(err, errChanged):
			t.feed.Status(err, t.behind)
			continue
		case errors.Is(err, errMade), errors.Is(err, jetstream.ErrNoHeartbeat), errors.Is(err, errHole):
			// As servers come and go.
			t.feed.Status(err, t.behind)
		default:
			s.complain(err)
			t.feed.Status(s.whyNot(), t.behind)
		}
		select {
		case <-ctx.Done():
		case <-s.again:
		case <-time.After(retryWait):
		}
	}
}

// tail is the state of Tail. It is used by its goroutine alone.
type tail struct {
	*store
	feed hub.Feed

	epoch  string
	left   map[string]bool // epochs that have ended
	last   mark            // what the hub has
	behind uint64
	target uint64    // the last that was there when the stream was looked at: from there on the history is whole
	absent time.Time // since when the stream is not there; zero: it is
	short  time.Time // since when it has ended before last; zero: it does not

	// Of the consumer.
	found *stream
	gone  gone
}

// follow reads the stream until something is not as it should be.
func (t *tail) follow(ctx context.Context) error {
	if err := t.look(ctx); err != nil {
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
		InactiveThreshold: forgotten,
	})
	if err != nil {
		return fmt.Errorf("making a consumer of stream %s: %w", t.config.stream, err)
	}
	// A server that is started again, with what it had at some time, does not know
	// the consumer. So what holds now holds as long as that delivers.
	if err := t.verify(request, t.found); errors.Is(err, errReused) {
		return t.reused(ctx)
	} else if err != nil {
		return fmt.Errorf("comparing stream %s with what was delivered: %w", t.config.stream, err)
	}
	if err := t.aim(ctx); err != nil {
		return err
	}
	t.rejoice(t.epoch, t.found.CachedInfo().State.LastSeq)
	t.learn(t.found)
	return t.read(ctx, consumer)
}

// look finds the stream, or makes it, and finds where to go on in it.
func (t *tail) look(ctx context.Context) error {
	found, err := t.find(ctx)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		if t.absent.IsZero() {
			t.absent = time.Now()
		}
		if t.epoch == "" || time.Since(t.absent) >= absence {
			return cmp.Or(t.make(ctx), errMade)
		}
	}
	if err != nil {
		t.short = time.Time{}
		return err
	}
	t.absent = time.Time{}
	info := found.CachedInfo()
	epoch := epochOf(info.Config, info.Created)
	t.found = &stream{found, epoch, termsOf(info.Config)}
	switch {
	case t.left[epoch]:
		// Two nodes have changed the stream at once, and one has put back what the
		// other had found. Or it was restored.
		return t.reused(ctx)
	case epoch != t.epoch:
		t.begin(epoch, info.State)
	}
	if info.State.LastSeq < t.last.seq {
		if t.short.IsZero() {
			t.short = time.Now()
		}
		if time.Since(t.short) < patience {
			return fmt.Errorf("stream %s ends with %d, before %d, which it had delivered", t.config.stream, info.State.LastSeq, t.last.seq)
		}
		return t.reused(ctx)
	}
	t.short = time.Time{}
	return nil
}

// aim finds out how far the stream goes: the last messages may have been deleted.
func (t *tail) aim(ctx context.Context) error {
	if err := t.gone.look(ctx, t.found); err != nil {
		return err
	}
	t.target = t.gone.last
	if t.target <= t.last.seq {
		t.status(0)
	}
	return nil
}

// begin starts a life of the history, unless the hub has it already: then it goes
// on after what that has.
func (t *tail) begin(epoch string, state jetstream.StreamState) {
	first := max(state.FirstSeq, 1)
	if state.Msgs == 0 {
		first = state.LastSeq + 1
	}
	if n := uint64(t.options().MaxEvents); n > 0 && state.LastSeq >= n {
		first = max(first, state.LastSeq-n+1)
	}
	if t.epoch != "" {
		t.left[t.epoch] = true
	}
	t.epoch, t.last = epoch, mark{seq: first - 1}
	if have := t.feed.Begin(epoch, first); have.Seq > 0 && have.Seq >= t.last.seq {
		t.last = mark{have.Seq, have.Tag}
	}
	t.note(t.last)
}

// reused makes what the stream has now another life. All nodes notice at about the
// same time, and one life is to come of it: so it waits until they have.
func (t *tail) reused(ctx context.Context) error {
	if err := t.newLife(ctx, t.found); err != nil {
		return fmt.Errorf("%w; beginning another epoch: %w", errReused, err)
	}
	select {
	case <-ctx.Done():
	case <-time.After(agree):
	}
	return errOtherLife
}

// status says how far behind the history is.
func (t *tail) status(behind uint64) {
	if t.target > t.last.seq {
		behind = max(behind, t.target-t.last.seq)
	} else if t.target > 0 {
		t.target, behind = 0, 0 // whole, as it was when it was looked at
	}
	t.behind = behind
	t.feed.Status(nil, behind)
}

// read delivers what the consumer sends.
func (t *tail) read(ctx context.Context, consumer jetstream.Consumer) error {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()

	failed := make(chan error, 1)
	fail := func(err error) {
		select {
		case failed <- err:
		default:
		}
	}
	messages := make(chan jetstream.Msg, deliverAtOnce)
	consuming, err := consumer.Consume(func(m jetstream.Msg) {
		select {
		case messages <- m:
		case <-ctx.Done():
		}
	}, jetstream.PullMaxBytes(max(pullBytes, 2*int(t.conn.MaxPayload()))), jetstream.PullHeartbeat(heartbeat),
		jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) { fail(err) }))
	if err != nil {
		return err
	}
	defer consuming.Stop()
	found := t.found
	running.Go(func() { t.watch(ctx, found, fail) })

	aiming := time.NewTicker(aimEvery)
	defer aiming.Stop()
	var batch []jetstream.Msg
	for {
		select {
		case <-aiming.C:
			// What it waits for may have been deleted.
			if t.target > t.last.seq {
				if err := t.aim(ctx); err != nil {
					return err
				}
			}
		case m := <-messages:
			batch = append(batch[:0], m)
			for len(batch) < deliverAtOnce && len(messages) > 0 {
				batch = append(batch, <-messages)
			}
			if err := t.deliver(ctx, batch); err != nil {
				return err
			}
			clear(batch)
		case err := <-failed:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// watch looks at the stream now and then, and when there is a reason.
func (t *tail) watch(ctx context.Context, known *stream, fail func(error)) {
	ticker := time.NewTicker(checkEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-t.again:
		case <-ctx.Done():
			return
		}
		if !t.conn.IsConnected() {
			fail(errLost)
			return
		}
		if _, doubted := t.knows(known); doubted {
			fail(errReused)
			return
		}
		last := t.lastDelivered()
		found, err := t.find(ctx)
		if errors.Is(err, errUnfit) {
			fail(err)
			return
		}
		t.checkWritable(ctx, found, err)
		if err != nil {
			continue // what matters of that, the consumer will notice
		}
		switch info := found.CachedInfo(); {
		case epochOf(info.Config, info.Created) != known.epoch:
			fail(errOtherLife)
			return
		case info.State.LastSeq < last.seq:
			fail(errReused)
			return
		case termsOf(info.Config) != known.terms:
			fail(errChanged)
			return
		}
	}
}

// deliver feeds messages, and makes sure that what is missing between them is not
// in the stream any more.
func (t *tail) deliver(ctx context.Context, messages []jetstream.Msg) error {
	records := make([]hub.Record, 0, len(messages))
	var pending uint64
	var failure error
	for _, m := range messages {
		meta, err := m.Metadata()
		if err == nil {
			err = t.mayFollow(ctx, meta.Sequence.Stream)
		}
		if err != nil {
			failure = err
			break
		}
		pending = meta.NumPending
		t.last = mark{meta.Sequence.Stream, hub.TagOf(m.Data())}
		records = append(records, hub.Record{Seq: t.last.seq, At: t.ourTime(meta.Timestamp), Data: m.Data()})
	}
	if len(records) > 0 {
		t.feed.Deliver(records)
		t.note(t.last)
		t.status(pending)
	}
	return failure
}

// mayFollow refuses what is not the next message of the stream: the consumer may
// be on a server that has yet to catch up.
func (t *tail) mayFollow(ctx context.Context, seq uint64) error {
	next := t.last.seq + 1
	switch {
	case seq == next:
		return nil
	case seq < next:
		return errHole
	case t.gone.all(next, seq):
		return nil
	}
	if err := t.gone.look(ctx, t.found); err != nil {
		return err
	}
	if !t.gone.all(next, seq) {
		return errHole
	}
	return nil
}

// gone is what is not in the stream any more, as it was looked up last.
type gone struct {
	first   uint64   // of those that are there
	deleted []uint64 // of those between the first and the last, in order
	last    uint64   // of those that are there
}

// look asks the server that leads the stream.
func (g *gone) look(ctx context.Context, found *stream) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	info, err := found.Info(ctx, jetstream.WithDeletedDetails(true))
	if err != nil {
		return fmt.Errorf("asking what stream %s has: %w", found.CachedInfo().Config.Name, err)
	}
	g.first, g.deleted, g.last = info.State.FirstSeq, info.State.Deleted, info.State.LastSeq
	slices.Sort(g.deleted)
	for i := len(g.deleted) - 1; i >= 0 && g.deleted[i] == g.last; i-- {
		g.last--
	}
	if info.State.Msgs == 0 {
		g.last = 0
	}
	return nil
}

// all reports whether none of the messages from the first up to the second is
// there.
func (g *gone) all(from, to uint64) bool {
	from = max(from, g.first)
	if from >= to {
		return true
	}
	i, found := slices.BinarySearch(g.deleted, from)
	rest := g.deleted[i:]
	return found && to-from <= uint64(len(rest)) && rest[to-from-1] == to-1
}
