package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"time"

	"github.com/ea766355/caddy-sse/e2e"
)

// startMembers opens streams of members on the hubs that retain everything. Members are users
// whose topics change all the time.
func (w *world) startMembers() {
	const each = 2 // members per hub
	for i, h := range w.hubs {
		if h.bound > 0 || h.changes != nil {
			continue
		}
		for n := range each {
			// The first topic is never removed, since no topics means all.
			m := e2e.NewMember(fmt.Sprintf("member %d", n), topics[0], topics[1])
			h.members = append(h.members, m)
			use := 100_000 + 1000*i + 10*n
			for _, k := range []*kind{kinds[0], kinds[2], kinds[5], kinds[14]} {
				use++
				random := w.random(use)
				w.running.Go(func() { w.keepOpen(m, k, h, random) })
			}
			random := w.random(use + 1)
			w.running.Go(func() { w.changeTopics(m, h, random) })
		}
	}
}

// keepOpen keeps a stream of a member open, with the member's current topics at each reconnection.
func (w *world) keepOpen(m *e2e.Member, k *kind, h *hub, random *rand.Rand) {
	c := k.connect(w, h)
	c.Path = h.path
	w.mu.Lock()
	w.connections = append(w.connections, c)
	w.mu.Unlock()
	ctx, cancel := w.untilQuiet()
	defer cancel()
	var last e2e.Position
	for ctx.Err() == nil {
		v, err := m.Open(ctx, c, last)
		if err == nil {
			last, err = v.Read()
		}
		if errors.As(err, new(e2e.Violation)) || errors.Is(err, e2e.ErrGap) {
			w.t.Errorf("%s of %s, %s: %v", m.Name, h.name, k.name, err)
			return
		}
		if random.IntN(20) == 0 {
			last = e2e.Position{}
		}
		w.wait(time.Duration(random.Int64N(int64(retryMax))))
	}
}

// changeTopics adds and removes a topic of the member in turn, sometimes over a bad network.
func (w *world) changeTopics(m *e2e.Member, h *hub, random *rand.Rand) {
	base := fmt.Sprintf("http://127.0.0.1:%d", w.server.Admin)
	client := &http.Client{Timeout: e2e.Patience / 3, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			if rand.IntN(2) == 0 {
				addr = w.admin.Addr
			}
			return new(net.Dialer).DialContext(ctx, network, addr)
		},
	}}
	has := map[string]bool{topics[1]: true}
	for !w.wait(time.Duration(random.Int64N(int64(3 * time.Second)))) {
		name := topics[1+random.IntN(len(topics)-1)]
		change := e2e.TopicChange{Added: []string{name}}
		if has[name] {
			change = e2e.TopicChange{Removed: []string{name}}
		}
		has[name] = !has[name]
		ctx, cancel := context.WithTimeout(context.Background(), keyLimit)
		at, failed, err := m.Change(ctx, change, h.ledger.Last().Position, h.name, client, func() string { return base })
		cancel()
		if err != nil {
			w.t.Errorf("%s of %s: %v", m.Name, h.name, err)
			return
		}
		h.mu.Lock()
		h.commands[at.Seq] = struct{}{}
		h.failed += failed
		h.mu.Unlock()
		w.count("changes of topics")
	}
}

// untilQuiet returns a context that ends when all clients must stay.
func (w *world) untilQuiet() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer cancel()
		select {
		case <-w.quiet:
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// judgeMembers compares what members received with their rights.
func (v *verdict) judgeMembers(h *hub) {
	entries := h.ledger.Entries()
	for _, m := range h.members {
		m.Judge(entries, &v.rights)
	}
}
