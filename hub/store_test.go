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

// gatedStore is a store in memory. Its tail starts when begin is closed.
type gatedStore struct {
	*Memory
	begin chan struct{}

	mu     sync.Mutex
	oldest []uint64 // the arguments of Retain
}

func (r *gatedStore) Tail(ctx context.Context, feed Feed) {
	select {
	case <-r.begin:
		r.Memory.Tail(ctx, feed)
	case <-ctx.Done():
	}
}

func (r *gatedStore) Retain(_ Options, oldest uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.oldest = append(r.oldest, oldest)
}

// The hub does not call Retain of a new store with a position of the previous store's history. The
// new store would delete its own records.
func TestRetainIsOfTheStoresOwnHistory(t *testing.T) {
	h := newHub(t, Options{MaxEvents: 1})
	for range 100 {
		publish(t, h, "x")
	}
	store := &gatedStore{Memory: NewMemory(), begin: make(chan struct{})}
	if err := h.Use(store); err != nil {
		t.Fatal(err)
	}
	h.SetOptions(Options{MaxEvents: 2})
	store.mu.Lock()
	want(t, "Retain was called before the store has begun", len(store.oldest) > 0, true)
	for _, oldest := range store.oldest {
		want(t, "Retain before the store has begun", oldest, 0)
	}
	store.oldest = nil
	store.mu.Unlock()
	close(store.begin)
	for range 3 {
		publish(t, h, "x")
	}
	store.mu.Lock()
	defer store.mu.Unlock()
	want(t, "the last Retain", store.oldest[len(store.oldest)-1], 2)
}

// scriptedStore is a store without a tail. The test delivers records, and decides how Append
// returns.
type scriptedStore struct {
	*Memory
	results chan func() ([]Stored, error) // each Append waits for one
}

func newScriptedStore() *scriptedStore {
	return &scriptedStore{NewMemory(), make(chan func() ([]Stored, error))}
}

func (s *scriptedStore) Append(ctx context.Context, _ []Entry) ([]Stored, error) {
	select {
	case result := <-s.results:
		return result()
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", ErrNotStored, ctx.Err())
	}
}

func (*scriptedStore) Shared() bool { return true }

func (s *scriptedStore) stored(p Position) {
	s.results <- func() ([]Stored, error) { return []Stored{{Position: p}}, nil }
}

// A record may be stored in a history that ends before it has the record. The record may then be
// nowhere, or at another position, so the publish is not acknowledged.
func TestStoredInAHistoryThatEnded(t *testing.T) {
	for name, c := range map[string]struct {
		seq uint64
		ok  bool
	}{
		"the history had the record":          {2, true},
		"the history did not have the record": {3, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h, s := newHub(t, Options{}), newScriptedStore()
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
					t.Errorf("error of Publish: got %v, want ErrUncertain with the text %q", err, "history was reset")
				}
			})
		})
	}
}

// A publish that the previous store refused because it was closed is stored by the next one.
func TestPublishWhileTheStoreIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, s := newHub(t, Options{}), newScriptedStore()
		useStore(t, h, s)
		synctest.Wait()
		published := make(chan error, 1)
		go func() {
			_, err := h.Publish(t.Context(), Event{Targets: []Target{{}}})
			published <- err
		}()
		synctest.Wait()
		useStore(t, h, NewMemory())
		s.results <- func() ([]Stored, error) { return nil, fmt.Errorf("%w: closed", ErrNotStored) }
		if err := <-published; err != nil {
			t.Error(err)
		}
		want(t, "events", h.Stats().Events, 1)
	})
}

// A publisher that waits for its event to arrive does not wait longer than the hub lives: an exit
// would wait for the publisher.
func TestPublishEndsWithTheHub(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, s := newHub(t, Options{}), newScriptedStore()
		useStore(t, h, s)
		published := make(chan error, 1)
		go func() {
			_, err := h.Publish(t.Context(), Event{Key: "k", Targets: []Target{{}}})
			published <- err
		}()
		s.stored(Position{Epoch: h.Stats().Head.Epoch, Seq: 1})
		synctest.Wait() // the event is stored, and does not arrive
		began := time.Now()
		if err := h.Close(); err != nil {
			t.Error(err)
		}
		wantErr(t, <-published, ErrUncertain)
		want(t, "waited after Close", time.Since(began), 0)
	})
}

