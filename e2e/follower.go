package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"
)

// Follower keeps a stream going: it connects, reads, and when it loses the
// connection it comes back with the last position, at once, or after the delay
// that it was told. It may be used from any goroutine.
type Follower struct {
	Identity Identity

	client *Client
	cancel context.CancelFunc
	done   chan struct{}

	mu       sync.Mutex
	start    Position // where it began
	last     Position // the last id of a complete block
	received []Received
	opened   int           // streams
	lost     []string      // why streams ended
	goodbyes []Goodbye     // of streams that have ended
	told     *Goodbye      // of the one that is about to
	open     bool          // a stream is, and was told sse.connected
	connID   string        // of the last stream
	since    time.Time     // likewise: when it was told sse.connected
	err      error         // a violation: it has given up
	held     chan struct{} // not nil: it reads nothing until this is closed
}

// Follow starts a follower, which ends with the test. A violation fails the test.
func Follow(t testing.TB, c *Client, id Identity) *Follower {
	return FollowFrom(t, c, id, Position{})
}

// FollowFrom is Follow for a client that has been there before.
func FollowFrom(t testing.TB, c *Client, id Identity, from Position) *Follower {
	ctx, cancel := context.WithCancel(context.Background())
	f := &Follower{Identity: id, client: c, cancel: cancel, done: make(chan struct{}), start: from, last: from}
	go func() {
		defer close(f.done)
		f.follow(ctx)
	}()
	t.Cleanup(func() {
		f.Stop()
		if f.err != nil {
			t.Errorf("%s, %+v: %v", c.Protocol, id, f.err)
		}
	})
	return f
}

// Stop makes it go away, and waits until it has.
func (f *Follower) Stop() {
	f.cancel()
	<-f.done
}

// backoff is between attempts to connect, unless another is set, so that a server which is down is not
// asked without pause.
const backoff = 10 * time.Millisecond

func (f *Follower) follow(ctx context.Context) {
	for ctx.Err() == nil {
		err := f.stream(ctx)
		f.mu.Lock()
		delay := rand.N(f.client.Backoff)
		if f.told != nil {
			delay = time.Duration(f.told.RetryMs) * time.Millisecond
			f.goodbyes, f.told = append(f.goodbyes, *f.told), nil
		}
		f.open = false
		if errors.As(err, new(Violation)) {
			f.err = err
		}
		f.lost = append(f.lost, err.Error())
		stop := f.err != nil
		f.mu.Unlock()
		if stop {
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(delay):
		}
	}
}

// stream reads one stream to its end.
func (f *Follower) stream(ctx context.Context) error {
	f.mu.Lock()
	var position string
	if f.last.Epoch != "" {
		position = f.last.String()
	}
	f.mu.Unlock()
	s, err := f.client.Open(ctx, f.Identity, position)
	if err != nil {
		return err
	}
	defer s.Close()
	for {
		if err := f.wait(ctx); err != nil {
			return err
		}
		b, err := s.Next()
		if err != nil {
			return err
		}
		if err := f.take(s, b); err != nil {
			return err
		}
	}
}

// wait returns when the follower may read.
func (f *Follower) wait(ctx context.Context) error {
	f.mu.Lock()
	held := f.held
	f.mu.Unlock()
	if held == nil {
		return nil
	}
	select {
	case <-held:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Hold makes it stop reading, after the block that it may be waiting for.
func (f *Follower) Hold() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.held = make(chan struct{})
}

// Release makes it read on.
func (f *Follower) Release() {
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.held)
	f.held = nil
}

func (f *Follower) take(s *Stream, b Block) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := Received{Position: b.ID, At: time.Now(), Stream: f.since}
	switch b.Type {
	case "sse.connected":
		f.opened++
		f.since = r.At
		f.open, f.connID = true, s.Connected.ConnectionID
		if f.start.Epoch == "" {
			f.start = b.ID
		}
	case "sse.closing", "sse.rejected":
		f.told = s.Goodbye
	case "sse.gap":
		var gap Gap
		if err := strict(b.Data, &gap); err != nil {
			return err
		}
		if f.start.Epoch == "" { // it was slow to begin, and begins here
			f.start = b.ID
			break
		}
		r.Gap, r.After = gap.Reason, f.last
		f.received = append(f.received, r)
	case "sse.topics":
	default:
		if !b.hasData {
			break // it moves the position, no more
		}
		var err error
		if r.N, err = ReadPayload(b.Data); err != nil {
			return err
		}
		r.Size = len(b.Data)
		f.received = append(f.received, r)
	}
	if b.ID.Epoch != "" {
		f.last = b.ID
	}
	return nil
}

// Open says whether a stream is open.
func (f *Follower) Open() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.open && f.err == nil
}

// Err is a violation that it met.
func (f *Follower) Err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// Start is the position that it began with.
func (f *Follower) Start() Position {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.start
}

// Last is the last position that it was given.
func (f *Follower) Last() Position {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.last
}

// Received is all it has received so far.
func (f *Follower) Received() []Received {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.received)
}

// Gaps are the reasons of the gaps that it was told.
func (f *Follower) Gaps() []string {
	var gaps []string
	for _, r := range f.Received() {
		if r.Gap != "" {
			gaps = append(gaps, r.Gap)
		}
	}
	return gaps
}

// Streams is how many streams it has opened, and why those that ended did.
func (f *Follower) Streams() (opened int, lost []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.opened, slices.Clone(f.lost)
}

// Goodbyes are the last blocks of its streams that the server ended.
func (f *Follower) Goodbyes() []Goodbye {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.goodbyes)
}

// Check holds what it has received against the ledger.
func (f *Follower) Check(l *Ledger) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return f.err
	}
	if err := l.Compare(f.Identity, f.start, f.received); err != nil {
		return fmt.Errorf("%s: %w", f.client.Protocol, err)
	}
	return nil
}

// behind is an error as long as the follower has not received the last event
// that is for it.
func (f *Follower) behind(l *Ledger) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return f.err
	}
	expected := l.Expected(f.Identity, f.last.Epoch, f.last.Seq)
	if len(expected) > 0 {
		return fmt.Errorf("%s %+v is at %s and has %d events to receive", f.client.Protocol, f.Identity, f.last, len(expected))
	}
	if f.last.Epoch == "" {
		return errors.New("it was never connected")
	}
	return nil
}

// AwaitOpen waits until all have an open stream.
func AwaitOpen(t testing.TB, followers []*Follower) {
	t.Helper()
	Wait(t, Patience, fmt.Sprintf("%d open streams", len(followers)), func() error {
		for i, f := range followers {
			if err := f.Err(); err != nil {
				t.Fatal(err)
			}
			if !f.Open() {
				_, lost := f.Streams()
				return fmt.Errorf("number %d, %s, has none: %q", i, f.client.Protocol, lost)
			}
		}
		return nil
	})
}

// AwaitAll waits until all have received what was acknowledged so far, and
// checks that it is that, once and in order.
func AwaitAll(t testing.TB, l *Ledger, followers []*Follower) {
	t.Helper()
	for _, f := range followers {
		Wait(t, Patience, "a follower to catch up", func() error { return f.behind(l) })
		if err := f.Check(l); err != nil {
			t.Error(err)
		}
	}
}
