package e2e_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/ea766355/caddy-sse/e2e"
)

// guest is a user who is disconnected and does not reconnect.
type guest struct {
	name    string
	ended   time.Time // when the disconnect was answered
	reading sync.WaitGroup

	mu  sync.Mutex
	got []int64 // numbers of events
}

// disconnect ends the streams of a user on all nodes. One of the nodes may be cut off from NATS meanwhile.
// When it is back, it must apply the disconnect before it delivers later events.
func (w *world) disconnect(random *rand.Rand, away time.Duration) {
	g := &guest{name: fmt.Sprintf("guest %d", len(w.guests))}
	w.guests = append(w.guests, g)
	ctx, cancel := context.WithCancel(context.Background())
	w.t.Cleanup(cancel)
	for _, n := range w.nodes {
		g.open(ctx, n)
	}
	cut := w.nodes[random.IntN(size)]
	var others []string
	for _, n := range w.nodes {
		if away == 0 || n != cut {
			others = append(others, n.addr())
		}
	}
	if away > 0 {
		for _, p := range cut.nats {
			p.Cut()
		}
	}
	mended := time.After(away)
	w.end(g, others)
	w.mending.Go(func() {
		<-mended
		if away > 0 {
			for _, p := range cut.nats {
				p.Mend()
			}
		}
		left := make(chan struct{})
		go func() {
			g.reading.Wait()
			close(left)
		}()
		select {
		case <-left:
		case <-time.After(4 * e2e.Patience):
			w.t.Errorf("stream of %s %s after the disconnect was answered: got one, want none", g.name, time.Since(g.ended))
			cancel()
			<-left
		}
	})
}

// open opens a stream on a node, if possible, and reads it to its end.
func (g *guest) open(ctx context.Context, n *node) {
	// The stream has its own client, so that it is alone on its connection.
	c := e2e.Roaming(n.addr())
	s, err := c.Open(ctx, e2e.Identity{User: g.name}, "")
	if err != nil {
		return // the node is starting
	}
	if b, err := s.Next(); err != nil || b.Type != "sse.connected" {
		s.Close()
		return
	}
	g.reading.Go(func() {
		defer s.Close()
		for {
			b, err := s.Next()
			if err != nil {
				return
			}
			if n, err := e2e.ReadPayload(b.Data); err == nil {
				g.mu.Lock()
				g.got = append(g.got, n)
				g.mu.Unlock()
			}
		}
	})
}

// end disconnects the guest through one of the nodes, and repeats the request until it is answered.
func (w *world) end(g *guest, nodes []string) {
	client := &http.Client{Timeout: e2e.Patience, Transport: &http.Transport{DisableKeepAlives: true}}
	e2e.Wait(w.t, 3*e2e.Patience, "a disconnect", func() error {
		addr := nodes[rand.IntN(len(nodes))]
		req, err := http.NewRequest(http.MethodDelete, "http://"+addr+"/sse/connections?user="+url.QueryEscape(g.name), nil)
		if err != nil {
			w.t.Fatal(err)
		}
		w.commands++
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			return err
		}
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %s", resp.Status, body)
		}
		return nil
	})
	g.ended = time.Now()
}

// late counts events that guests received although they were published after the disconnect.
func (w *world) late(entries []e2e.Entry) (late int) {
	sent := make(map[int64]time.Time)
	for _, e := range entries {
		if at, again := sent[e.N]; !again || e.Sent.Before(at) {
			sent[e.N] = e.Sent
		}
	}
	for _, g := range w.guests {
		g.mu.Lock()
		for _, n := range g.got {
			if at, known := sent[n]; known && at.After(g.ended) {
				w.t.Errorf("%s, disconnected at %s: got event %d, which was published at %s, want no later event", g.name, g.ended, n, at)
				late++
			}
		}
		g.mu.Unlock()
	}
	return late
}