// A position that this node has not received is a gap only if the node has received everything.
func TestPositionFromAnotherNode(t *testing.T) {
	away := errors.New("the server is away")
	for name, c := range map[string]struct {
		problem error
		behind  uint64
		arrives bool
		other   bool // the position is of another epoch
		want    string
	}{
		"the record arrives":                       {problem: away, arrives: true, want: "resumed"},
		"there is no such record":                  {want: "sse.gap invalid"},
		"the node is behind":                       {behind: 1, want: "connection refused: starting"},
		"the store is unreachable":                 {problem: away, want: "connection refused: starting"},
		"another epoch, which may be the next one": {problem: away, other: true, want: "connection refused: starting"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h, s := newHub(t, Options{}), newScriptedStore()
				useStore(t, h, s)
				synctest.Wait()
				epoch := h.Stats().Head.Epoch
				if c.other {
					epoch = "otherone"
				}
				feed{h}.Status(c.problem, c.behind)
				if c.arrives {
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
				want(t, "result of Connect", got, c.want)
				if waited := time.Since(began); !c.arrives && waited != startTimeout {
					t.Errorf("Connect waited %v, want %v", waited, startTimeout)
				}
			})
		})
	}
}

// A history that a store begins again is not open until the store says so.
func TestConnectBeforeANewHistoryIsOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, s := newHub(t, Options{}), newScriptedStore()
		useStore(t, h, s)
		feed{h}.Begin(NewEpoch(), 1) // the last status of the history before has no missing records
		_, err := h.Connect(t.Context(), requestOf("alice"))
		want(t, "result of Connect", fmt.Sprint(err), "connection refused: starting")
	})
}

// A history begins after a client has waited for the one before it, and before the client is
// admitted. The history is still being read: the client would be sent the rest of it as new.
func TestHistoryBeginsDuringConnect(t *testing.T) {
	h, s := newHub(t, Options{}), newScriptedStore()
	useStore(t, h, s)
	feed{h}.Deliver([]Record{recordOf(1, Event{Targets: []Target{{}}})})
	h.learning.Lock() // Connect waits here with its pattern
	result := make(chan error, 1)
	go func() {
		_, err := h.Connect(t.Context(), requestOf("alice", "a/*"))
		result <- err
	}()
	eventually(t, "Connect learns the pattern", func() bool { return strings.Contains(stacks(), ").learnShape(") })
	feed{h}.Begin(NewEpoch(), 1)
	h.learning.Unlock()
	want(t, "result", fmt.Sprint(<-result), "connection refused: starting")
}

// A client with a position of another epoch waits until the node has received everything, and then
// connects at once.
func TestPositionWhileTheNodeIsBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, s := newHub(t, Options{}), newScriptedStore()
		useStore(t, h, s)
		feed{h}.Status(nil, 1)
		began := time.Now()
		go func() {
			time.Sleep(time.Second)
			feed{h}.Deliver([]Record{recordOf(1, Event{Targets: []Target{{}}})})
			feed{h}.Status(nil, 0)
		}()
		v := connect(t, h, requestOf("alice").at("otherone-7"))
		want(t, "gap", v.gap, gapEpoch)
		if waited := time.Since(began); waited < time.Second || waited > time.Second+maxArrivalPause {
			t.Errorf("waited: got %v, want 1s and at most %v more", waited, maxArrivalPause)
		}
	})
}

// Clients that wait for the node to catch up cost publishers nothing, because a change of the
// history wakes none of them.
func TestPromise12ClientsThatWaitAreNotWoken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, s := newHub(t, Options{}), newScriptedStore()
		useStore(t, h, s)
		feed{h}.Status(nil, 1)
		var connecting sync.WaitGroup
		for range 100 {
			connecting.Go(func() {
				_, err := h.Connect(t.Context(), requestOf("alice").at("otherone-7"))
				if _, refused := errors.AsType[*Refusal](err); !refused {
					t.Errorf("Connect: got %v, want a refusal", err)
				}
			})
		}
		synctest.Wait()
		want(t, "goroutines that a change wakes", h.waiters.Load(), 0)
		connecting.Wait()
	})
}

// Publishers do not fail while one store in memory replaces another. Each publishes between
// two switches: the hub remembers only the last few histories, and a publisher that slept
// for longer cannot know whether its event was stored.
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
