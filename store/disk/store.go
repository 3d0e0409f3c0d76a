package disk

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/ea766355/caddy-sse/hub"
	"github.com/ea766355/caddy-sse/internal/runlog"
)

// Store is a history in a file. It implements [hub.Store]. Its methods may be called
// from any goroutine.
type Store struct {
	path string
	settings
	nonce     string        // prefix of generated keys
	generated atomic.Uint64 // number of generated keys
	wake      chan struct{} // one slot: the queue is not empty
	closed    chan struct{}

	// Owned by the goroutine that runs Tail, and by Close after it.
	file      *file
	loaded    bool          // the feed has the history of this file
	uncertain *group        // may or may not be stored; nil: no such group
	failed    time.Time     // when the file could not be used; zero: it can be used
	opening   time.Duration // how long it took to open the file again; zero: it never failed

	// Guarded by mu, which is never held during calls of the file, the feed or the log.
	mu        sync.Mutex
	note      string // for the operator
	queue     []*request
	inFlight  *group // being committed, or uncertain
	refuseErr error  // why requests are refused; nil: they are accepted

	// Guarded by retainMu, which is held only to read or set them: Retain waits for it while
	// the hub is locked.
	retainMu sync.Mutex
	opts     hub.Options
	oldest   uint64 // oldest seq that the hub retains
}

// Open opens the history file at path, or creates it. Its error names the path and
// the remedy.
func Open(path string) (*Store, error) {
	return open(path, settings{lockTimeout, retryAfter, slowAfter, sinceBoot, func() *zap.Logger {
		return runlog.Logger(Disk{}).With(zap.String("file", path)) // the store outlives the config that opened it
	}})
}

// settings are constants of the product that tests change.
type settings struct {
	lockTimeout time.Duration
	retry       time.Duration // wait before a file that failed is tried again
	slow        time.Duration // a commit that takes longer is reported
	uptime      uptime
	log         func() *zap.Logger
}

func open(path string, cfg settings) (*Store, error) {
	f, err := openFile(path, cfg)
	if err != nil {
		return nil, err
	}
	s := &Store{
		path:     path,
		settings: cfg,
		nonce:    rand.Text()[:8] + ".",
		wake:     make(chan struct{}, 1),
		closed:   make(chan struct{}),
		file:     f,
	}
	s.updateNote()
	return s, nil
}

// request is one call of Append. Its state is guarded by Store.mu.
type request struct {
	entries []hub.Entry
	values  [][]byte // as in the file; the time and the checksum are not filled in yet
	sums    []hub.KeySum
	hasKey  []bool // false: the key was generated here
	size    int
	done    chan struct{} // closed when the request is answered

	state  state
	stored []hub.Stored
	err    error
}

type state int

const (
	queued state = iota
	taken        // in a group that is being committed
	abandoned
	answered
)

var errClosed = errors.New("the store is closed")

// Append implements hub.Store.
func (s *Store) Append(ctx context.Context, entries []hub.Entry) ([]hub.Stored, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%w: %w", hub.ErrNotStored, err)
	}
	r := s.encode(entries)
	if err := s.enqueue(r); err != nil {
		return nil, err
	}
	select {
	case <-r.done:
	case <-ctx.Done():
		s.abandon(r, ctx.Err())
	case <-s.closed:
		s.abandon(r, errClosed)
	}
	if r.err != nil {
		return nil, r.err
	}
	return r.stored, nil
}

// encode prepares a request, as far as that is possible before the seqs are known.
// Entries without a key get one, so that their publisher can repeat the request
// after an uncertain answer.
func (s *Store) encode(entries []hub.Entry) *request {
	r := &request{
		values: make([][]byte, len(entries)),
		sums:   make([]hub.KeySum, len(entries)),
		hasKey: make([]bool, len(entries)),
		done:   make(chan struct{}),
	}
	for i := range entries {
		e := &entries[i]
		if r.hasKey[i] = e.Key != ""; !r.hasKey[i] {
			e.Key = s.nonce + strconv.FormatUint(s.generated.Add(1), 36)
		}
		r.sums[i] = hub.SumKey(e.Key)
		r.size += valueOverhead + len(e.Data)
	}
	r.entries = slices.Clone(entries) // the commit may outlast Append
	buf := make([]byte, 0, r.size)
	for i, e := range entries {
		begin := len(buf)
		buf = append(buf, make([]byte, 8)...)
		buf = append(buf, r.sums[i][:]...)
		buf = append(buf, e.Data...)
		end := len(buf)
		buf = append(buf, 0, 0, 0, 0)
		r.values[i] = buf[begin:end:len(buf)]
	}
	return r
}

func (s *Store) enqueue(r *request) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refuseErr != nil {
		return s.refusal(r, s.refuseErr)
	}
	s.queue = append(s.queue, r)
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return nil
}

// refusal returns the answer to a request that is not committed. It is uncertain if
// the group in flight has an entry with the same key. mu is held.
func (s *Store) refusal(r *request, err error) error {
	if s.inFlight != nil && slices.ContainsFunc(r.sums, func(sum hub.KeySum) bool {
		_, inFlight := s.inFlight.keys[sum]
		return inFlight
	}) {
		return fmt.Errorf("%w: an event with the same key is still being stored: %w", hub.ErrUncertain, err)
	}
	return fmt.Errorf("%w: %w", hub.ErrNotStored, err)
}

// abandon answers a request whose caller stops waiting, unless it has an answer.
func (s *Store) abandon(r *request, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch r.state {
	case queued:
		if i := slices.Index(s.queue, r); i >= 0 {
			s.queue = slices.Delete(s.queue, i, i+1)
		}
		r.state, r.err = answered, s.refusal(r, err)
	case taken:
		r.state, r.err = abandoned, fmt.Errorf("%w: the disk has not answered yet: %w", hub.ErrUncertain, err)
	}
}

// Retain implements hub.Store.
func (s *Store) Retain(opts hub.Options, oldest uint64) {
	s.retainMu.Lock()
	defer s.retainMu.Unlock()
	s.opts, s.oldest = opts, oldest
}

// retainArgs returns the arguments of the last call of Retain. Any goroutine may call it.
func (s *Store) retainArgs() (opts hub.Options, oldest uint64) {
	s.retainMu.Lock()
	defer s.retainMu.Unlock()
	return s.opts, s.oldest
}

// Note returns a message for the operator, or "".
func (s *Store) Note() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.note
}

// Shared implements hub.Store. It is false: the lock keeps other processes out.
func (*Store) Shared() bool { return false }

// Close implements hub.Store.
func (s *Store) Close() error {
	s.mu.Lock()
	s.refuseErr = errClosed
	s.mu.Unlock()
	close(s.closed) // requests that are still queued end with errClosed
	return s.file.close()
}
