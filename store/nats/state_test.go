package natsstore

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ea766355/caddy-sse/hub"
	"github.com/ea766355/caddy-sse/store/nats/natstest"
)

// stateReader is a client that keeps the newest value of each slot.
type stateReader struct {
	mu     sync.Mutex
	stream strings.Builder
}

func (r *stateReader) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stream.Write(p)
}

func (*stateReader) Flush() error { return nil }
func (*stateReader) Abort()       {}

// state returns the values that the client has, by slot. A value begins with its slot.
func (r *stateReader) state() map[string]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	values := make(map[string]string)
	for line := range strings.Lines(r.stream.String()) {
		if value, ok := strings.CutPrefix(line, "data: slot-"); ok {
			slot, _, _ := strings.Cut(value, " ")
			values[slot] = strings.TrimSpace(value)
		}
	}
	return values
}

// TestStateAgainstMap publishes values of slots through two nodes while the server is killed and
// started. A client that then requests the state from a third node gets the last acknowledged
// value of each slot.
func TestStateAgainstMap(t *testing.T) {
	servers := natstest.Start(t, 1)
	stream := newStream()
	start := func() *hub.Hub {
		h := hub.New(someOptions)
		if err := h.Use(openStore(t, stream, 1, servers.URLs()...)); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := h.Close(); err != nil {
				t.Error(err)
			}
		})
		return h
	}
	nodes := []*hub.Hub{start(), start()}
	model := make(map[string]string)
	for i := range 120 {
		if i%40 == 20 {
			servers.Kill(0)
			servers.Start(0)
		}
		slot := fmt.Sprint(rand.IntN(7))
		e := hub.Event{
			Slot: slot, Data: fmt.Appendf(nil, "slot-%s %d", slot, i), Key: fmt.Sprint("key ", i),
			Targets: []hub.Target{{Kind: hub.All}},
		}
		for deadline := time.Now().Add(2 * time.Minute); ; {
			_, err := nodes[i%2].Publish(t.Context(), e)
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal(err)
			}
		}
		model[slot] = fmt.Sprintf("%s %d", slot, i)
	}

	third := start()
	settings := &hub.Settings{Heartbeat: time.Minute, Timeout: time.Minute}
	pending := mustConnect(t, third, hub.Request{Settings: settings, State: true})
	client := new(stateReader)
	ctx, leave := context.WithCancel(t.Context())
	var serving sync.WaitGroup
	serving.Go(func() { pending.Open(client).Serve(ctx) })
	defer serving.Wait()
	defer leave()
	servers.Eventually("the client does not have the state", func(context.Context) bool {
		return maps.Equal(client.state(), model)
	})
}
