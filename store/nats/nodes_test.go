package natsstore

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ea766355/caddy-sse/hub"
	"github.com/ea766355/caddy-sse/store/nats/natstest"
)

// client reads one stream of a hub.
type client struct {
	t *testing.T

	mu      sync.Mutex
	text    strings.Builder
	changed chan struct{}
}

func (c *client) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.changed)
	c.changed = make(chan struct{})
	return c.text.Write(p)
}

func (*client) Flush() error { return nil }
func (*client) Abort()       {}

var settings = &hub.Settings{Heartbeat: time.Minute, Timeout: time.Minute}

// connect opens a stream. It ends when leave is called, or with the test.
func connect(t *testing.T, h *hub.Hub, user, position string) (c *client, leave func()) {
	t.Helper()
	conn := mustConnect(t, h, hub.Request{Identity: hub.Identity{User: user}, Settings: settings, Position: position})
	c = &client{t: t, changed: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() {
		conn.Open(c).Serve(ctx)
	})
	leave = func() {
		cancel()
		serving.Wait()
	}
	t.Cleanup(leave)
	return c, leave
}

// mustConnect connects. On a busy machine the hub may refuse clients more than once before its history
// is open.
func mustConnect(t *testing.T, h *hub.Hub, r hub.Request) hub.Pending {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); ; {
		conn, err := h.Connect(t.Context(), r)
		if err == nil {
			return conn
		}
		if refusal, ok := errors.AsType[*hub.Refusal](err); !ok || refusal.Reason != hub.Starting || time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// until waits for the text, and returns everything that was received.
func (c *client) until(text string) string {
	c.t.Helper()
	timeout := time.NewTimer(2 * time.Minute)
	defer timeout.Stop()
	for {
		c.mu.Lock()
		got, changed := c.text.String(), c.changed
		c.mu.Unlock()
		if strings.Contains(got, text) {
			return got
		}
		select {
		case <-changed:
		case <-timeout.C:
			c.t.Fatalf("the stream: got %s, want %q in it", got, text)
		}
	}
}

var lastID = regexp.MustCompile(`(?s).*\nid: (\S+)\n`)

// position returns the last received id.
func (c *client) position() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return lastID.FindStringSubmatch(c.text.String())[1]
}

// useStore opens a hub with the store. It is closed at the end of the test.
func useStore(t *testing.T, s *store) *hub.Hub {
	t.Helper()
	h := hub.New(someOptions)
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := h.Use(s); err != nil {
		t.Fatal(err)
	}
	return h
}

// newHub opens a hub with a store of the stream.
func newHub(t *testing.T, stream string, urls ...string) *hub.Hub {
	t.Helper()
	return useStore(t, openStore(t, stream, 1, urls...))
}

// push publishes a text to a user. It tries again with the same key, because a server may take longer
// than a publish on a busy machine.
func push(t *testing.T, h *hub.Hub, user, text string) {
	t.Helper()
	e := hub.Event{Data: []byte(text), Key: rand.Text(), Targets: []hub.Target{{Kind: hub.User, Name: user}}}
	for deadline := time.Now().Add(2 * time.Minute); ; {
		_, err := h.Publish(t.Context(), e)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// TestClientSwitchesNodes: an event that is published on one node reaches its user on the other. A
// client that is cut off from one node resumes on the other and misses nothing.
func TestClientSwitchesNodes(t *testing.T) {
	servers := natstest.Start(t, 1)
	stream := newStream()
	hubs := []*hub.Hub{newHub(t, stream, servers.URLs()...), newHub(t, stream, servers.URLs()...)}
	var all strings.Builder
	position := ""
	for i := range 10 {
		c, leave := connect(t, hubs[i%2], "alice", position)
		first := c.until("sse.connected")
		if i > 0 {
			first = c.until(fmt.Sprintf("data: away %d\n", i-1))
		}
		if strings.Contains(first, "sse.gap") {
			t.Fatalf("first blocks: got a gap in %s, want none", first)
		}
		push(t, hubs[(i+1)%2], "bob", "not for alice")
		push(t, hubs[(i+1)%2], "alice", fmt.Sprint("live ", i))
		all.WriteString(c.until(fmt.Sprintf("data: live %d\n", i)))
		leave()
		position = c.position()
		push(t, hubs[i%2], "alice", fmt.Sprint("away ", i))
	}
	var want []string
	for i := range 10 {
		want = append(want, fmt.Sprint("live ", i))
		if i < 9 {
			want = append(want, fmt.Sprint("away ", i))
		}
	}
	var got []string
	for line := range strings.Lines(all.String()) {
		if text, ok := strings.CutPrefix(line, "data: "); ok && !strings.HasPrefix(text, "{") {
			got = append(got, strings.TrimSpace(text))
		}
	}
	if strings.Join(got, ",") != strings.Join(want, ",") {
		t.Errorf("events of alice: got %q, want %q", got, want)
	}
}

// TestStreamsOutliveTheLossOfNATS: a stream stays open while NATS is away, and continues after that.
// Publishes are refused meanwhile.
func TestStreamsOutliveTheLossOfNATS(t *testing.T) {
	servers := natstest.Start(t, 1)
	s := openStore(t, newStream(), 1, servers.URLs()...)
	h := useStore(t, s)
	c, _ := connect(t, h, "alice", "")
	push(t, h, "alice", "before")
	c.until("data: before\n")
	servers.Kill(0)
	servers.Eventually("the loss is not noticed", func(context.Context) bool {
		return !s.conn.IsConnected() && h.Stats().Problem != nil
	})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := h.Publish(ctx, hub.Event{Data: []byte("meanwhile"), Targets: []hub.Target{{}}})
	if !errors.Is(err, hub.ErrNotStored) || !strings.Contains(err.Error(), "NATS") {
		t.Errorf("error of Publish: got %v, want ErrNotStored with NATS", err)
	}
	servers.Start(0)
	push(t, h, "alice", "after")
	if got := c.until("data: after\n"); strings.Contains(got, "meanwhile") || strings.Contains(got, "sse.gap") || strings.Contains(got, "sse.closing") {
		t.Errorf("the stream: got %s, want neither the refused event nor a gap nor its end", got)
	}
	servers.Eventually("the store still has a problem, or lags", func(context.Context) bool {
		s := h.Stats()
		return s.Problem == nil && s.Behind == 0
	})
}

// TestGapWhenTheStreamIsCreatedAgain: an open stream ends, because a change of rights may be lost
// with the old stream. A client that comes back with its old position gets the gap.
func TestGapWhenTheStreamIsCreatedAgain(t *testing.T) {
	servers := natstest.Start(t, 1)
	stream := newStream()
	h := newHub(t, stream, servers.URLs()...)
	c, _ := connect(t, h, "alice", "")
	push(t, h, "alice", "before")
	c.until("data: before\n")
	position := c.position()
	js, done := servers.JetStream()
	defer done()
	if err := js.DeleteStream(t.Context(), stream); err != nil {
		t.Fatal(err)
	}
	const gap = "event: sse.gap\ndata: {\"reason\":\"epoch\"}\n"
	c.until("event: sse.closing\ndata: {\"reason\":\"lifetime\"")
	push(t, h, "alice", "after")
	returned, _ := connect(t, h, "alice", position)
	if got := returned.until("data: after\n"); !strings.Contains(got, gap) || !strings.Contains(got, `"resumed":false`) {
		t.Errorf("blocks after a reconnect: got %s, want a gap and resumed false", got)
	}
}
