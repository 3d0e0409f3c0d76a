package natsstore

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ea766355/caddy-sse/hub"
)

// How long one attempt waits for its answer before the next begins. What the
// server did with the first does not matter then, since it knows the keys.
const (
	attemptTimeout = time.Second
	batchTimeout   = 3 * time.Second
)

// Error codes of JetStream that its Go client does not name.
const (
	codeAtomicDisabled    jetstream.ErrorCode = 10174
	codeAtomicUnsupported jetstream.ErrorCode = 10177 // msg ids in batches, before 2.12.1
	codeAtomicTooLarge    jetstream.ErrorCode = 10199
	codeAtomicDuplicate   jetstream.ErrorCode = 10201
	codeInProcess         jetstream.ErrorCode = 10158 // the same key, on its way
	codeRollup            jetstream.ErrorCode = 10111
	codeStoreFailed       jetstream.ErrorCode = 10077 // on this server; others may have stored it
)

// Headers of an atomic batch. [NATS ADR-50]
const (
	batchID       = "Nats-Batch-Id"
	batchSequence = "Nats-Batch-Sequence"
	batchCommit   = "Nats-Batch-Commit"
)

// headerBytes is what the headers of a message may take at most, with a key of
// which all is escaped.
const headerBytes = 3*hub.MaxKeyLength + 256

// errNotOurs is what is wrong when another stream answers.
var errNotOurs = errors.New("another stream took the message")

// errNoBatches is why a batch was refused.
var errNoBatches = errors.New("the NATS servers do not store batches all or nothing: update them to nats-server 2.12.1 or later, " +
	"and allow it for the stream, or publish one event a request")

// Append implements hub.Store.
func (s *store) Append(ctx context.Context, entries []hub.Entry) ([]hub.Stored, error) {
	s.inFlight.RLock()
	defer s.inFlight.RUnlock()
	if s.isClosing() {
		return nil, fmt.Errorf("%w: %w", hub.ErrNotStored, errClosed)
	}
	p := publication{store: s, stored: make([]hub.Stored, len(entries)), at: make([]int, len(entries))}
	first := make(map[string]int, len(entries)) // by key
	for i := range entries {
		made := entries[i].Key == ""
		if made {
			entries[i].Key = rand.Text()
		}
		at, again := first[entries[i].Key]
		if again {
			p.at[i] = at
			continue
		}
		first[entries[i].Key] = i
		p.at[i] = i
		p.all = append(p.all, &message{index: i, made: made, id: url.PathEscape(entries[i].Key), data: entries[i].Data})
	}
	err := p.run(ctx)
	s.noteAppend(ctx, err)
	if err != nil {
		return nil, err
	}
	for i, at := range p.at {
		if at != i {
			p.stored[i] = hub.Stored{Position: p.stored[at].Position, Duplicate: true}
		}
	}
	return p.stored, nil
}

// publication is the state of one Append.
type publication struct {
	*store
	stored []hub.Stored
	at     []int      // of each entry the first with its key
	all    []*message // in order
	epoch  string     // in which the answers are
	before uint64     // delivered when the attempt began
	todo   []*message // what has no answer yet, in order
	unsure bool       // an attempt ended without an answer
	cause  error      // why the last one failed that was not out of time
}

// message is an entry that is to be published.
type message struct {
	index int
	made  bool   // its key was made for this Append
	fresh bool   // an attempt was told that it stored it
	id    string // the key, as a header holds it
	data  []byte
}

func (m *message) to(subject string) *nats.Msg {
	return &nats.Msg{Subject: subject, Header: nats.Header{jetstream.MsgIDHeader: {m.id}}, Data: m.data}
}

// run tries until all is stored, or it is clear that it will not be.
func (p *publication) run(ctx context.Context) error {
	for {
		known, err := p.await(ctx)
		if err == nil && ctx.Err() != nil {
			err = ctx.Err()
		}
		if err != nil {
			return p.failed(err)
		}
		if known.epoch != p.epoch {
			p.epoch, p.todo = known.epoch, p.all
		}
		if err = p.attempt(ctx, known); err == nil && len(p.todo) == 0 {
			if ok, _ := p.knows(known); ok {
				return nil
			}
			// Meanwhile another life may have begun, in which the answers are wrong.
			p.epoch, p.unsure = "", true
		}
		if final(err) && !p.unsure {
			return p.failed(err)
		}
		if err == nil {
			continue
		}
		if !errors.Is(err, context.DeadlineExceeded) {
			p.cause = err
		}
		select {
		case <-ctx.Done():
			return p.failed(err)
		case <-time.After(retryWait):
		}
		if p.isClosing() && !p.unsure {
			return p.failed(errClosed)
		}
	}
}

