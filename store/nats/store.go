package natsstore

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/ea766355/caddy-sse/hub"
	"github.com/ea766355/caddy-sse/internal/runlog"
)

// config is the configuration of a store.
type config struct {
	servers  []string // URLs
	stream   string
	replicas int
	hub      string
	options  []nats.Option
}

// store is one node's access to the stream. Append publishes to the stream and Tail
// reads it. Both use what Tail found out about the stream.
type store struct {
	config
	conn *nats.Conn
	js   jetstream.JetStream
	*peers

	wakeups  chan struct{} // one slot: the tail must look at the stream
	batching chan struct{} // a slot for each batch that may be in flight

	inFlight sync.WaitGroup // counts calls of Append; none begins after closing
	closing  chan struct{}  // closed by Close, with mu held
	closed   sync.Once

	mu          sync.Mutex  // not held during calls of conn, which may wait for the network
	opts        hub.Options // zero until Retain
	known       *stream     // nil: the state of the stream is not known
	distrusted  bool        // known was found to be wrong
	changed     chan struct{}
	delivered   mark
	skew        time.Duration   // this node's clock minus the server's
	lastProblem error           // nil: the store works
	logged      map[string]bool // problems that were logged since the store last worked
	shortfall   string          // limits of the stream that are too low, as logged last
	writes      writes
	denied      error // the server's last refusal for a missing permission
	deniedAt    time.Time
}

// stream is the state of the stream when the tail last looked at it.
type stream struct {
	jetstream.Stream
	epoch string
	terms
}

// terms are the settings of the stream that matter for publishing. An operator can edit
// them at any time.
type terms struct {
	subject string
	atomic  bool  // the stream accepts atomic batches
	maxSize int64 // bytes of a message with its headers; 0: only the limit of the servers
}

// mark identifies the last message of the stream that the hub has.
type mark struct {
	seq uint64
	tag hub.Tag // zero: not known
}

const (
	// requestTimeout is how long the server may take to create or change a stream or
	// a consumer.
	requestTimeout = 2 * time.Second

	// findTimeout is how long the server may take to describe a stream. A request is
	// never answered while the stream has no leader. So this is also the delay until
	// a new leader is noticed.
	findTimeout = time.Second

	// retryWait is the wait after a failure before the next try.
	retryWait = 100 * time.Millisecond

	// maxBatches is the number of batches that a node has in flight. A server allows
	// 50 per stream, for all nodes. A batch beyond that is tried again.
	maxBatches = 8
)

// open returns a store that connects in the background and reconnects for ever.
func open(c config) (*store, error) {
	s := &store{
		config:   c,
		wakeups:  make(chan struct{}, 1),
		batching: make(chan struct{}, maxBatches),
		closing:  make(chan struct{}),
		changed:  make(chan struct{}),
		logged:   make(map[string]bool),
	}
	options := append([]nats.Option{
		// nats.Connect would split its URL at commas, which a password may have.
		func(o *nats.Options) error { o.Servers = c.servers; return nil },
		nats.Name("caddy-sse hub " + c.hub),
		nats.RetryOnFailedConnect(true),
		nats.IgnoreAuthErrorAbort(),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(reconnectWait),
		nats.ReconnectJitter(reconnectWait, reconnectWait),
		nats.PingInterval(pingInterval),
		nats.MaxPingsOutstanding(pingsMissed),
		nats.Timeout(requestTimeout),
		// Without a connection a publish fails at once. The client must not keep it and
		// send it later.
		nats.ReconnectBufSize(-1),
		nats.ConnectHandler(func(*nats.Conn) { s.wake() }),
		nats.ReconnectHandler(func(*nats.Conn) { s.wake() }),
		nats.DisconnectErrHandler(func(*nats.Conn, error) { s.wake() }),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) { s.reportProblem(fmt.Errorf("%w: %w", errAway, err)) }),
		nats.ErrorHandler(func(c *nats.Conn, _ *nats.Subscription, err error) { s.noteRefusal(c, err) }),
	}, c.options...)
	conn, err := nats.Connect("", options...)
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

// Retain implements hub.Store. The tail raises limits of the stream that are lower.
func (s *store) Retain(opts hub.Options, _ uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.opts != opts {
		s.opts = opts
		s.wake()
	}
}

// Shared implements hub.Store.
func (*store) Shared() bool { return true }

// Close implements hub.Store.
func (s *store) Close() error {
	s.closed.Do(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		close(s.closing)
	})
	s.inFlight.Wait()
	s.leave()
	s.conn.Close()
	return nil
}

// begin counts a call of Append, and returns true. Append then calls s.inFlight.Done. If the
// store is closing, begin returns false.
func (s *store) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isClosing() {
		return false
	}
	s.inFlight.Add(1)
	return true
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

// wake makes the tail look at the stream again.
func (s *store) wake() {
	select {
	case s.wakeups <- struct{}{}:
	default:
	}
}

// setKnown sets the known state of the stream; nil means that it is not known.
func (s *store) setKnown(known *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known, s.distrusted = known, false
	close(s.changed)
	s.changed = make(chan struct{})
}

