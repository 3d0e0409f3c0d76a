package e2e

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"

	"github.com/ea766355/caddy-sse/hub"
	"github.com/ea766355/caddy-sse/store/disk"
)

// TestPublishWhileStarting publishes from the start of the process. As long as there is no config
// and no hub, every refusal can be retried.
func TestPublishWhileStarting(t *testing.T) {
	s := Start(t, Config{})
	p := s.Publisher()
	for range 5 {
		s.Kill()
		s.Launch()
		var publishers sync.WaitGroup
		for range 50 {
			publishers.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), Patience)
				defer cancel()
				if err := p.Publish(ctx, Event{}); err != nil {
					t.Errorf("publishing: %v", err)
				}
			})
		}
		publishers.Wait()
	}
}

// firstStreamCPU is the most CPU time, in seconds, that a process with a hundred thousand events on
// disk takes until a returning client is served. The time by the clock depends on what else runs.
var firstStreamCPU = 2.0

// TestRestartWithLongHistory kills a server with a hundred thousand events on disk. A client that
// missed the last of them requests a stream from the start of the process on. It is soon served,
// and gets exactly the missed events.
func TestRestartWithLongHistory(t *testing.T) {
	const retained, missed = 100_000, 100
	path := filepath.Join(t.TempDir(), "history.db")
	epoch := writeHistory(t, path, retained)
	s := Start(t, Config{Hub: fmt.Sprintf("history %d\n store disk %s", retained, path)})
	Wait(t, Patience, "the history to be open", func() error {
		if n := s.Status().Events; n != retained {
			return fmt.Errorf("%d events are retained", n)
		}
		return nil
	})
	s.Kill()
	c := s.Client(H1)
	defer c.Close()
	s.Launch()
	var stream *Stream
	Wait(t, Patience, "a stream", func() (err error) {
		stream, err = c.Open(t.Context(), Identity{}, Position{Epoch: epoch, Seq: retained - missed}.String())
		if err != nil {
			return err
		}
		if _, err = stream.Next(); err == nil && stream.Closing != nil && stream.Closing.Reason == "starting" {
			err = errors.New("the history is not open yet") // on a busy machine for more than five seconds
		}
		if err != nil {
			stream.Close()
		}
		return err
	})
	defer stream.Close()
	took := s.Metric("process_cpu_seconds_total")
	t.Logf("the first block came after %.2f s of CPU time", took)
	if took > firstStreamCPU || took == 0 {
		t.Errorf("CPU time until the first block: got %.2f s, want at most %.0f s", took, firstStreamCPU)
	}
	if stream.Closing != nil || !stream.Connected.Resumed {
		t.Fatalf("stream: got %+v and the end %+v, want one that is resumed and open", stream.Connected, stream.Closing)
	}
	for seq := uint64(retained - missed + 1); seq <= retained; seq++ {
		b, err := stream.Next()
		if err != nil {
			t.Fatal(err)
		}
		if n, err := ReadPayload(b.Data); b.ID.Epoch != epoch || b.ID.Seq != seq || b.ID.Tag == "" || n != int64(seq) || err != nil {
			t.Fatalf("event: got %+v (%v), want the one at %d", b, err, seq)
		}
	}
}

// writeHistory creates a file with n events for everybody and returns its epoch. The numbers of
// the events are their positions.
func writeHistory(t *testing.T, path string, n int) (epoch string) {
	t.Helper()
	store, err := disk.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	h := hub.New(hub.Options{MaxEvents: n})
	if err := h.Use(store); err != nil {
		t.Fatal(err)
	}
	events := make([]hub.Event, 1000)
	for first := 1; first <= n; first += len(events) {
		for i := range events {
			events[i] = hub.Event{Data: []byte(payload(int64(first+i), 256)), Targets: []hub.Target{{Kind: hub.All}}}
		}
		receipts, err := h.Publish(t.Context(), events...)
		if err != nil {
			t.Fatal(err)
		}
		epoch = receipts[0].Position.Epoch
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	return epoch
}
