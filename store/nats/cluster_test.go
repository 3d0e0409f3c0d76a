package natsstore

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/ea766355/caddy-sse/store/nats/natstest"
)

// join opens a store that answers other nodes. It is closed at the end of the test.
func join(t *testing.T, name, stream, url string) *store {
	t.Helper()
	s := openStore(t, stream, 1, url)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := s.Join(name, func(request []byte, room int) []byte {
		switch string(request) {
		case "panic":
			var none []byte
			return none[room:]
		case "not understood":
			return nil
		case "much":
			return []byte(strings.Repeat("x", room))
		}
		return append([]byte(name+" got "), request...)
	}); err != nil {
		t.Fatal(err)
	}
	return s
}

// count returns the number of known other nodes.
func (p *peers) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.others)
}

// rounds runs n rounds.
func (p *peers) rounds(n int) {
	for range n {
		p.nextRound(p.conn.IsConnected())
	}
}

// ask asks all other nodes and accepts every answer.
func (p *peers) ask(t *testing.T, request string) (answers, missing []string, took time.Duration) {
	start := time.Now()
	missing = p.Ask(t.Context(), []byte(request), func(answer []byte) bool {
		answers = append(answers, string(answer))
		return true
	})
	slices.Sort(answers)
	return answers, missing, time.Since(start)
}

func TestNodesAnswerEachOther(t *testing.T) {
	servers := natstest.Start(t, 1)
	stream := newStream()
	proxy := natstest.NewProxy(t, servers.URLs()[0])
	a, b := join(t, "a", stream, servers.URLs()[0]), join(t, "b", stream, servers.URLs()[0])
	c := join(t, "c", stream, proxy.URL())
	all := []*store{a, b, c}
	servers.Eventually("the nodes do not know each other", func(context.Context) bool {
		return !slices.ContainsFunc(all, func(s *store) bool { return s.count() != 2 })
	})
	for _, s := range all {
		s.rounds(settledAfter)
	}
	// On a busy machine an answer may be late, so ask tries again.
	ask := func(s *store, least, most time.Duration, wantAnswers, wantMissing []string) {
		t.Helper()
		servers.Eventually(fmt.Sprintf("the answers are not %q, with %q missing, after %v to %v", wantAnswers, wantMissing, least, most), func(context.Context) bool {
			answers, missing, took := s.ask(t, "hello")
			return slices.Equal(answers, wantAnswers) && slices.Equal(missing, wantMissing) && took >= least && took <= most
		})
	}
	ask(a, 0, askTimeout, []string{"b got hello", "c got hello"}, nil)

	// A node that is cut off is missing for the others, and the others are missing for it.
	proxy.Cut()
	servers.Eventually(fmt.Sprintf("the answer does not come within %v", 2*askTimeout), func(context.Context) bool {
		a.noteHeard(c.id) // so that a waits for it
		_, missing, took := a.ask(t, "hello")
		if took < askTimeout || !slices.Contains(missing, "c") {
			t.Errorf("missing nodes, and time if one node does not answer: got %q after %v, want c after at least %v", missing, took, askTimeout)
		}
		return took < 2*askTimeout
	})
	servers.Eventually("the cut is not noticed", func(context.Context) bool { return !c.conn.IsConnected() })
	ask(c, 0, askTimeout, nil, []string{"a", "b"})

	// After some silent rounds no node waits for it any more.
	a.rounds(silentAfter + 1)
	ask(a, 0, askTimeout-1, []string{"b got hello"}, []string{"c"})

	// The cut-off node forgets no other node, however long the cut is.
	c.rounds(10 * forgetAfter)
	ask(c, 0, askTimeout, nil, []string{"a", "b"})
	proxy.Mend()
	servers.Eventually("the node does not reconnect", func(context.Context) bool { return c.conn.IsConnected() })
	if known := c.count(); known != 2 {
		t.Errorf("known nodes after the cut: got %d, want 2", known)
	}
	servers.Eventually("its answer does not arrive", func(context.Context) bool {
		_, missing, _ := a.ask(t, "hello")
		return len(missing) == 0
	})

	// A node that has left is not missing.
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	servers.Eventually("the others do not notice that it left", func(context.Context) bool { return a.count() == 1 })
	ask(a, 0, askTimeout, []string{"c got hello"}, nil)

	// A node that died is forgotten in the end.
	proxy.Cut()
	a.rounds(forgetAfter / 2)
	ask(a, 0, askTimeout, nil, []string{"c"})
	a.rounds(forgetAfter)
	ask(a, 0, askTimeout, nil, nil)
}

