package hub

import (
	"fmt"
	"sync"
	"testing"
	"time"
)

// All connections are known while they move to another history: they are counted, listed and
// ended, and each gets a gap.
func TestRestartMovesSomeAtATime(t *testing.T) {
	const streams = 1000
	begin := func(t *testing.T) (h *Hub, conns []*Conn) {
		h = newHub(t, Options{})
		for i := range streams {
			conns = append(conns, connect(t, h, requestOf(fmt.Sprint("user-", i/2), "news")).Conn)
		}
		publish(t, h, "before")
		h.mu.Lock()
		h.restart(NewEpoch(), 1)
		h.mu.Unlock()
		want(t, "some connections have not moved", h.moveSomeConns(), true)
		h.mu.RLock()
		moved, left := len(h.history.all.subscribers), len(h.oldHistory.all.subscribers)
		h.mu.RUnlock()
		want(t, "connections in both histories", moved+left, streams)
		want(t, "only a slice has moved", moved > 0 && moved <= 1+subscriptionsAtOnce/4, true)
		return h, conns
	}
	wantConns := func(t *testing.T, h *Hub, n int) {
		t.Helper()
		want(t, "listed", len(h.Connections(Filter{})), n)
		want(t, "receivers of the topic", h.countReceivers([]Target{topic("news")}), n)
		want(t, "receivers of several targets", h.countReceivers([]Target{topic("news"), user("user-0"), {}}), n)
	}
	t.Run("all connections are known", func(t *testing.T) {
		h, conns := begin(t)
		wantConns(t, h, streams)
		want(t, "users", h.Stats().Users, streams/2)
		r := requestOf("user-0", "news").with(Settings{MaxPerUser: 2})
		if _, err := h.Connect(t.Context(), r); err == nil {
			t.Error("a third connection of a user: got admitted, want refused")
		}
		r.Previous = conns[0].ID() // it has not moved
		connect(t, h, r)
		want(t, "reason of the previous connection", h.finish(conns[0], Gone), Replaced)
		want(t, "ended", h.DisconnectHere(Filter{Users: []string{"user-1"}}), 2)
		want(t, "users after that", h.Stats().Users, streams/2-1)
		wantConns(t, h, streams-2)
		h.moveConns()
		wantConns(t, h, streams-2)
		want(t, "users in the end", h.Stats().Users, streams/2-1)
		h.EndStreams()
		wantConns(t, h, 0)
	})
	t.Run("all connections end", func(t *testing.T) {
		h, _ := begin(t)
		h.EndStreams()
		wantConns(t, h, 0)
		h.moveConns()
		wantConns(t, h, 0)
		want(t, "users", h.Stats().Users, 0)
	})
	t.Run("a connection looks up nothing before it moves", func(t *testing.T) {
		h, conns := begin(t)
		b := new(batch)
		l := h.lookUp(conns[0], time.Now(), b)
		want(t, "before", fmt.Sprint(l.gap == noGap, l.more, len(b.items)), "true false 0")
		h.moveConns()
		l = h.lookUp(conns[0], time.Now(), b)
		want(t, "after", l.gap, gapEpoch)
	})
}

// A call that ends connections misses none of them, also if a new history begins during the call.
func TestEndWhileAHistoryBegins(t *testing.T) {
	const streams = 300
	for name, end := range map[string]func(*Hub){
		"Disconnect": func(h *Hub) { h.DisconnectHere(Filter{Users: []string{"alice"}}) },
		"EndStreams": (*Hub).EndStreams,
	} {
		t.Run(name, func(t *testing.T) {
			h := newHub(t, Options{})
			for range 100 {
				for range streams {
					connect(t, h, requestOf("alice"))
				}
				ended := make(chan struct{})
				var beginning sync.WaitGroup
				beginning.Go(func() {
					for f := (feed{h}); ; {
						f.Begin(NewEpoch(), 1)
						f.Status(nil, 0)
						select {
						case <-ended:
							return
						default:
						}
					}
				})
				end(h)
				close(ended)
				beginning.Wait()
				if n := len(h.Connections(Filter{})); n > 0 {
					t.Fatalf("open connections: got %d, want 0", n)
				}
			}
		})
	}
}
