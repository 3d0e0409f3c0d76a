package disk

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"testing"

	"github.com/ea766355/caddy-sse/hub"
)

// bounded is a feed that retains the last n events, as a hub does.
type bounded struct {
	store *Store
	n     uint64
	open  chan struct{}
	once  sync.Once
	head  uint64
}

func (b *bounded) Begin(_ string, oldest uint64) hub.Position {
	b.head = max(oldest, 1) - 1
	return hub.Position{}
}

func (b *bounded) Deliver(records []hub.Record) {
	if len(records) > 0 {
		b.head = records[len(records)-1].Seq
		b.store.Retain(hub.Options{MaxEvents: int(b.n)}, max(b.head, b.n)-b.n+1)
	}
}

func (b *bounded) Status(problem error, behind uint64) {
	if problem == nil && behind == 0 {
		b.once.Do(func() { close(b.open) })
	}
}

// tailBounded runs Tail of the store with a feed that retains the last n events.
func tailBounded(s *Store, n uint64) (stop func()) {
	b := &bounded{store: s, n: n, open: make(chan struct{})}
	s.Retain(hub.Options{MaxEvents: int(n)}, 0)
	ctx, cancel := context.WithCancel(context.Background())
	var tail sync.WaitGroup
	tail.Go(func() { s.Tail(ctx, b) })
	<-b.open
	return func() {
		cancel()
		tail.Wait()
	}
}

// The file does not grow while events are published: commits drop as many events as they add, and
// drop a few if events are large.
func TestBusyFileDoesNotGrow(t *testing.T) {
	for name, load := range map[string]struct{ commits, events, size, retained int }{
		"large commits": {8, 10_000, 0, 1_000},
		"large events":  {40, 10, 20_000, 20},
	} {
		t.Run(name, func(t *testing.T) {
			s := mustOpen(t, filepath.Join(t.TempDir(), "history.db"))
			stop := tailBounded(s, uint64(load.retained))
			for i := range load.commits {
				if _, err := s.Append(t.Context(), entries(fmt.Sprint(i), load.events, load.size)); err != nil {
					t.Fatal(err)
				}
			}
			stop()
			inFile := int(s.file.span.next - s.file.span.oldest)
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			// A commit drops only what was surplus before it.
			most := 2*load.retained + 2*load.events
			if all := load.commits * load.events; inFile > most {
				t.Errorf("events in the file: got %d of %d, of which the hub retains %d; want at most %d", inFile, all, load.retained, most)
			}
		})
	}
}

// An idle store drops all surplus events. It stops when a request arrives, or when the store ends.
func TestIdleDropStops(t *testing.T) {
	const n = 3 * maxDrop
	for name, stopped := range map[string]struct {
		ended, request bool
		most           uint64
	}{
		"nobody waits":    {false, false, n},
		"a request waits": {false, true, maxDrop},
		"the store ends":  {true, false, maxDrop},
	} {
		t.Run(name, func(t *testing.T) {
			s := mustOpen(t, filepath.Join(t.TempDir(), "history.db"))
			defer s.Close()
			stop := tailBounded(s, 2*n)
			if _, err := s.Append(t.Context(), entries("surplus", n, 0)); err != nil {
				t.Fatal(err)
			}
			stop()
			select {
			case <-s.wake:
			default:
			}
			s.Retain(hub.Options{MaxEvents: 1}, n+1)
			if stopped.request {
				if err := s.enqueue(s.encode(entries("waits", 1, 0))); err != nil {
					t.Fatal(err)
				}
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if stopped.ended {
				cancel()
			}
			s.dropWhileIdle(ctx, &history{})
			if dropped := s.file.span.oldest - 1; dropped > stopped.most || stopped.most == n && dropped < n {
				t.Errorf("dropped events: got %d of %d, want at most %d, and all if nothing stops it", dropped, n, stopped.most)
			}
		})
	}
}
