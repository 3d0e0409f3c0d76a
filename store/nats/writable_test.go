package natsstore

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/ea766355/caddy-sse/hub"
	"github.com/ea766355/caddy-sse/store/nats/natstest"
)

// TestStoreWithoutQuorumIsNotWritable kills two of three servers. The third one has the consumer
// and still delivers. The store reports the loss of the majority, and its return, even without
// publishes.
func TestStoreWithoutQuorumIsNotWritable(t *testing.T) {
	servers := natstest.Start(t, 3)
	stream := newStream()
	var nodes []*node
	for len(nodes) == 0 || !hasConsumer(t, servers, stream, "n1") {
		n := startNode(t, stream, 3, someOptions, servers.URLs()[0])
		n.upTo(n.publish("before"))
		nodes = append(nodes, n)
	}
	servers.AwaitReplicas(stream)
	servers.Eventually("there is a problem at first", func(context.Context) bool {
		return !slices.ContainsFunc(nodes, func(n *node) bool {
			since, problem := n.Writable()
			return problem != nil || !since.IsZero()
		})
	})

	killed := time.Now()
	servers.Kill(1)
	servers.Kill(2)
	var n *node
	var since time.Time
	servers.Eventually("the loss of the quorum is not noticed", func(context.Context) bool {
		for _, n = range nodes {
			var problem error
			if since, problem = n.Writable(); problem != nil {
				return true
			}
		}
		return false
	})
	if since.Before(killed) || since.After(time.Now()) {
		t.Errorf("begin of the problem: got %v, want %v or later", since, killed)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if _, err := n.Append(ctx, []hub.Entry{entry("meanwhile", "m")}); err == nil {
		t.Error("a publish without quorum: got stored, want an error")
	}
	stillSince, problem := n.Writable()
	if problem == nil || !stillSince.Equal(since) {
		t.Errorf("problem after a failed publish: got %v since %v, want one since %v", problem, stillSince, since)
	}

	servers.Start(1)
	servers.Eventually("the quorum is not noticed", func(context.Context) bool {
		_, problem := n.Writable()
		n.mu.Lock()
		defer n.mu.Unlock()
		return problem == nil && n.problem == nil
	})
}

// hasConsumer reports whether a server has a consumer of the stream.
func hasConsumer(t *testing.T, servers *natstest.Servers, stream, server string) bool {
	t.Helper()
	js, done := servers.JetStream()
	defer done()
	found, err := js.Stream(t.Context(), stream)
	if err != nil {
		t.Fatal(err)
	}
	consumers := found.ListConsumers(t.Context())
	has := false
	for info := range consumers.Info() {
		has = has || info.Cluster != nil && info.Cluster.Leader == server
	}
	if consumers.Err() != nil {
		t.Fatal(consumers.Err())
	}
	return has
}

// TestWritableByTheLastAppend: an error of the stream makes the store not writable, an error of the
// publisher does not, and a success makes it writable again.
func TestWritableByTheLastAppend(t *testing.T) {
	s := new(store)
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	for name, harmless := range map[string]struct {
		ctx context.Context
		err error
	}{
		"an event too large": {t.Context(), &hub.BatchError{Err: hub.ErrTooLarge}},
		"old servers":        {t.Context(), errNoBatches},
		"a store closed":     {t.Context(), errClosed},
		"a publisher gone":   {canceled, hub.ErrUncertain},
	} {
		if s.noteAppend(harmless.ctx, harmless.err); s.writes.problem != nil {
			t.Errorf("problem after %s: got %v, want none", name, s.writes.problem)
		}
	}
	first := errors.New("no space")
	s.noteAppend(t.Context(), first)
	since, problem := s.Writable()
	if problem != first || since.IsZero() {
		t.Errorf("problem: got %v since %v, want %v", problem, since, first)
	}
	second := errors.New("no space at all")
	s.noteAppend(t.Context(), second)
	if again, problem := s.Writable(); problem != second || again != since {
		t.Errorf("problem: got %v since %v, want %v since %v", problem, again, second, since)
	}
	s.noteAppend(t.Context(), nil)
	if since, problem := s.Writable(); problem != nil || !since.IsZero() {
		t.Errorf("problem after a success: got %v since %v, want none", problem, since)
	}
}
