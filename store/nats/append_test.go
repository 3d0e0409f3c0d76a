package natsstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ea766355/caddy-sse/hub"
	"github.com/ea766355/caddy-sse/store/nats/natstest"
)

// TestUncertainAnswer loses the server's answer. Appending the same events again tells whether
// they were stored, and does not store them twice.
func TestUncertainAnswer(t *testing.T) {
	t.Parallel()
	servers := natstest.Start(t, 1)
	stream := newStream()
	other := startNode(t, stream, 1, someOptions, servers.URLs()...)
	for name, events := range map[string][]hub.Entry{
		"one":   {entry("one", "")},
		"batch": {entry("batch", ""), entry("batch", "k"), entry("batch", "")},
	} {
		// Each case has its own node, since the tail of a muted node misses messages.
		proxy := natstest.NewProxy(t, servers.URLs()[0])
		n := startNode(t, stream, 1, someOptions, proxy.URL())
		n.publish("first")
		proxy.Mute()
		ctx, cancel := context.WithCancel(t.Context())
		var appending sync.WaitGroup
		var err error
		appending.Go(func() { _, err = n.Append(ctx, events) })
		other.await("the event", func() bool { return slices.Contains(other.newest().texts(), name) })
		cancel()
		appending.Wait()
		if !errors.Is(err, hub.ErrUncertain) {
			t.Errorf("%s: got error %v of Append without an answer, want ErrUncertain", name, err)
		}
		for _, e := range events {
			if e.Key == "" {
				t.Fatalf("%s: got an entry without a key, want keys to append again with", name)
			}
		}
		proxy.Mend()
		stored, err := n.Append(t.Context(), events)
		if err != nil {
			t.Fatal(err)
		}
		got := other.upTo(other.publish("mark")).texts()
		count := 0
		for _, text := range got {
			if text == name {
				count++
			}
		}
		if count != len(events) {
			t.Errorf("%s: got %d stored events, want %d", name, count, len(events))
		}
		for i, s := range stored {
			if s.Position.Seq != stored[0].Position.Seq+uint64(i) || got[s.Position.Seq-1] != name {
				t.Errorf("%s: got position %v of event %d, want the next one, with this event", name, s.Position, i)
			}
		}
	}
}

// TestUncertainErrors: after some errors it is certain that nothing was stored.
func TestUncertainErrors(t *testing.T) {
	for err, uncertain := range map[error]bool{
		context.DeadlineExceeded: true,
		nats.ErrConnectionClosed: true,
		&jetstream.APIError{ErrorCode: 10077, Description: "no space left on device"}: true,
		&jetstream.APIError{ErrorCode: jetstream.JSErrCodeStreamNotFound}:             false,
		&jetstream.APIError{ErrorCode: codeInProcess}:                                 true,
		&jetstream.APIError{ErrorCode: codeSequenceMismatch}:                          true,
		jetstream.ErrNoStreamResponse:                                                 false,
		nats.ErrReconnectBufExceeded:                                                  false,
		fmt.Errorf("%w: s", errNotOurs):                                               false,
	} {
		p := publication{store: &store{wakeups: make(chan struct{}, 1)}}
		p.noteUncertain(err)
		if p.uncertain != uncertain {
			t.Errorf("uncertain after %v: got %v, want %v", err, p.uncertain, uncertain)
		}
	}
}

