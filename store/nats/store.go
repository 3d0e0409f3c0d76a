package natsstore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/ea766355/caddy-sse/hub"
)

// config is what a store is opened with.
type config struct {
	servers  string // URLs, with commas between
	stream   string
	replicas int
	hub      string
	options  []nats.Option
}

// store is one node's access to the stream. Append publishes to it, Tail reads
// it; they share what is known about the stream.
type store struct {
	config
	conn *nats.Conn
	js   jetstream.JetStream
	*peers

	again    chan struct{} // one slot: the tail has something to look at
	batching chan struct{} // a slot for each batch that may be under way

	inFlight sync.RWMutex  // read-locked by each Append
	closing  chan struct{} // closed by Close
	closed   sync.Once

	mu        sync.Mutex
	opts      hub.Options // zero until Retain
	known     *stream     // nil while nobody knows
	doubted   bool        // what was known turned out to be wrong
	changed   chan struct{}
	delivered mark
	skew      time.Duration   // to be added to the server's clock for ours
	why       error           // the last complaint; nil: it works
	said      map[string]bool // complaints since it last worked, not to be repeated
	lacking   string          // what the stream keeps less than it should
	writes    writes
	denied    error // by the server, for want of a permission
	deniedAt  time.Time
}

// stream is what is known about the stream.
type stream struct {
	jetstream.Stream
	epoch string
	terms
}

// terms are those on which the stream takes messages. An operator may edit them at
// any time.
type terms struct {
	subject string
	atomic  bool  // it takes batches, all or none
	maxSize int64 // of a message with its headers; 0: no more than NATS bounds it
}

// mark is the last message of the stream that the hub has.
type mark struct {
	seq uint64
	tag hub.Tag // zero: it is not known
}

const (
	// requestTimeout is how long the server may take to make or change a stream or
	// a consumer.
	requestTimeout = 2 * time.Second

	// findTimeout is how long it may take to say what a stream is. What is asked
	// while the stream has no leader is never answered, so this is also how late it
	// may be noticed that there is one again.
	findTimeout = time.Second

	// retryWait is how long what failed rests before it is tried again.
	retryWait = 100 * time.Millisecond

	// maxBatches is how many batches a node sends at once. A server allows 50 a
	// stream, of all nodes; who exceeds that tries again.
	maxBatches = 8
)

// open makes a store that connects by itself, now or later.
func open(c config) (*store, error) {
	s := &store{
		config:   c,
		again:    make(chan struct{}, 1),
		batching: make(chan struct{}, maxBatches),
		closing:  make(chan struct{}),
		changed:  make(chan struct{}),
		said:     make(map[string]bool),
	}
	options := append([]nats.Option{
		nats.Name("caddy-sse hub " + c.hub),
		nats.RetryOnFailedConnect(true),
		nats.IgnoreAuthErrorAbort(),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(reconnectWait),
		nats.ReconnectJitter(reconnectWait, reconnectWait),
		nats.PingInterval(pingInterval),
		nats.MaxPingsOutstanding(pingsMissed),
		nats.Timeout(requestTimeout),
		// What is published while there is no connection fails at once, instead of
		// being sent whenever there is one.
		nats.ReconnectBufSize(-1),
		nats.ConnectHandler(func(*nats.Conn) { s.poke() }),
		nats.ReconnectHandler(func(*nats.Conn) { s.poke() }),
		nats.DisconnectErrHandler(func(*nats.Conn, error) { s.poke() }),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) { s.complain(fmt.Errorf("%w: %w", errAway, err)) }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { s.deny(err) }),
	}, c.options...)
	conn, err := nats.Connect(c.servers, options...)
	if err != nil {
		return nil, fmt.Errorf("NATS: %w", err)
	}
	s.conn = conn
	if s.js, err = jetstream.New(conn, jetstream.WithDefaultTimeout(requestTimeout), jetstream.WithPublishAsyncTimeout(batchTimeout)); err != nil {
		conn.Close()
		return nil, fmt.Errorf("NATS: %w", err)
	}
	s.peers = newPeers(conn, c.stream, s.log)
	return s, nil
}

// Retain implements hub.Store. The stream is made to keep at least that much.
func (s *store) Retain(opts hub.Options, _ uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.opts != opts {
		s.opts = opts
		s.poke()
	}
}

// Shared implements hub.Store.
func (*store) Shared() bool { return true }

// Close implements hub.Store.
func (s *store) Close() error {
	s.closed.Do(func() { close(s.closing) })
	s.inFlight.Lock()
	defer s.inFlight.Unlock()
	s.leave()
	s.conn.Close()
	return nil
}