// failed is what Append answers when it gives up.
func (p *publication) failed(err error) error {
	if _, ok := errors.AsType[*hub.BatchError](err); ok && !p.unsure {
		return err
	}
	switch {
	case !p.conn.IsConnected() && !errors.Is(err, errClosed):
		err = p.whyNot()
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		err = p.store.cause(cmp.Or(p.cause, err))
		if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
			err = errSilent
		}
	}
	if p.unsure {
		return fmt.Errorf("%w: %w", hub.ErrUncertain, err)
	}
	return fmt.Errorf("%w: %w", hub.ErrNotStored, err)
}

// attempt publishes what is to do once. What it got an answer for is not to do
// any more.
func (p *publication) attempt(ctx context.Context, known *stream) error {
	if !p.conn.IsConnected() {
		return errAway // before the client might keep it for later
	}
	p.before = p.lastDelivered().seq
	limit, remedy := p.conn.MaxPayload(), "max_payload of the NATS servers"
	if known.maxSize > 0 && known.maxSize < limit {
		limit, remedy = known.maxSize, "max-msg-size of stream "+p.config.stream
	}
	for _, m := range p.todo {
		if size := int64(len(m.data) + headerBytes); size > limit && limit > 0 {
			return &hub.BatchError{Index: m.index, Err: fmt.Errorf("%w: NATS takes messages of at most %d bytes, and it would be %d: "+
				"raise %s, or lower max_event_size", hub.ErrTooLarge, limit, size, remedy)}
		}
	}
	if len(p.todo) == 1 {
		return p.one(ctx, known)
	}
	if !known.atomic {
		return errNoBatches
	}
	err := p.batch(ctx, known)
	switch code(err) {
	case codeAtomicDuplicate, codeInProcess:
		return p.ask(ctx, known)
	case codeAtomicDisabled, codeAtomicUnsupported:
		return errNoBatches
	}
	return err
}

// one publishes a single message.
func (p *publication) one(ctx context.Context, known *stream) error {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	ack, err := p.js.PublishMsg(ctx, p.todo[0].to(known.subject), jetstream.WithRetryAttempts(0))
	if err == nil {
		err = p.own(ack)
	}
	if err != nil {
		p.doubt(err)
		return err
	}
	p.answer(p.todo[0], known, ack.Sequence, ack.Duplicate)
	if err := p.believe(ctx, known, ack.Sequence, ack.Duplicate); err != nil {
		return err
	}
	p.todo = nil
	return nil
}

// believe makes sure that a message is where the server says. If the stream has
// lost events, their positions may be used again, before the tail has noticed: by
// what is stored now, or, if it is a duplicate, was by another node.
func (p *publication) believe(ctx context.Context, known *stream, seq uint64, duplicate bool) (err error) {
	switch {
	case seq > p.before:
	case duplicate:
		err = p.verify(ctx, known)
	default:
		err = errReused
	}
	if err != nil {
		p.unsure = true
	}
	if errors.Is(err, errReused) {
		p.distrust(known)
	}
	return err
}

// batch publishes the messages as an atomic batch: the server keeps them aside
// until the last one commits them all. A batch that has begun is sent to its end,
// since the server would wait for the rest of it.
func (p *publication) batch(ctx context.Context, known *stream) error {
	select {
	case p.batching <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-p.batching }()
	id := rand.Text()
	last := len(p.todo) - 1
	for i, m := range p.todo {
		msg := m.to(known.subject)
		msg.Header.Set(batchID, id)
		msg.Header.Set(batchSequence, strconv.Itoa(i+1))
		if i < last {
			if err := p.conn.PublishMsg(msg); err != nil {
				return err // it is not committed
			}
			continue
		}
		msg.Header.Set(batchCommit, "1")
		ack, err := p.wait(ctx, msg)
		if err != nil {
			p.doubt(err)
			return err
		}
		first := ack.Sequence - uint64(last)
		for i, m := range p.todo {
			p.answer(m, known, first+uint64(i), false)
		}
		if err := p.believe(ctx, known, first, false); err != nil {
			return err
		}
	}
	p.todo = nil
	return nil
}