// TestRepeatWithoutAQuorum: without a quorum, a publish is uncertain, and so is a publish that repeats
// it, until the server has stored the first one. Each event is stored once in the end.
func TestRepeatWithoutAQuorum(t *testing.T) {
	t.Parallel()
	servers := natstest.Start(t, 3)
	n := startNode(t, newStream(), 3, someOptions, servers.URLs()...)
	n.upTo(n.publish("first"))
	want, refused := []string{"first", "last"}, 0
	for round := 0; refused == 0 && round < 10; round++ { // again if the leader has changed meanwhile
		servers.AwaitReplicas(n.config.stream)
		leader := servers.AwaitLeader(n.config.stream)
		for i := range 3 {
			if i != leader {
				servers.Kill(i)
			}
		}
		var events [][]hub.Entry
		for _, keys := range [][]string{numbered(fmt.Sprint("one", round), 1), numbered(fmt.Sprint("batch", round), 2)} {
			var entries []hub.Entry
			for _, key := range keys {
				entries = append(entries, entry(key, key))
			}
			events, want = append(events, entries), append(want, keys...)
		}
		for range 3 {
			for _, entries := range events {
				ctx, cancel := context.WithTimeout(t.Context(), attemptTimeout+attemptTimeout/2)
				_, err := n.Append(ctx, entries)
				cancel()
				if err != nil && strings.Contains(err.Error(), "in process") {
					refused++
					if !errors.Is(err, hub.ErrUncertain) {
						t.Errorf("error of Append of a key that is in process: got %v, want ErrUncertain", err)
					}
				}
			}
		}
		for i := range 3 {
			if i != leader {
				servers.Start(i)
			}
		}
		for _, entries := range events {
			servers.Eventually("the events are not stored", func(context.Context) bool {
				_, err := n.Append(t.Context(), entries)
				return err == nil
			})
		}
	}
	if refused == 0 {
		t.Error("refusals of a key in process: got none, want some")
	}
	got := n.upTo(n.publish("last")).texts()
	slices.Sort(got)
	if slices.Sort(want); !slices.Equal(got, want) {
		t.Errorf("stored events: got %q, want %q", got, want)
	}
}

// TestBatchOfTheLargestSize: a batch of the largest size is stored as one batch, on one server and
// on three.
func TestBatchOfTheLargestSize(t *testing.T) {
	for _, replicas := range []int{1, 3} {
		t.Run(strconv.Itoa(replicas), func(t *testing.T) {
			servers := natstest.Start(t, replicas)
			n := startNode(t, newStream(), replicas, someOptions, servers.URLs()...)
			n.publish("first")
			batch := make([]hub.Entry, 1000)
			for i := range batch {
				batch[i] = entry(strings.Repeat("x", 8<<20/1000-100), "")
			}
			start := time.Now()
			stored, err := n.Append(t.Context(), batch)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("stored in %v", time.Since(start))
			n.upTo(stored[999].Position)
			if stored[0].Position.Seq != 2 || stored[999].Position.Seq != 1001 {
				t.Errorf("positions: got %v to %v, want 2 to 1001", stored[0].Position, stored[999].Position)
			}
		})
	}
}

// TestBatchesNeedANewServer: if the server is too old for batches, a batch is refused, and no part
// of it is stored.
func TestBatchesNeedANewServer(t *testing.T) {
	servers := natstest.Start(t, 1)
	n := startNode(t, newStream(), 1, someOptions, servers.URLs()...)
	n.publish("first")
	known, err := n.store.awaitStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	old := *known
	old.atomic = false
	n.setKnown(&old)
	_, err = n.Append(t.Context(), []hub.Entry{entry("a", ""), entry("b", "")})
	if !errors.Is(err, hub.ErrNotStored) || !strings.Contains(err.Error(), "2.12.1") {
		t.Errorf("error of Append: got %v, want ErrNotStored with the needed version", err)
	}
	// A batch of one event and its duplicate needs no atomic batch.
	if _, err = n.Append(t.Context(), []hub.Entry{entry("c", "c"), entry("c", "c")}); err != nil {
		t.Error(err)
	}
	if got := n.upTo(n.publish("last")).texts(); !slices.Equal(got, []string{"first", "c", "last"}) {
		t.Errorf("delivered records: got %q, want first, c and last", got)
	}
}

