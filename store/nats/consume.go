package natsstore

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/ea766355/caddy-sse/hub"
)

// read delivers the messages of the consumer until an error.
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
	found, reconnects := t.found, t.reconnects
	running.Go(func() { t.watch(ctx, found, reconnects, fail) })

	working := time.NewTimer(workingAfter)
	defer working.Stop()
	targeting := time.NewTicker(targetEvery)
	defer targeting.Stop()
	var batch []jetstream.Msg
	for {
		select {
		case <-working.C:
			t.reportWorking(t.epoch, t.found.CachedInfo().State.LastSeq)
			if t.silence != nil {
				t.silence = nil
				t.status(t.behind)
			}
		case <-targeting.C:
			// The missing messages may have been deleted.
			if t.target > t.last.seq {
				if err := t.setTarget(ctx); err != nil {
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

// watch checks the stream every checkEvery, and on each wakeup. It calls fail if the
// consumer must end.
//
// A message can be lost on its way: on a connection that ends, even if the client has
// connected to another server already, or between two servers. The consumer sends it once.
// The next message would show that it is missing, but may not come for a long time.
func (t *tail) watch(ctx context.Context, known *stream, reconnects uint64, fail func(error)) {
	ticker := time.NewTicker(checkEvery)
	defer ticker.Stop()
	var before struct{ delivered, end uint64 } // at the last tick
	for {
		ticked := false
		select {
		case <-ticker.C:
			ticked = true
		case <-t.wakeups:
		case <-ctx.Done():
			return
		}
		if !t.conn.IsConnected() || t.conn.Stats().Reconnects != reconnects {
			fail(errLost)
			return
		}
		if _, distrusted := t.isCurrent(known); distrusted {
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
			continue // a consumer that does not work fails by its heartbeat
		}
		switch info := found.CachedInfo(); {
		case epochOf(info.Config, info.Created) != known.epoch:
			fail(errOtherEpoch)
			return
		case info.State.LastSeq < last.seq:
			fail(errReused)
			return
		case termsOf(info.Config) != known.terms:
			fail(errChanged)
			return
		case ticked && last.seq < before.end && last.seq == before.delivered:
			fail(errSkipped)
			return
		case ticked:
			before.delivered, before.end = last.seq, info.State.LastSeq
		}
	}
}

// deliver delivers messages to the feed, up to the first for which checkNext fails.
func (t *tail) deliver(ctx context.Context, messages []jetstream.Msg) error {
	records := make([]hub.Record, 0, len(messages))
	var pending uint64
	var failure error
	for _, m := range messages {
		meta, err := m.Metadata()
		if err == nil {
			err = t.checkNext(ctx, meta.Sequence.Stream)
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
		t.setDelivered(t.last)
		t.silence = nil
		t.status(pending)
	}
	return failure
}

// checkNext returns errSkipped unless seq is the next message, or all messages between
// were deleted. The consumer may be on a server that has yet to catch up.
func (t *tail) checkNext(ctx context.Context, seq uint64) error {
	next := t.last.seq + 1
	switch {
	case seq == next:
		return nil
	case seq < next:
		return errSkipped
	case t.deletions.cover(next, seq):
		return nil
	}
	if err := t.deletions.refresh(ctx, t.found); err != nil {
		return err
	}
	if !t.deletions.cover(next, seq) {
		return errSkipped
	}
	return nil
}