func (s *store) isClosing() bool {
	select {
	case <-s.closing:
		return true
	default:
		return false
	}
}

func (s *store) options() hub.Options {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.opts
}

// poke makes the tail look at the stream again.
func (s *store) poke() {
	select {
	case s.again <- struct{}{}:
	default:
	}
}

// learn sets what is known about the stream; nil: nothing any more.
func (s *store) learn(known *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known, s.doubted = known, false
	close(s.changed)
	s.changed = make(chan struct{})
}

// distrust says that what is known is wrong, so that the tail looks.
func (s *store) distrust(known *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known == known {
		s.known, s.doubted = nil, true
		s.poke()
	}
}

// knows reports whether the stream is in the same life as known, and whether
// somebody doubts that.
func (s *store) knows(known *stream) (ok, doubted bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.known != nil && s.known.epoch == known.epoch, s.doubted
}

// setSkew notes how far the server's clock is from ours. Either may be set.
func (s *store) setSkew(skew time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.skew = skew
}

// ourTime is a time of the server's clock by ours.
func (s *store) ourTime(at time.Time) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	at = at.Add(s.skew)
	if now := time.Now(); at.After(now) {
		return now
	}
	return at
}

// note remembers what was delivered last.
func (s *store) note(delivered mark) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.delivered = delivered
}

func (s *store) lastDelivered() mark {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.delivered
}

// verify makes sure that the stream has, at the place of what the hub has last,
// that and nothing else. If it has nothing there any more, it must have got that
// far at least.
func (s *store) verify(ctx context.Context, known *stream) error {
	last := s.lastDelivered()
	if last.tag == (hub.Tag{}) {
		return nil
	}
	m, err := known.GetMsg(ctx, last.seq)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		info, err := known.Info(ctx)
		if err == nil && info.State.LastSeq < last.seq {
			err = errReused
		}
		return err
	}
	if err == nil && hub.TagOf(m.Data) != last.tag {
		err = errReused
	}
	return err
}

// await waits until the stream is known.
func (s *store) await(ctx context.Context) (*stream, error) {
	for {
		s.mu.Lock()
		known, changed := s.known, s.changed
		s.mu.Unlock()
		if known != nil {
			return known, nil
		}
		select {
		case <-changed:
		case <-s.closing:
			return nil, errClosed
		case <-ctx.Done():
			return nil, s.whyNot()
		}
	}
}

var (
	errClosed = errors.New("the store is closed")
	errAway   = errors.New("NATS is not reachable")
	errSilent = errors.New("NATS did not answer in time")
)

// whyNot is the reason why the stream is not known, as far as that is.
func (s *store) whyNot() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	connected, away := s.conn.IsConnected(), errors.Is(s.why, errAway)
	switch {
	case s.why != nil && connected != away:
		return s.why
	case connected:
		return errSilent
	default:
		return errAway
	}
}

// deny notes what the server refuses. It does so without a link to what was asked,
// which then is not answered.
func (s *store) deny(err error) {
	if errors.Is(err, nats.ErrPermissionViolation) {
		s.mu.Lock()
		s.denied, s.deniedAt = err, time.Now()
		s.mu.Unlock()
	}
	if !s.conn.IsConnected() {
		err = fmt.Errorf("%w: %w", errAway, err)
	}
	s.complain(err)
}

// cause is why there was no answer, as far as that is known: err, or what the
// server has refused of late.
func (s *store) cause(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if errors.Is(err, context.DeadlineExceeded) && s.denied != nil && time.Since(s.deniedAt) < hub.PublishTimeout {
		return s.denied
	}
	return err
}

// complain logs what keeps the store from working, each cause once.
func (s *store) complain(err error) {
	err = s.cause(err)
	text := err.Error()
	s.mu.Lock()
	said := s.said[text]
	if err != errAway || !errors.Is(s.why, errAway) { // which may say more
		s.why = err
	}
	s.said[text] = true
	s.mu.Unlock()
	if !said {
		s.log().Warn("the store does not work; trying again until it does", zap.Error(err))
	}
}

// rejoice logs that it works.
func (s *store) rejoice(epoch string, last uint64) {
	s.mu.Lock()
	s.why = nil
	clear(s.said)
	s.mu.Unlock()
	s.log().Info("reading the history", zap.String("server", s.conn.ConnectedServerName()),
		zap.String("epoch", epoch), zap.Uint64("last", last))
}

// log is the logger of the config in force: the store outlives the one that
// opened it.
func (s *store) log() *zap.Logger {
	return caddy.Log().Named("sse.stores.nats").With(zap.String("hub", s.hub), zap.String("stream", s.config.stream))
}

var _ hub.Store = (*store)(nil)
