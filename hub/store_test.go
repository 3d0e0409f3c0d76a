package hub

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// retainer is a store that begins when it is told to.
type retainer struct {
	*Memory
	begin chan struct{}

	mu     sync.Mutex
	oldest []uint64 // as Retain was told
}

func (r *retainer) Tail(ctx context.Context, feed Feed) {
	select {
	case <-r.begin:
		r.Memory.Tail(ctx, feed)
	case <-ctx.Done():
	}
}

func (r *retainer) Retain(_ Options, oldest uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.oldest = append(r.oldest, oldest)
}

// What the hub retains of one store's history is nothing to another store, which
// would drop its own by it.
func TestRetainIsOfTheStoresOwnHistory(t *testing.T) {
	h := newHub(t, Options{MaxEvents: 1})
	for range 100 {
		publish(t, h, "x")
	}
	store := &retainer{Memory: NewMemory(), begin: make(chan struct{})}
	if err := h.Use(store); err != nil {
		t.Fatal(err)
	}
	h.SetOptions(Options{MaxEvents: 2})
	store.mu.Lock()
	for _, oldest := range store.oldest {
		want(t, "before it has begun", oldest, 0)
	}
	store.oldest = nil
	store.mu.Unlock()
	close(store.begin)
	for range 3 {
		publish(t, h, "x")
	}
	store.mu.Lock()
	defer store.mu.Unlock()
	want(t, "at last", store.oldest[len(store.oldest)-1], 2)
}

// shelf is a store whose tail is the test, and which answers what the test says.
type shelf struct {
	*Memory
	answers chan func() ([]Stored, error) // nobody is answered before there is one
}

func newShelf() *shelf { return &shelf{NewMemory(), make(chan func() ([]Stored, error))} }

func (s *shelf) Append(ctx context.Context, _ []Entry) ([]Stored, error) {
	select {
	case answer := <-s.answers:
		return answer()
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", ErrNotStored, ctx.Err())
	}
}

func (*shelf) Shared() bool { return true }

func (s *shelf) stored(p Position) {
	s.answers <- func() ([]Stored, error) { return []Stored{{Position: p}}, nil }
}

// What was stored in a history that ended before it was in there may be nowhere
// any more, or at another place. So it is not acknowledged.
func TestStoredInAHistoryThatEnded(t *testing.T) {
	for name, c := range map[string]struct {
		seq uint64
		ok  bool
	}{
		"it was in there":     {2, true},
		"it was not in there": {3, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h, s := newHub(t, Options{}), newShelf()
				useStore(t, h, s)
				synctest.Wait()
				feed{h}.Begin("one", 1)
				feed{h}.Deliver([]Record{recordOf(1, Event{Targets: []Target{{}}}), recordOf(2, Event{Targets: []Target{{}}})})
				feed{h}.Status(nil, 0)
				published := make(chan error, 1)
				go func() {
					_, err := h.Publish(t.Context(), Event{Key: "k", Targets: []Target{{}}})
					published <- err
				}()
				synctest.Wait()
				feed{h}.Begin("two", 1)
				s.stored(Position{Epoch: "one", Seq: c.seq})
				switch err := <-published; {
				case c.ok && err != nil:
					t.Error(err)
				case !c.ok && (!errors.Is(err, ErrUncertain) || !strings.Contains(err.Error(), "history was reset")):
					t.Errorf("it is answered with %v", err)
				}
			})
		})
	}
}

// A publish that the store before refused, because it was closed, is the next one's.
func TestPublishWhileTheStoreIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, s := newHub(t, Options{}), newShelf()
		useStore(t, h, s)
		synctest.Wait()
		published := make(chan error, 1)
		go func() {
			_, err := h.Publish(t.Context(), Event{Targets: []Target{{}}})
			published <- err
		}()
		synctest.Wait()
		useStore(t, h, NewMemory())
		s.answers <- func() ([]Stored, error) { return nil, fmt.Errorf("%w: closed", ErrNotStored) }
		if err := <-published; err != nil {
			t.Error(err)
		}
		want(t, "events", h.Stats().Events, 1)
	})
}

// A position that this node has not received is a gap only if it has received all
// there is.
func TestPositionThatOthersGave(t *testing.T) {
	away := errors.New("the server is away")
	for name, c := range map[string]struct {
		problem error
		behind  uint64
		comes   bool
		other   bool // the position is of another epoch
		want    string
	}{
		"it comes":          {problem: away, comes: true, want: "resumed"},
		"there is no such":  {want: "sse.gap invalid"},
		"more is to come":   {behind: 1, want: "connection refused: starting"},
		"nothing can reach": {problem: away, want: "connection refused: starting"},
		"of another epoch, which may be the next": {problem: away, other: true, want: "connection refused: starting"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h, s := newHub(t, Options{}), newShelf()
				useStore(t, h, s)
				synctest.Wait()
				epoch := h.Stats().Head.Epoch
				if c.other {
					epoch = "otherone"
				}
				feed{h}.Status(c.problem, c.behind)
				if c.comes {
					go feed{h}.Deliver([]Record{recordOf(1, Event{Targets: []Target{{}}})})
				}
				began := time.Now()
				v, err := h.Connect(t.Context(), requestOf("alice").at(Position{Epoch: epoch, Seq: 1}.String()))
				got := "resumed"
				if err != nil {
					got = err.Error()
				} else if v.gap == gapInvalid {
					got = "sse.gap invalid"
				}
				want(t, "it is", got, c.want)
				if waited := time.Since(began); !c.comes && waited != startTimeout {
					t.Errorf("it waited %v", waited)
				}
			})
		})
	}
}

// Publishing goes on while another store takes the place of one in memory. Each publisher
// publishes between two switches: the hub remembers only the last few histories, and a
// publisher that slept for longer cannot know whether its event was stored.
func TestPublishOverSwitches(t *testing.T) {
	h := newHub(t, Options{})
	stop := make(chan struct{})
	var publishing sync.WaitGroup
	var published [4]atomic.Int64
	for i := range published {
		publishing.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					publish(t, h, "x")
					published[i].Add(1)
				}
			}
		})
	}
	for range 100 {
		var before [len(published)]int64
		for i := range published {
			before[i] = published[i].Load()
		}
		useStore(t, h, NewMemory())
		eventually(t, "each publisher to publish", func() bool {
			for i := range published {
				if published[i].Load() == before[i] {
					return false
				}
			}
			return true
		})
	}
	close(stop)
	publishing.Wait()
}