// distrust discards a known state that was found to be wrong, and wakes the tail.
func (s *store) distrust(known *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known == known {
		s.known, s.distrusted = nil, true
		s.wake()
	}
}

// isCurrent reports whether the stream still has the epoch of known, and whether that
// is distrusted.
func (s *store) isCurrent(known *stream) (ok, distrusted bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.known != nil && s.known.epoch == known.epoch, s.distrusted
}

// setSkew records the difference between this node's clock and the server's. It can
// change, since either clock can be set.
func (s *store) setSkew(skew time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.skew = skew
}

// ourTime converts a time of the server's clock to this node's clock. It is never in the
// future.
func (s *store) ourTime(at time.Time) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	at = at.Add(s.skew)
	if now := time.Now(); at.After(now) {
		return now
	}
	return at
}

// setDelivered records the last delivered message.
func (s *store) setDelivered(delivered mark) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.delivered = delivered
}

func (s *store) lastDelivered() mark {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.delivered
}

// verifyDelivered returns errReused if the stream has another message at the position of
// the hub's last one, or ends before it. A message that was deleted there is no error.
func (s *store) verifyDelivered(ctx context.Context, known *stream) error {
	last := s.lastDelivered()
	m, err := known.GetMsg(ctx, max(last.seq, 1)) // also if there is nothing to compare: the server may not allow it
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		info, err := known.Info(ctx)
		if err == nil && info.State.LastSeq < last.seq {
			err = errReused
		}
		return err
	}
	if err == nil && last.tag != (hub.Tag{}) && hub.TagOf(m.Data) != last.tag {
		err = errReused
	}
	return err
}

// awaitStream waits until the state of the stream is known.
func (s *store) awaitStream(ctx context.Context) (*stream, error) {
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
			return nil, s.unavailable()
		}
	}
}

var (
	errClosed = errors.New("the store is closed")
	errAway   = errors.New("NATS is not reachable: check the servers and their URLs")
	errSilent = errors.New("NATS did not answer in time")
)

// awayError returns errAway, with the last error of the client if there is one. The client
// calls no handler when it reconnects to a server that it cannot use. The caller must not
// hold s.mu.
func (s *store) awayError() error {
	if err := s.conn.LastError(); err != nil {
		return fmt.Errorf("%w: %w", errAway, err)
	}
	return errAway
}

// unavailable returns the reason why the stream is not known, as far as there is one. The
// caller must not hold s.mu.
func (s *store) unavailable() error {
	connected := s.conn.IsConnected() // it may wait while the client connects, so before mu.Lock
	s.mu.Lock()
	defer s.mu.Unlock()
	away := errors.Is(s.lastProblem, errAway)
	switch {
	case s.lastProblem != nil && connected != away:
		return s.lastProblem
	case connected:
		return errSilent
	default:
		return errAway
	}
}

// noteRefusal records an error that the server reports on the connection. The server
// does not say which request it refuses, and that request gets no answer. conn may not be in
// s.conn yet.
func (s *store) noteRefusal(conn *nats.Conn, err error) {
	if errors.Is(err, nats.ErrPermissionViolation) {
		s.mu.Lock()
		s.denied, s.deniedAt = err, time.Now()
		s.mu.Unlock()
	}
	if !conn.IsConnected() {
		err = fmt.Errorf("%w: %w", errAway, err)
	}
	s.reportProblem(err)
}

// cause returns why a request or a consumer had no answer: the server's last refusal if err
// is a timeout and the refusal is recent, else err.
func (s *store) cause(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	timeout := errors.Is(err, context.DeadlineExceeded) || errors.Is(err, jetstream.ErrNoHeartbeat)
	if timeout && s.denied != nil && time.Since(s.deniedAt) < hub.PublishTimeout {
		return s.denied
	}
	return err
}

// varying matches the parts in which errors of the same kind differ: ports, times, and the
// random names at the end of subjects.
var varying = regexp.MustCompile(`[A-Za-z0-9]{8,}"|[0-9]+`)

// reportProblem records and logs why the store does not work. Of errors that differ only in
// varying parts, it logs the first.
func (s *store) reportProblem(err error) {
	err = s.cause(err)
	text := varying.ReplaceAllString(err.Error(), "0")
	s.mu.Lock()
	known := s.logged[text]
	if err != errAway || !errors.Is(s.lastProblem, errAway) { // the last one may say more
		s.lastProblem = err
	}
	s.logged[text] = true
	s.mu.Unlock()
	if !known {
		s.log().Warn("the store does not work and keeps trying", zap.Error(err))
	}
}

// reportWorking logs that the store works.
func (s *store) reportWorking(epoch string, last uint64) {
	s.mu.Lock()
	s.lastProblem = nil
	clear(s.logged)
	s.mu.Unlock()
	s.log().Info("reading the history", zap.String("server", s.conn.ConnectedServerName()),
		zap.String("epoch", epoch), zap.Uint64("last", last))
}

// log returns a logger of the config in force: the store outlives the config that opened
// it.
func (s *store) log() *zap.Logger {
	return runlog.Logger(Store{}).With(zap.String("hub", s.hub), zap.String("stream", s.config.stream))
}

var _ hub.Store = (*store)(nil)
