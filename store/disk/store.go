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

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/ea766355/caddy-sse/hub"
)

// Store is a history in a file. Its methods may be called from any goroutine.
type Store struct {
	path string
	settings
	nonce  string        // begins the keys it makes
	made   atomic.Uint64 // keys
	wake   chan struct{} // one slot: the queue is not empty
	closed chan struct{}

	// These belong to the goroutine that runs Tail, and then to Close.
	file   *file
	loaded bool      // the feed has the history
	doubt  *group    // not nil: it is not known whether it was stored
	failed time.Time // not zero: the file could not be used then

	mu       sync.Mutex // never held while a file or the feed is used
	note     string     // what an operator should know
	queue    []*request
	flying   *group // being committed, or in doubt
	refusing error  // why nothing is accepted; nil: it is
	opts     hub.Options
	oldest   uint64 // that the hub retains
}

// Open opens the history in the file, which is created if there is none.
func Open(path string) (*Store, error) {
	return open(path, settings{lockTimeout, retryAfter, slowAfter, sinceBoot, func() *zap.Logger {
		// That of the config in force: the store outlives the one that opened it.
		return caddy.Log().Named("sse.stores.disk").With(zap.String("file", path))
	}})
}

// settings differ in tests.
type settings struct {
	lockTimeout time.Duration
	retry       time.Duration // after which a file that could not be used is tried again
	slow        time.Duration // after which a commit is reported
	uptime      uptime
	log         func() *zap.Logger
}

func open(path string, with settings) (*Store, error) {
	f, err := openFile(path, with)
	if err != nil {
		return nil, err
	}
	s := &Store{
		path:     path,
		settings: with,
		nonce:    rand.Text()[:8] + ".",
		wake:     make(chan struct{}, 1),
		closed:   make(chan struct{}),
		file:     f,
	}
	s.lookBeside()
	return s, nil
}

// request is one Append. Its state is guarded by Store.mu.
type request struct {
	entries []hub.Entry
	values  [][]byte // of the file: room for the time, the key's sum, the data, room for a checksum
	sums    []hub.KeySum
	keyed   []bool // whose key is the publisher's
	size    int
	done    chan struct{} // closed when the answer is there

	state  state
	stored []hub.Stored
	err    error
}

type state int

const (
	queued state = iota
	taken        // by the committer
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

// encode does what can be done before an entry's seq is known. Every entry gets a
// key, by which its publisher can ask again if its fate remains unknown.
func (s *Store) encode(entries []hub.Entry) *request {
	r := &request{
		values: make([][]byte, len(entries)),
		sums:   make([]hub.KeySum, len(entries)),
		keyed:  make([]bool, len(entries)),
		done:   make(chan struct{}),
	}
	for i := range entries {
		e := &entries[i]
		if r.keyed[i] = e.Key != ""; !r.keyed[i] {
			e.Key = s.nonce + strconv.FormatUint(s.made.Add(1), 36)
		}
		r.sums[i] = hub.SumKey(e.Key)
		r.size += valueOverhead + len(e.Data)
	}
	r.entries = slices.Clone(entries) // the committer may outlast Append
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
	if s.refusing != nil {
		return s.refusal(r, s.refusing)
	}
	s.queue = append(s.queue, r)
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return nil
}

// refusal is the answer to a request that was not taken. mu is held.
func (s *Store) refusal(r *request, err error) error {
	if s.flying != nil && slices.ContainsFunc(r.sums, func(sum hub.KeySum) bool {
		_, flying := s.flying.keys[sum]
		return flying
	}) {
		return fmt.Errorf("%w: one with the same key may have been: %w", hub.ErrUncertain, err)
	}
	return fmt.Errorf("%w: %w", hub.ErrNotStored, err)
}

// abandon gives a request up, unless there is an answer.
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
		r.state, r.err = abandoned, fmt.Errorf("%w: the disk has not answered: %w", hub.ErrUncertain, err)
	}
}

// Retain implements hub.Store.
func (s *Store) Retain(opts hub.Options, oldest uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opts, s.oldest = opts, oldest
}

// Note returns what an operator should know of the history, or nothing.
func (s *Store) Note() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.note
}

// Shared implements hub.Store: the file is locked.
func (*Store) Shared() bool { return false }

// Close implements hub.Store.
func (s *Store) Close() error {
	s.mu.Lock()
	s.refusing = errClosed
	s.mu.Unlock()
	close(s.closed) // whoever is still in the queue finds that out
	return s.file.close()
}
