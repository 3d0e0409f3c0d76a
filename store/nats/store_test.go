package natsstore

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/ea766355/caddy-sse/hub"
	"github.com/ea766355/caddy-sse/hub/storetest"
	"github.com/ea766355/caddy-sse/store/nats/natstest"
)

// kind is the store for storetest, each place a stream of its own.
func kind(servers *natstest.Servers, replicas int) storetest.Kind {
	return storetest.Kind{
		New: func(*testing.T) func(*testing.T) hub.Store {
			stream := newStream()
			return func(t *testing.T) hub.Store { return openStore(t, stream, replicas, servers.URLs()...) }
		},
		Durable: true,
	}
}

func TestStoreOnOneServer(t *testing.T) {
	t.Parallel()
	storetest.Run(t, kind(natstest.Start(t, 1), 1))
}

func TestStoreOnThreeServers(t *testing.T) {
	storetest.Run(t, kind(natstest.Start(t, 3), 3))
}

func TestNATSIsAwayAtStart(t *testing.T) {
	servers := natstest.New(t, 1, "")
	n := startNode(t, newStream(), 1, someOptions, servers.URLs()...)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err := n.Append(ctx, []hub.Event{event("early", "")})
	if !errors.Is(err, hub.ErrNotStored) || !strings.Contains(err.Error(), errAway.Error()) {
		t.Errorf("while NATS is away, Append fails with %v", err)
	}
	servers.Start(0)
	if got := n.upTo(n.publish("late")).texts(); !slices.Equal(got, []string{"late"}) {
		t.Errorf("delivered %q", got)
	}
}

func TestNATSRestarts(t *testing.T) {
	servers := natstest.Start(t, 1)
	n := startNode(t, newStream(), 1, someOptions, servers.URLs()...)
	n.upTo(n.publish(numbered("before ", 10)...))
	servers.Kill(0)
	n.await("the loss of NATS", func() bool { return !n.connected })
	servers.Eventually("the loss is not noticed", func(context.Context) bool { return !n.conn.IsConnected() })
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := n.Append(ctx, []hub.Event{event("meanwhile", "")}); !errors.Is(err, hub.ErrNotStored) {
		t.Errorf("while NATS is away, Append fails with %v", err)
	}
	servers.Start(0)
	got := n.upTo(n.publish(numbered("after ", 10)...)).texts()
	if want := append(numbered("before ", 10), numbered("after ", 10)...); !slices.Equal(got, want) {
		t.Errorf("delivered %q", got)
	}
	if len(n.lives) != 1 {
		t.Errorf("the history began %d times", len(n.lives))
	}
}

func TestStreamOfTooLowLimitsIsRaised(t *testing.T) {
	servers := natstest.Start(t, 1)
	js, done := servers.JetStream()
	defer done()
	name := newStream()
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: name, Subjects: []string{"mine"}, MaxMsgs: 10, MaxAge: time.Minute, Duplicates: time.Second,
	}); err != nil {
		t.Fatal(err)
	}
	n := startNode(t, name, 1, someOptions, servers.URLs()...)
	n.upTo(n.publish("a"))
	found, err := js.Stream(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	c := found.CachedInfo().Config
	if c.MaxMsgs < int64(someOptions.MaxEvents) || c.MaxAge < someOptions.MaxAge || c.Duplicates < hub.KeyLifetime || !c.AllowAtomicPublish {
		t.Errorf("the stream has %+v", c)
	}

	// So it is when a reload asks for more.
	more := someOptions
	more.MaxEvents *= 2
	n.Retain(more, 0)
	servers.Eventually("the stream is not raised", func(ctx context.Context) bool {
		info, err := found.Info(ctx)
		return err == nil && info.Config.MaxMsgs >= int64(more.MaxEvents)
	})
}

func TestStreamThatCannotKeepAHistoryIsRefused(t *testing.T) {
	servers := natstest.Start(t, 1)
	js, done := servers.JetStream()
	defer done()
	for _, c := range []struct {
		config jetstream.StreamConfig
		want   string
	}{
		{jetstream.StreamConfig{Retention: jetstream.WorkQueuePolicy}, "retention"},
		{jetstream.StreamConfig{Discard: jetstream.DiscardNew}, "discards new messages"},
		{jetstream.StreamConfig{Subjects: []string{"a", "b"}}, "exactly one"},
		{jetstream.StreamConfig{Subjects: []string{"c.>"}}, "without wildcards"},
		{jetstream.StreamConfig{MaxMsgsPerSubject: 1}, "1 messages a subject"},
	} {
		c.config.Name = newStream()
		if c.config.Subjects == nil {
			c.config.Subjects = []string{c.config.Name}
		}
		if _, err := js.CreateStream(t.Context(), c.config); err != nil {
			t.Fatal(err)
		}
		n := startNode(t, c.config.Name, 1, someOptions, servers.URLs()...)
		servers.Eventually("no refusal", func(context.Context) bool { return !errors.Is(n.whyNot(), errAway) })
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		_, err := n.Append(ctx, []hub.Event{event("a", "")})
		cancel()
		if !errors.Is(err, hub.ErrNotStored) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "nats stream edit "+c.config.Name) {
			t.Errorf("%+v: Append fails with %v", c.config, err)
		}
		if n.open {
			t.Errorf("%+v: the history is open", c.config)
		}
	}
}

func TestTooLargeForNATS(t *testing.T) {
	servers := natstest.Start(t, 1)
	n := startNode(t, newStream(), 1, someOptions, servers.URLs()...)
	n.publish("small")
	_, err := n.Append(t.Context(), []hub.Event{event("small", ""), event(strings.Repeat("x", 1<<20), "")})
	refused, ok := errors.AsType[*hub.BatchError](err)
	if !ok || refused.Index != 1 || !errors.Is(err, hub.ErrTooLarge) || !strings.Contains(err.Error(), "max_payload") {
		t.Errorf("Append fails with %v", err)
	}
}