// TestNodeThatHasJustConnected: a node that does not know the others yet asks them all the same.
func TestNodeThatHasJustConnected(t *testing.T) {
	servers := natstest.Start(t, 1)
	stream := newStream()
	join(t, "a", stream, servers.URLs()[0])
	b := join(t, "b", stream, servers.URLs()[0])
	servers.Eventually("the answer of a does not arrive", func(context.Context) bool {
		b.peers.mu.Lock()
		clear(b.others)
		b.peers.settled = 0
		b.peers.mu.Unlock()
		answers, _, _ := b.ask(t, "hello")
		return slices.Equal(answers, []string{"a got hello"})
	})
}

// TestNodeThatCannotAnswer: no request makes a node exit. A node that cannot answer is missing.
func TestNodeThatCannotAnswer(t *testing.T) {
	servers := natstest.New(t, 1, "max_payload: 20KB")
	servers.Start(0)
	servers.Ready()
	stream := newStream()
	a, b := join(t, "a", stream, servers.URLs()[0]), join(t, "b", stream, servers.URLs()[0])
	servers.Eventually("the nodes do not know each other", func(context.Context) bool { return a.count() == 1 && b.count() == 1 })
	for _, request := range []string{"panic", "not understood", strings.Repeat("x", 20<<10)} {
		if answers, missing, _ := a.ask(t, request); answers != nil || !slices.Equal(missing, []string{"b"}) {
			t.Errorf("%.20s: got answers %q, missing %q, want none and b", request, answers, missing)
		}
	}
	if missing := a.Ask(t.Context(), []byte("hello"), func([]byte) bool { return false }); !slices.Equal(missing, []string{"b"}) {
		t.Errorf("missing nodes if the answer is refused: got %q, want b", missing)
	}
	servers.Eventually("the largest answer, of 19,000 bytes, does not arrive", func(context.Context) bool {
		answers, missing, _ := a.ask(t, "much")
		return len(answers) == 1 && len(answers[0]) >= 19_000 && missing == nil
	})

	// A node ignores invalid announcements.
	for _, nonsense := range []string{"", "garbage", "[]", `{"id":7}`, `{"id":"x","name":[]}`, "null"} {
		if err := a.conn.PublishMsg(&nats.Msg{Subject: a.nodes, Reply: a.nodes, Data: []byte(nonsense)}); err != nil {
			t.Fatal(err)
		}
	}
	servers.Eventually("the answer of b does not arrive, or other nodes are missing", func(context.Context) bool {
		answers, missing, _ := a.ask(t, "hello")
		return slices.Equal(answers, []string{"b got hello"}) && missing == nil
	})
}

// TestManyNodesStartTogether: the number of messages grows with the square of the number of nodes.
func TestManyNodesStartTogether(t *testing.T) {
	const n = 50
	servers := natstest.Start(t, 1)
	stream := newStream()
	var all []*store
	for i := range n {
		all = append(all, join(t, fmt.Sprint(i), stream, servers.URLs()[0]))
	}
	for _, when := range []string{"started", "forgotten"} {
		start := time.Now()
		servers.Eventually("the nodes do not know each other", func(context.Context) bool {
			return !slices.ContainsFunc(all, func(s *store) bool { return s.count() != n-1 })
		})
		rounds, received := uint64(0), uint64(0)
		for _, s := range all {
			s.peers.mu.Lock()
			rounds += uint64(s.round)
			clear(s.others)
			s.peers.mu.Unlock()
			received += s.conn.Stats().InMsgs
		}
		t.Logf("%s: %d nodes know each other after %v, %d announcements and %d messages received", when, n, time.Since(start), rounds, received)
		// Each announcement reaches all nodes, and each node greets each other node once.
		if most := (rounds+n)*n + 2*n*n; received > most {
			t.Errorf("%s: received messages: got %d, want at most %d", when, received, most)
		}
	}
}
