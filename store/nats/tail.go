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
	"go.uber.org/zap"

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

	// absence is how long a stream that was there must be missing before another is
	// made: servers that have just started may not know it yet.
	absence = 2 * time.Second

	// patience is how long a stream may end before what was delivered from it: its
	// leader may have to catch up.
	patience = 5 * time.Second

	// pullBytes is how much the server sends ahead of what is delivered.
	pullBytes = 16 << 20

	// deliverAtOnce is how many events are delivered in one go.
	deliverAtOnce = 512

	// Clocks are believed as long as an event was stored between clockBefore and
	// clockAfter its acceptance.
	clockBefore = -2 * time.Second
	clockAfter  = hub.PublishTimeout + 5*time.Second
)

// Why a consumer is given up, and the next one begun.
var (
	errMade      = errors.New("the stream was made")
	errOtherLife = errors.New("the stream is not the one it was")
	errReused    = errors.New("a position of the stream was used again: it has lost events")
	errHole      = errors.New("the server left out an event")
	errLost      = errors.New("the connection to NATS was lost")
)

// Tail implements hub.Store.
func (s *store) Tail(ctx context.Context, feed hub.Feed) {
	t := &tail{store: s, feed: feed}
	for ctx.Err() == nil {
		err := t.follow(ctx)
		if ctx.Err() != nil {
			return
		}
		t.learn(nil) // until it is certain that the stream is the one it was
		t.feed.Status(false, t.behind)
		switch {
		case errors.Is(err, errOtherLife):
			continue
		case errors.Is(err, errMade), errors.Is(err, jetstream.ErrNoHeartbeat), errors.Is(err, errHole):
			// As servers come and go.
		default:
			s.complain(err)
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
	last   mark          // delivered
	skew   time.Duration // to be added to the server's clock for ours
	behind uint64
	target uint64    // the last of the stream when it was first read: from there on the history is whole
	absent time.Time // since when the stream is not there; zero: it is
	short  time.Time // since when it has ended before last; zero: it does not

	// Of the consumer.
	found *stream
	fresh bool // it has not delivered anything yet
}

// follow reads the stream until something is not as it should be.
func (t *tail) follow(ctx context.Context) error {
	if err := t.look(ctx); err != nil {
		return err
	}
	t.fresh = true
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
	t.rejoice(t.epoch, t.found.CachedInfo().State.LastSeq)
	t.learn(t.found)
	return t.read(ctx, consumer)
}

// look finds the stream, or makes it, and finds where to go on in it.
func (t *tail) look(ctx context.Context) error {
	asked := time.Now()
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
	t.skew = asked.Add(time.Since(asked) / 2).Sub(info.TimeStamp)
	epoch := epochOf(info.Config, info.Created)
	t.found = &stream{found, epoch, info.Config.Subjects[0], info.Config.AllowAtomicPublish}
	switch {
	case epoch != t.epoch:
		first := max(info.State.FirstSeq, 1)
		if info.State.Msgs == 0 {
			first = info.State.LastSeq + 1
		}
		if n := uint64(t.options().MaxEvents); n > 0 && info.State.LastSeq >= n {
			first = max(first, info.State.LastSeq-n+1)
		}
		t.target = info.State.LastSeq
		t.begin(epoch, first)
	case info.State.LastSeq < t.last.seq:
		if t.short.IsZero() {
			t.short = time.Now()
		}
		if time.Since(t.short) < patience {
			return fmt.Errorf("stream %s ends with %d, before %d, which it had delivered", t.config.stream, info.State.LastSeq, t.last.seq)
		}
		return t.reused(ctx)
	}
	t.short = time.Time{}
	if t.last.seq >= info.State.LastSeq {
		t.status(0)
	}
	return nil
}

// begin starts a life of the history, or leaves out what cannot be had any more.
func (t *tail) begin(epoch string, first uint64) {
	t.epoch, t.last = epoch, mark{seq: first - 1}
	t.note(t.last)
	t.feed.Begin(epoch, first)
}

// reused makes what the stream has now another life.
func (t *tail) reused(ctx context.Context) error {
	if err := t.newLife(ctx, t.found); err != nil {
		return fmt.Errorf("%w; beginning another epoch: %w", errReused, err)
	}
	return errOtherLife
}

// status says how far behind the history is.
func (t *tail) status(behind uint64) {
	if t.target > t.last.seq {
		behind = max(behind, t.target-t.last.seq)
	} else if t.target > 0 {
		t.target, behind = 0, 0 // whole, as it was when it was first looked at
	}
	t.behind = behind
	t.feed.Status(true, behind)
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

	var batch []jetstream.Msg
	for {
		select {
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
		// What fails here for a while, the consumer will notice if it matters.
		found, err := t.find(ctx)
		if err != nil {
			continue
		}
		switch info := found.CachedInfo(); {
		case epochOf(info.Config, info.Created) != known.epoch:
			fail(errOtherLife)
			return
		case info.State.LastSeq < last.seq:
			fail(errReused)
			return
		}
	}
}

// deliver feeds messages, and refuses what is not the next event.
func (t *tail) deliver(ctx context.Context, messages []jetstream.Msg) error {
	records := make([]hub.Record, 0, len(messages))
	flush := func() {
		if len(records) > 0 {
			t.feed.Deliver(records)
			records = records[:0]
		}
	}
	var pending uint64
	for _, m := range messages {
		meta, err := m.Metadata()
		if err != nil {
			return err
		}
		seq := meta.Sequence.Stream
		pending = meta.NumPending
		if seq != t.last.seq+1 {
			flush()
			if !t.fresh || seq <= t.last.seq {
				return errHole
			}
			if err := t.gone(ctx, seq); err != nil {
				return err
			}
			t.begin(t.epoch, seq)
		}
		t.fresh = false
		var event hub.Event
		if err := event.ParseBinary(m.Data()); err != nil {
			flush()
			t.log().Error("a message of the stream is left out: only hubs of this version or an earlier one may publish to it",
				zap.Uint64("message", seq), zap.Error(err))
			t.begin(t.epoch, seq+1)
			continue
		}
		t.setClock(&event, meta.Timestamp)
		records = append(records, hub.Record{Seq: seq, Event: event})
		t.last = mark{seq, meta.Timestamp}
	}
	flush()
	t.note(t.last)
	t.status(pending)
	return nil
}

// gone makes sure that the stream has nothing between the last event and seq: the
// consumer may be on a server that has yet to catch up.
func (t *tail) gone(ctx context.Context, seq uint64) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	info, err := t.found.Info(ctx, jetstream.WithDeletedDetails(true))
	if err != nil {
		return err
	}
	missing := max(t.last.seq+1, info.State.FirstSeq)
	slices.Sort(info.State.Deleted)
	for _, deleted := range info.State.Deleted {
		if deleted == missing {
			missing++
		}
	}
	if missing < seq {
		return errHole
	}
	return nil
}

// setClock corrects the times of an event if the clock of the node that accepted
// it and ours differ, lest it be evicted at once, or block those behind it.
func (t *tail) setClock(e *hub.Event, stored time.Time) {
	at := stored.Add(t.skew)
	if waited := at.Sub(e.At); waited >= clockBefore && waited <= clockAfter {
		return
	}
	if now := time.Now(); at.After(now) {
		at = now
	}
	if !e.Expires.IsZero() {
		e.Expires = at.Add(e.Expires.Sub(e.At))
	}
	e.At = at
}