// ask finds out which messages of a batch are stored already: with the others the
// batch can be repeated. It publishes each with a header that the server refuses,
// after it has looked for a duplicate, so that nothing is stored.
func (p *publication) ask(ctx context.Context, known *stream) error {
	answers := make([]jetstream.PubAckFuture, len(p.todo))
	for i, m := range p.todo {
		msg := &nats.Msg{Subject: known.subject, Header: nats.Header{jetstream.MsgIDHeader: {m.id}, jetstream.MsgRollup: {"none"}}}
		var err error
		if answers[i], err = p.js.PublishMsgAsync(msg, jetstream.WithRetryAttempts(0)); err != nil {
			return err
		}
	}
	var rest []*message
	oldest := ^uint64(0)
	for i, m := range p.todo {
		ack, err := p.acked(ctx, answers[i])
		switch {
		case err == nil:
			oldest = min(oldest, ack.Sequence)
			p.answer(m, known, ack.Sequence, true)
		case code(err) == codeRollup:
			rest = append(rest, m)
		default:
			return err
		}
	}
	if err := p.believe(ctx, known, oldest, true); err != nil {
		p.epoch = ""
		return err
	}
	p.todo = rest
	return nil
}

// wait publishes a message, in any case, and waits for its answer until ctx ends.
func (s *store) wait(ctx context.Context, msg *nats.Msg) (*jetstream.PubAck, error) {
	future, err := s.js.PublishMsgAsync(msg, jetstream.WithRetryAttempts(0))
	if err != nil {
		return nil, err
	}
	return s.acked(ctx, future)
}

// own refuses the answer of another stream, to which somebody has given the
// subject.
func (s *store) own(ack *jetstream.PubAck) error {
	if ack.Stream == s.config.stream {
		return nil
	}
	return fmt.Errorf("%w: stream %s has its subject", errNotOurs, ack.Stream)
}

func (s *store) acked(ctx context.Context, future jetstream.PubAckFuture) (*jetstream.PubAck, error) {
	select {
	case ack := <-future.Ok():
		return ack, s.own(ack)
	case err := <-future.Err():
		return nil, err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// answer notes where a message is. One that an earlier attempt stored, or whose
// key only this Append knows, is a duplicate of its own.
func (p *publication) answer(m *message, known *stream, seq uint64, duplicate bool) {
	m.fresh = m.fresh || m.made || !duplicate
	p.stored[m.index] = hub.Stored{Position: hub.Position{Epoch: known.epoch, Seq: seq}, Duplicate: !m.fresh}
}

// doubt notes that an attempt may have stored something, unless the error says
// that it cannot have. An error that the stream does not take messages as before
// makes the tail look at it.
func (p *publication) doubt(err error) {
	switch {
	case errors.Is(err, jetstream.ErrNoStreamResponse), errors.Is(err, errNotOurs),
		code(err) == jetstream.JSErrCodeStreamMessageExceedsMaximum, code(err) == codeAtomicDisabled:
		p.poke()
	case code(err) != 0 && code(err) != codeStoreFailed:
	case errors.Is(err, nats.ErrReconnectBufExceeded), errors.Is(err, nats.ErrMaxPayload):
	default:
		p.unsure = true
	}
}

// final reports whether trying again is of no use.
func final(err error) bool {
	if _, ok := errors.AsType[*hub.BatchError](err); ok || errors.Is(err, errNoBatches) {
		return true
	}
	return code(err) == codeAtomicTooLarge
}

// code is the error's code of JetStream; 0: it has none.
func code(err error) jetstream.ErrorCode {
	if failure, ok := errors.AsType[*jetstream.APIError](err); ok {
		return failure.ErrorCode
	}
	if failure, ok := errors.AsType[jetstream.JetStreamError](err); ok && failure.APIError() != nil {
		return failure.APIError().ErrorCode
	}
	return 0
}
