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

// Follower keeps a stream open. When it loses the connection it reconnects with its last
// position: at once, or after the delay that the server asked for. It may be used from any
// goroutine.
type Follower struct {
	Identity Identity

	client *Client
	cancel context.CancelFunc
	done   chan struct{}

	mu       sync.Mutex
	start    Position // first position
	last     Position // the last id of a complete block
	received []Received
	opened   int           // number of streams
	lost     []string      // the reasons why streams ended
	closings []Closing     // of streams that the server ended
	closing  *Closing      // sse.closing or sse.rejected of the current stream
	open     bool          // a stream is open and has sent sse.connected
	connID   string        // of the last stream
	since    time.Time     // when the last stream sent sse.connected
	err      error         // a violation, which ended the follower
	held     chan struct{} // not nil: the follower reads nothing until it is closed
}

// Follow starts a follower, which ends with the test. A violation fails the test.
func Follow(t testing.TB, c *Client, id Identity) *Follower {
	return FollowFrom(t, c, id, Position{})
}

// FollowFrom is like Follow, for a client that already has a position.
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

// Stop stops the follower and waits for it.
func (f *Follower) Stop() {
	f.cancel()
	<-f.done
}

// backoff is the default of the longest wait between attempts, so that a server that is down is
// not flooded.
const backoff = 10 * time.Millisecond

func (f *Follower) follow(ctx context.Context) {
	for ctx.Err() == nil {
		err := f.stream(ctx)
		f.mu.Lock()
		delay := rand.N(f.client.Backoff)
		if f.closing != nil {
			delay = time.Duration(f.closing.RetryMs) * time.Millisecond
			f.closings, f.closing = append(f.closings, *f.closing), nil
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

// Hold pauses reading. A block that the follower already waits for is still read.
func (f *Follower) Hold() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.held = make(chan struct{})
}

// Release resumes reading.
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
		f.closing = s.Closing
	case "sse.gap":
		var gap Gap
		if err := strict(b.Data, &gap); err != nil {
			return err
		}
		if f.start.Epoch == "" { // its first position was already evicted, so it begins after the gap
			f.start = b.ID
			break
		}
		r.Gap, r.After = gap.Reason, f.last
		f.received = append(f.received, r)
	case "sse.topics":
	default:
		if !b.hasData {
			break // this block changes only the position
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

// Open reports whether a stream is open.
func (f *Follower) Open() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.open && f.err == nil
}

// Err returns the violation that ended the follower, or nil.
func (f *Follower) Err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// Start returns the first position.
func (f *Follower) Start() Position {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.start
}

// Last returns the last position.
func (f *Follower) Last() Position {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.last
}

// Received returns all events and gaps so far.
func (f *Follower) Received() []Received {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.received)
}

// Gaps returns the reasons of all gaps.
func (f *Follower) Gaps() []string {
	var gaps []string
	for _, r := range f.Received() {
		if r.Gap != "" {
			gaps = append(gaps, r.Gap)
		}
	}
	return gaps
}

// Streams returns the number of streams so far, and the reasons why streams ended.
func (f *Follower) Streams() (opened int, lost []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.opened, slices.Clone(f.lost)
}

// Closings returns the last control events of the streams that the server ended.
func (f *Follower) Closings() []Closing {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.closings)
}

// Check compares the received events with the ledger.
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

// behind returns an error until the follower has received its last event of the ledger.
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
		return errors.New("it has never been connected")
	}
	return nil
}

// AwaitOpen waits until all followers have an open stream.
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

// AwaitAll waits until all followers have received all acknowledged events, and checks that
// they received each once and in order.
func AwaitAll(t testing.TB, l *Ledger, followers []*Follower) {
	t.Helper()
	for _, f := range followers {
		Wait(t, Patience, "a follower to catch up", func() error { return f.behind(l) })
		if err := f.Check(l); err != nil {
			t.Error(err)
		}
	}
}