// TestLeaderIsKilled kills the leader of the stream several times. Publishers on two nodes repeat
// unacknowledged events, alone or three at once. Each acknowledged event is delivered once and in
// order on both nodes.
func TestLeaderIsKilled(t *testing.T) {
	t.Parallel()
	const publishers, kills = 8, 3
	servers := natstest.Start(t, 3)
	stream := newStream()
	nodes := []*node{startNode(t, stream, 3, someOptions, servers.URLs()...), startNode(t, stream, 3, someOptions, servers.URLs()...)}
	nodes[0].publish("first")

	stop := make(chan struct{})
	var running sync.WaitGroup
	var acknowledged [publishers]map[string]hub.Position
	var longest [publishers]time.Duration
	for p := range publishers {
		acknowledged[p] = make(map[string]hub.Position)
		running.Go(func() {
			pace := time.NewTicker(2 * time.Millisecond)
			defer pace.Stop()
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				case <-pace.C:
				}
				var events []hub.Entry
				for j := range 1 + 2*(p%2) {
					text := fmt.Sprint(p, " ", i, " ", j)
					events = append(events, entry(text, text))
				}
				began := time.Now()
				for {
					ctx, cancel := context.WithTimeout(t.Context(), hub.PublishTimeout)
					stored, err := nodes[p%4/2].Append(ctx, events)
					cancel()
					if err == nil {
						for j, e := range events {
							acknowledged[p][string(e.Data)] = stored[j].Position
						}
						break
					}
					if !errors.Is(err, hub.ErrUncertain) && !errors.Is(err, hub.ErrNotStored) {
						t.Errorf("Append: %v", err)
						return
					}
				}
				longest[p] = max(longest[p], time.Since(began))
			}
		})
	}
	for range kills {
		leader := servers.AwaitLeader(stream)
		servers.Kill(leader)
		// Publishing succeeds without the killed server, and after its restart.
		nodes[0].publish("without")
		servers.Start(leader)
		servers.AwaitReplicas(stream)
	}
	close(stop)
	running.Wait()

	last := nodes[1].publish("last")
	total := 0
	for i, n := range nodes {
		l := n.upTo(last)
		at := make(map[string]uint64)
		next := make(map[string]int) // by publisher
		for _, r := range l.records {
			text := string(r.Data)
			if before, again := at[text]; again && strings.Count(text, " ") == 2 {
				t.Errorf("node %d: got %q at %d and at %d, want it once", i, text, before, r.Seq)
			}
			at[text] = r.Seq
			if p, rest, ok := strings.Cut(text, " "); ok {
				number, _, _ := strings.Cut(rest, " ")
				if n, err := strconv.Atoi(number); err != nil || n < next[p] {
					t.Errorf("node %d: got %q after number %d, want it in order", i, text, next[p])
				} else {
					next[p] = n
				}
			}
		}
		if len(n.histories) != 1 {
			t.Errorf("node %d: got %d histories, want 1", i, len(n.histories))
		}
		for p := range publishers {
			for text, position := range acknowledged[p] {
				if at[text] != position.Seq || position.Epoch != l.epoch {
					t.Errorf("node %d: got %q at %d, want it at %v", i, text, at[text], position)
				}
			}
			total += len(acknowledged[p])
		}
	}
	t.Logf("%d acknowledged events over %d kills; a publish took up to %v", total/2, kills, slices.Max(longest[:]))
}

// TestAppendWhileClosing: Close waits for an Append whose answer is missing. An Append that begins
// meanwhile is refused at once, so that the hub can give it to the next store.
func TestAppendWhileClosing(t *testing.T) {
	t.Parallel()
	servers := natstest.Start(t, 1)
	proxy := natstest.NewProxy(t, servers.URLs()[0])
	n := &node{store: openStore(t, newStream(), 1, proxy.URL()), t: t, changed: make(chan struct{})}
	other := startNode(t, n.config.stream, 1, someOptions, servers.URLs()...)
	n.Retain(someOptions, 0)
	ctx, stop := context.WithCancel(t.Context())
	var tail sync.WaitGroup
	tail.Go(func() { n.Tail(ctx, n) })
	n.publish("first")
	stop()
	tail.Wait()
	proxy.Mute()
	slow, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if _, err := n.Append(slow, []hub.Entry{entry("a", "")}); !errors.Is(err, hub.ErrUncertain) {
			t.Errorf("error of Append without an answer: got %v, want ErrUncertain", err)
		}
	})
	other.await("the event", func() bool { return slices.Contains(other.newest().texts(), "a") })
	running.Go(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	<-n.closing
	refused := make(chan struct{})
	go func() {
		defer close(refused)
		for range 100 {
			if _, err := n.Append(t.Context(), []hub.Entry{entry("b", "")}); !errors.Is(err, hub.ErrNotStored) {
				t.Errorf("error of Append during Close: got %v, want ErrNotStored", err)
			}
		}
	}()
	select {
	case <-refused:
	case <-time.After(time.Minute):
		t.Error("Append during Close: got no answer, want a refusal at once")
	}
	cancel()
	running.Wait()
	<-refused
}
