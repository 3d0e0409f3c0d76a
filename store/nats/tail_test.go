package natsstore

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/ea766355/caddy-sse/hub"
	"github.com/ea766355/caddy-sse/store/nats/natstest"
)

// TestStreamIsCreatedAgain deletes the stream during publishes. Every acknowledged event is
// delivered at its position, and the new stream has a new epoch.
func TestStreamIsCreatedAgain(t *testing.T) {
	servers := natstest.Start(t, 1)
	n := startNode(t, newStream(), 1, someOptions, servers.URLs()...)
	before := n.publish(numbered("before ", 10)...)
	n.upTo(before)
	js, done := servers.JetStream()
	defer done()

	var publishers sync.WaitGroup
	stop := make(chan struct{})
	var mu sync.Mutex
	acknowledged := make(map[hub.Position]string)
	for p := range 4 {
		publishers.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				text := strconv.Itoa(p) + "." + strconv.Itoa(i)
				stored, err := n.Append(t.Context(), []hub.Entry{entry(text, text)})
				if err != nil {
					t.Errorf("Append: %v", err)
					return
				}
				mu.Lock()
				acknowledged[stored[0].Position] = text
				mu.Unlock()
			}
		})
	}
	if err := js.DeleteStream(t.Context(), n.config.stream); err != nil {
		t.Fatal(err)
	}
	n.await("a new epoch", func() bool { return n.newest().epoch != before.Epoch })
	n.await("events of the new epoch", func() bool { return len(n.newest().records) > 20 })
	close(stop)
	publishers.Wait()
	last := n.upTo(n.publish("last"))
	if last.oldest != 1 || last.epoch == before.Epoch {
		t.Errorf("epoch and beginning of the new stream: got %s and %d, want another epoch than %s and 1", last.epoch, last.oldest, before.Epoch)
	}
	for p, text := range acknowledged {
		if p.Epoch == last.epoch && last.at(p.Seq) != text {
			t.Errorf("record at %v: got %s, want %s, which was acknowledged there", p, last.at(p.Seq), text)
		}
	}
}

// TestStreamLosesEvents restores an old state of the server's files. Positions then get other
// events, so a new epoch starts.
func TestStreamLosesEvents(t *testing.T) {
	t.Parallel()
	for name, more := range map[string]int{"and is idle": 0, "and has others in their place": 30} {
		t.Run(name, func(t *testing.T) {
			servers := natstest.Start(t, 1)
			n := startNode(t, newStream(), 1, someOptions, servers.URLs()...)
			n.upTo(n.publish(numbered("kept ", 5)...))
			restore := servers.Snapshot()
			lost := n.publish(numbered("lost ", 20)...)
			n.upTo(lost)
			restore()
			if more > 0 {
				other := startNode(t, n.config.stream, 1, someOptions, servers.URLs()...)
				other.publish(numbered("new ", more)...)
			}
			n.await("a new epoch", func() bool { return n.newest().epoch != lost.Epoch })
			got := n.upTo(n.publish("last")).texts()
			if want := append(append(numbered("kept ", 5), numbered("new ", more)...), "last"); !slices.Equal(got, want) {
				t.Errorf("delivered records: got %q, want %q", got, want)
			}
		})
	}
}

// TestNodesAgreeOnAnEpoch: all nodes notice at about the same time that the stream has lost events, and
// end with the same epoch.
func TestNodesAgreeOnAnEpoch(t *testing.T) {
	t.Parallel()
	servers := natstest.Start(t, 1)
	name := newStream()
	startNode(t, name, 1, someOptions, servers.URLs()...).publish("a")
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute) // longer than a request may usually take
	defer cancel()
	var tails []*tail
	for range 8 {
		s := openStore(t, name, 1, servers.URLs()...)
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
		s.Retain(someOptions, 0)
		found, err := s.js.Stream(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		tails = append(tails, &tail{store: s, found: &stream{Stream: found}})
	}
	// On a busy machine a node may set its epoch after another one has waited for it. That node would
	// notice the other epoch later. So a round counts if all nodes had set theirs before any looked.
	epochs, apart := noticeTogether(ctx, t, tails)
	for deadline := time.Now().Add(2 * time.Minute); apart > agreeWait; epochs, apart = noticeTogether(ctx, t, tails) {
		if time.Now().After(deadline) {
			t.Fatalf("time between the first and the last node that waited for the others: got %v, want at most %v", apart, agreeWait)
		}
	}
	if len(slices.Compact(epochs)) != 1 {
		t.Errorf("epochs of the nodes: got %q, want one", epochs)
	}
}

// noticeTogether lets all nodes replace the epoch, one a little after the other. It returns the epochs that they find
// then, in ascending order, and the time between the end of the shortest wait for the others and the end
// of the longest.
func noticeTogether(ctx context.Context, t *testing.T, tails []*tail) (epochs []string, apart time.Duration) {
	t.Helper()
	epochs = make([]string, len(tails))
	ends := make([]time.Time, len(tails))
	var noticing sync.WaitGroup
	for i, tl := range tails {
		noticing.Go(func() {
			<-time.After(time.Duration(i) * agreeWait / 20)
			err := tl.replaceEpoch(ctx)
			ends[i] = time.Now()
			if !errors.Is(err, errOtherEpoch) {
				t.Error(err)
			}
			found, err := tl.js.Stream(ctx, tl.config.stream)
			if err != nil {
				t.Error(err)
				return
			}
			epochs[i] = epochOf(found.CachedInfo().Config, found.CachedInfo().Created)
		})
	}
	noticing.Wait()
	slices.Sort(epochs)
	slices.SortFunc(ends, time.Time.Compare)
	return epochs, ends[len(ends)-1].Sub(ends[0])
}

// TestPublishingWhilePositionsAreUsedAgain restores an old state of the server's files during
// publishes. Every event that is acknowledged after that is delivered at its position and in its
// epoch.
func TestPublishingWhilePositionsAreUsedAgain(t *testing.T) {
	t.Parallel()
	servers := natstest.Start(t, 1)
	n := startNode(t, newStream(), 1, someOptions, servers.URLs()...)
	n.upTo(n.publish(numbered("kept ", 5)...))
	restore := servers.Snapshot()
	lost := n.publish(numbered("lost ", 20)...)
	n.upTo(lost)

	restore()
	var publishers sync.WaitGroup
	var mu sync.Mutex
	acknowledged := make(map[string]hub.Position)
	for p := range 8 {
		publishers.Go(func() {
			var batch []hub.Entry
			for i := range 1 + 2*(p%2) {
				text := strconv.Itoa(p) + "." + strconv.Itoa(i)
				batch = append(batch, entry(text, text))
			}
			stored, err := n.Append(t.Context(), batch)
			if err != nil {
				t.Errorf("Append: %v", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			for i, s := range stored {
				acknowledged[string(batch[i].Data)] = s.Position
			}
		})
	}
	publishers.Wait()
	last := n.upTo(n.publish("last"))
	for text, p := range acknowledged {
		if p.Epoch != last.epoch || last.at(p.Seq) != text {
			t.Errorf("record at %v: got %q in epoch %s, want %s, which was acknowledged there", p, last.at(p.Seq), last.epoch, text)
		}
	}
}

// TestPositionsAreUsedAgainUnnoticed: while the tail is busy, a publish is the first to find a
// position that is used again. A new event may use it, or the duplicate of an event that another
// node stored meanwhile.
func TestPositionsAreUsedAgainUnnoticed(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"new", "batch", "duplicate", "duplicates"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			servers := natstest.Start(t, 1)
			n := startNode(t, newStream(), 1, someOptions, servers.URLs()...)
			n.upTo(n.publish(numbered("kept ", 5)...))
			restore := servers.Snapshot()
			lost := n.publish(numbered("lost ", 20)...)
			n.upTo(lost)

			busy, release := make(chan struct{}), make(chan struct{})
			n.mu.Lock()
			n.hold = sync.OnceFunc(func() {
				close(busy)
				<-release
			})
			n.mu.Unlock()
			n.publish("the tail is busy with it")
			<-busy
			restore()
			events := []hub.Entry{entry("a", "a")}
			if kind == "batch" || kind == "duplicates" {
				events = append(events, entry("b", "b"))
			}
			if kind == "duplicate" || kind == "duplicates" {
				other := startNode(t, n.config.stream, 1, someOptions, servers.URLs()...)
				if _, err := other.Append(t.Context(), slices.Clone(events)); err != nil {
					t.Fatal(err)
				}
			}
			var appending sync.WaitGroup
			var stored []hub.Stored
			appending.Go(func() {
				var err error
				if stored, err = n.Append(t.Context(), events); err != nil {
					t.Errorf("Append: %v", err)
				}
			})
			servers.Eventually("the store does not notice it", func(context.Context) bool {
				n.store.mu.Lock()
				defer n.store.mu.Unlock()
				return n.distrusted
			})
			close(release)
			appending.Wait()
			for i, s := range stored {
				l := n.upTo(s.Position)
				if s.Duplicate != strings.HasPrefix(kind, "duplicate") {
					t.Errorf("receipt of %s: got duplicate %v, want the opposite", events[i].Data, s.Duplicate)
				}
				if got := l.at(s.Position.Seq); s.Position.Epoch == lost.Epoch || got != string(events[i].Data) {
					t.Errorf("record at %v: got %s, want %s in another epoch than %s", s.Position, got, events[i].Data, lost.Epoch)
				}
			}
		})
	}
}

// TestNodeIsCutOffForTooLong: the node skips events that are no longer in the stream.
func TestNodeIsCutOffForTooLong(t *testing.T) {
	servers := natstest.Start(t, 1)
	few := someOptions
	few.MaxBytes = 1 << 20
	stream := newStream()
	proxy := natstest.NewProxy(t, servers.URLs()[0])
	other := startNode(t, stream, 1, few, servers.URLs()...)
	n := startNode(t, stream, 1, few, proxy.URL())
	before := other.publish(numbered("before ", 5)...)
	n.upTo(before)
	proxy.Cut()
	n.await("the loss of NATS", func() bool { return n.problem != nil })
	const size, batches = 64 << 10, 5
	batch := make([]hub.Entry, 100)
	for range batches {
		for i := range batch {
			batch[i] = entry(strings.Repeat("x", size), "")
		}
		if _, err := other.Append(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
	}
	proxy.Mend()
	last := other.publish("after")
	l := n.upTo(last)
	if l.epoch != before.Epoch || len(n.histories) != 1 {
		t.Errorf("histories and epoch: got %d and %s, want 1 and %s", len(n.histories), l.epoch, before.Epoch)
	}
	kept := uint64((few.MaxBytes + moreBytes) / size)
	if next := l.records[5].Seq; next < last.Seq-kept || next > last.Seq-kept+kept/20 {
		t.Errorf("seq after the cut: got %d of %d, want at most the last %d", next, last.Seq, kept)
	}
}

// TestMessagesAreDeleted deletes messages in the middle and at the end. A node that starts skips
// them at once. A node that already has them is not affected.
func TestMessagesAreDeleted(t *testing.T) {
	const n, every = 1_000, 3
	servers := natstest.Start(t, 1)
	js, done := servers.JetStream()
	defer done()
	had := startNode(t, newStream(), 1, someOptions, servers.URLs()...)
	had.upTo(had.publish(numbered("", n)...))
	found, err := js.Stream(t.Context(), had.config.stream)
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for i := range n {
		switch seq := uint64(i + 1); {
		case seq%every == 0, seq > n-5, seq > 500 && seq < 600:
			if err := found.DeleteMsg(t.Context(), seq); err != nil {
				t.Fatal(err)
			}
		default:
			want = append(want, strconv.Itoa(i))
		}
	}
	start := time.Now()
	other := startNode(t, had.config.stream, 1, someOptions, servers.URLs()...)
	other.await("the history", func() bool { return other.open })
	took := time.Since(start)
	other.mu.Lock()
	got := other.newest()
	other.mu.Unlock()
	if !slices.Equal(got.texts(), want) || len(other.histories) != 1 {
		t.Errorf("delivered messages: got %d in %d histories, want %d in 1: %q", len(got.records), len(other.histories), len(want), got.texts())
	}
	info, err := found.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("with %d of %d deleted it started in %v; there are %d consumers", n-len(want), n, took, info.State.Consumers)
	servers.Eventually("two nodes have more than two consumers", func(ctx context.Context) bool { // one that was silent is replaced, and ends later
		info, err := found.Info(ctx)
		return err == nil && info.State.Consumers <= 2
	})

	// A message that a lagging server skips is not deleted.
	tl := &tail{store: had.store, last: mark{seq: 3*every - 1}, found: &stream{Stream: found}}
	if err := tl.checkNext(t.Context(), 3*every+1); err != nil {
		t.Errorf("error after a deleted message: got %v, want none", err)
	}
	for last, next := range map[uint64]uint64{3*every - 2: 3*every + 1, 1: 700, 1000: 999, 10: 1 << 63} {
		tl.last.seq = last
		if err := tl.checkNext(t.Context(), next); !errors.Is(err, errSkipped) {
			t.Errorf("error for %d after %d: got %v, want %v", next, last, err, errSkipped)
		}
	}

	// Messages that are not delivered yet can be deleted too.
	last := other.publish(numbered("more ", 3)...)
	had.upTo(last)
	if l := other.upTo(last); l.records[len(l.records)-1].Seq != n+3 || len(other.histories)+len(had.histories) != 2 {
		t.Errorf("head and histories of both nodes: got %d, %d and %d, want %d, 1 and 1", l.head, len(other.histories), len(had.histories), n+3)
	}
}

// TestMessagesAreDeletedMeanwhile deletes the last messages that a node still waits for. Its
// history is complete without them.
func TestMessagesAreDeletedMeanwhile(t *testing.T) {
	servers := natstest.Start(t, 1)
	js, done := servers.JetStream()
	defer done()
	had := startNode(t, newStream(), 1, someOptions, servers.URLs()...)
	had.upTo(had.publish(numbered("", 10)...))
	found, err := js.Stream(t.Context(), had.config.stream)
	if err != nil {
		t.Fatal(err)
	}
	s := openStore(t, had.config.stream, 1, servers.URLs()...)
	n := tailNode(t, s, someOptions, hub.Position{})
	n.await("the history", func() bool { return n.open })
	n.mu.Lock()
	n.open = false
	n.mu.Unlock()
	tl := &tail{store: s, feed: n, last: mark{seq: 10}, target: 12, found: &stream{Stream: found}}
	tl.status(0)
	if n.open {
		t.Error("the history with two messages missing: got open, want not open")
	}
	if err := tl.setTarget(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !n.open {
		t.Error("the history with nothing missing: got not open, want open")
	}
}

// TestMessageIsLostOnTheWay: a message to a node is lost, and none comes after it. The node gets it again:
// at once if it has connected to another server, else when it looks at the stream.
func TestMessageIsLostOnTheWay(t *testing.T) {
	t.Parallel()
	servers := natstest.Start(t, 1)
	other := startNode(t, newStream(), 1, someOptions, servers.URLs()...)
	proxies := []*natstest.Proxy{natstest.NewProxy(t, servers.URLs()[0]), natstest.NewProxy(t, servers.URLs()[0])}
	n := startNode(t, other.config.stream, 1, someOptions, proxies[0].URL(), proxies[1].URL())
	n.upTo(other.publish("first"))
	used := func() *natstest.Proxy {
		for !n.conn.IsConnected() {
			time.Sleep(time.Millisecond)
		}
		if strings.HasSuffix(proxies[0].URL(), n.conn.ConnectedAddr()) {
			return proxies[0]
		}
		return proxies[1]
	}
	for i := range 40 { // in some of them it connects before the node has noticed the loss of the connection
		proxy := used()
		proxy.Mute()
		lost := other.publish("lost " + strconv.Itoa(i))
		proxy.Cut()
		n.upTo(lost)
		proxy.Mend()
	}
	proxy := used()
	proxy.Mute()
	lost := other.publish("lost between servers")
	proxy.Mend()
	n.upTo(lost)
}

// TestReconnectEndsTheConsumer: when the client of NATS has connected again, a new consumer reads on,
// also if the node has not noticed that the connection was lost.
func TestReconnectEndsTheConsumer(t *testing.T) {
	t.Parallel()
	n := startNode(t, newStream(), 1, someOptions, natstest.Start(t, 1).URLs()...)
	s := &store{conn: n.conn, wakeups: make(chan struct{}, 1)}
	s.wakeups <- struct{}{}
	var failure error
	(&tail{store: s}).watch(t.Context(), new(stream), n.conn.Stats().Reconnects+1, func(err error) { failure = err })
	if !errors.Is(failure, errLost) {
		t.Errorf("error after a reconnect: got %v, want %v", failure, errLost)
	}
}

// TestLastMessagesAreDeleted: the last messages of the stream are deleted while a node is cut off, or
// before it starts. The node passes them, though no message comes after them. So it knows the
// positions that clients of other nodes have, and can tell its own clients of the gap.
func TestLastMessagesAreDeleted(t *testing.T) {
	servers := natstest.Start(t, 1)
	js, done := servers.JetStream()
	defer done()
	proxy := natstest.NewProxy(t, servers.URLs()[0])
	other := startNode(t, newStream(), 1, someOptions, servers.URLs()...)
	n := startNode(t, other.config.stream, 1, someOptions, proxy.URL())
	n.upTo(other.publish(numbered("before ", 5)...))
	proxy.Cut()
	n.await("the loss of NATS", func() bool { return n.problem != nil })
	last := other.publish(numbered("meanwhile ", 5)...)
	found, err := js.Stream(t.Context(), n.config.stream)
	if err != nil {
		t.Fatal(err)
	}
	for seq := last.Seq - 2; seq <= last.Seq; seq++ {
		if err := found.DeleteMsg(t.Context(), seq); err != nil {
			t.Fatal(err)
		}
	}
	proxy.Mend()
	if got := len(n.upTo(last).records); got != 7 {
		t.Errorf("delivered messages with 3 of 10 deleted: got %d, want 7", got)
	}
	if got := len(startNode(t, n.config.stream, 1, someOptions, servers.URLs()...).upTo(last).records); got != 7 {
		t.Errorf("delivered messages to a node that starts, with 3 of 10 deleted: got %d, want 7", got)
	}

	proxy.Cut()
	n.await("the loss of NATS", func() bool { return n.problem != nil })
	last = other.publish(numbered("purged ", 5)...)
	if err := found.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	proxy.Mend()
	n.upTo(last)
	if after := n.upTo(n.publish("after")); after.at(last.Seq+1) != "after" || len(n.histories) != 1 {
		t.Errorf("record after a purge: got %q in %d histories, want the next one in 1", after.at(last.Seq+1), len(n.histories))
	}
}

// TestForeignMessages: messages of other programs are records like all others. The hub decides
// what they mean.
func TestForeignMessages(t *testing.T) {
	servers := natstest.Start(t, 1)
	js, done := servers.JetStream()
	defer done()
	n := startNode(t, newStream(), 1, someOptions, servers.URLs()...)
	n.upTo(n.publish(numbered("", 3)...))
	found, err := js.Stream(t.Context(), n.config.stream)
	if err != nil {
		t.Fatal(err)
	}
	subject := found.CachedInfo().Config.Subjects[0]
	for _, foreign := range []string{"none of ours", ""} {
		if _, err := js.Publish(t.Context(), subject, []byte(foreign)); err != nil {
			t.Fatal(err)
		}
	}
	other := startNode(t, n.config.stream, 1, someOptions, servers.URLs()...)
	last := n.publish("3")
	for _, n := range []*node{n, other} {
		if got := n.upTo(last).texts(); !slices.Equal(got, []string{"0", "1", "2", "none of ours", "", "3"}) || len(n.histories) != 1 {
			t.Errorf("delivered records: got %q in %d histories, want all in 1", got, len(n.histories))
		}
	}
}

// TestNewEpochReachesAllNodes: a new epoch also reaches the nodes that do not notice a lost event
// themselves.
func TestNewEpochReachesAllNodes(t *testing.T) {
	t.Parallel()
	servers := natstest.Start(t, 1)
	stream := newStream()
	nodes := []*node{startNode(t, stream, 1, someOptions, servers.URLs()...), startNode(t, stream, 1, someOptions, servers.URLs()...)}
	before := nodes[0].publish("a")
	for _, n := range nodes {
		n.upTo(before)
	}
	js, done := servers.JetStream()
	defer done()
	found, err := js.Stream(t.Context(), stream)
	if err != nil {
		t.Fatal(err)
	}
	c := found.CachedInfo().Config
	c.Metadata = map[string]string{lifeKey: "restored"}
	if _, err := js.UpdateStream(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	var epochs []string
	for _, n := range nodes {
		n.await("a new epoch", func() bool { return n.newest().epoch != before.Epoch })
		n.await("its events", func() bool { return len(n.newest().records) == 1 })
		epochs = append(epochs, n.histories[1].epoch)
	}
	if epochs[0] != epochs[1] {
		t.Errorf("epochs of two nodes: got %v, want one", epochs)
	}
}

// TestEpochIsRestored: two nodes changed the stream at the same time, and one restored the epoch
// that the other had replaced. That epoch stays ended.
func TestEpochIsRestored(t *testing.T) {
	t.Parallel()
	servers := natstest.Start(t, 1)
	n := startNode(t, newStream(), 1, someOptions, servers.URLs()...)
	n.upTo(n.publish("a"))
	js, done := servers.JetStream()
	defer done()
	found, err := js.Stream(t.Context(), n.config.stream)
	if err != nil {
		t.Fatal(err)
	}
	before := found.CachedInfo().Config
	if err := n.startEpoch(t.Context(), found); err != nil {
		t.Fatal(err)
	}
	n.await("a new epoch", func() bool { return len(n.histories) == 2 && len(n.newest().records) == 1 })
	if _, err := js.UpdateStream(t.Context(), before); err != nil {
		t.Fatal(err)
	}
	n.await("a third epoch", func() bool { return len(n.histories) == 3 && len(n.newest().records) == 1 })
	if epochs := []string{n.histories[0].epoch, n.histories[1].epoch, n.histories[2].epoch}; epochs[2] == epochs[0] || epochs[2] == epochs[1] {
		t.Errorf("epochs: got %q, want a third one at the end", epochs)
	}
}

// TestEpochIsOfTheStream: the time of creation is a part of the epoch only if the store did not create
// the stream, because the servers of a cluster disagree about that time after a restore.
func TestEpochIsOfTheStream(t *testing.T) {
	made := time.Now()
	stream := func(name string, life string) jetstream.StreamConfig {
		c := jetstream.StreamConfig{Name: name, Metadata: map[string]string{"other": "x"}}
		if life != "" {
			c.Metadata[lifeKey] = life
		}
		return c
	}
	epoch := epochOf(stream("S", "1"), made)
	if len(epoch) != 8 {
		t.Errorf("epoch: got %q, want 8 characters", epoch)
	}
	for name, test := range map[string]struct {
		a, b string
		same bool
	}{
		"a stream, and one that was restored":       {epoch, epochOf(stream("S", "1"), made.Add(1)), true},
		"a stream, and another life":                {epoch, epochOf(stream("S", "2"), made), false},
		"a stream, and another name":                {epoch, epochOf(stream("T", "1"), made), false},
		"without a life, in another time zone":      {epochOf(stream("S", ""), made), epochOf(stream("S", ""), made.UTC()), true},
		"without a life, and made at another time":  {epochOf(stream("S", ""), made), epochOf(stream("S", ""), made.Add(1)), false},
		"without a life, and then it was given one": {epochOf(stream("S", ""), made), epoch, false},
	} {
		if same := test.a == test.b; same != test.same {
			t.Errorf("%s: got the epochs %q and %q, want equal epochs: %t", name, test.a, test.b, test.same)
		}
	}
}

// TestEachStreamHasALife: each stream that the store creates has a value of lifeKey of its own.
func TestEachStreamHasALife(t *testing.T) {
	t.Parallel()
	servers := natstest.Start(t, 1)
	js, done := servers.JetStream()
	defer done()
	lives := make(map[string]bool)
	name := newStream()
	n := startNode(t, name, 1, someOptions, servers.URLs()...)
	for range 2 {
		n.upTo(n.publish("a"))
		found, err := js.Stream(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		lives[found.CachedInfo().Config.Metadata[lifeKey]] = true
		epoch := n.newest().epoch
		if err := js.DeleteStream(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		n.await("a new stream", func() bool { return n.newest().epoch != epoch })
	}
	if len(lives) != 2 || lives[""] {
		t.Errorf("lives of two streams: got %q, want two", slices.Collect(maps.Keys(lives)))
	}
}

// TestClockIsSet: the time of a record is that of this node's clock. This clock and that of the
// server can be set at any time.
func TestClockIsSet(t *testing.T) {
	t.Parallel()
	servers := natstest.Start(t, 1)
	n := startNode(t, newStream(), 1, someOptions, servers.URLs()...)
	for _, wrong := range []time.Duration{48 * time.Hour, -48 * time.Hour} {
		n.setSkew(wrong)
		if at := n.ourTime(time.Now()); at.After(time.Now()) {
			t.Errorf("time of a record: got %v, want no later than now", at)
		}
		servers.Eventually("the store does not compare the clocks", func(context.Context) bool {
			began := time.Now()
			p := n.publish("a")
			l := n.upTo(p)
			at := l.records[len(l.records)-1].At
			return at.Sub(began).Abs() < time.Second
		})
	}
}

// TestAnotherCluster: a node connects to another cluster, which has no stream of this name, and later to the
// first one again. Each time the history has a new epoch, and all events of the stream that it reads.
func TestAnotherCluster(t *testing.T) {
	t.Parallel()
	first, second := natstest.Start(t, 1), natstest.Start(t, 1)
	n := startNode(t, newStream(), 1, someOptions, first.URLs()[0], second.URLs()[0])
	other := second
	if n.conn.ConnectedUrl() == second.URLs()[0] {
		first, other = second, first
	}
	a := n.publish("a")
	n.upTo(a)
	first.Kill(0)
	n.await("another epoch", func() bool { return n.newest().epoch != a.Epoch })
	b := n.publish("b")
	if got := n.upTo(b).texts(); !slices.Equal(got, []string{"b"}) {
		t.Errorf("history on the other cluster: got %q, want b", got)
	}
	first.Start(0)
	first.Ready()
	other.Kill(0)
	n.await("a third epoch", func() bool { return n.newest().epoch != b.Epoch })
	c := n.publish("c")
	if got := n.upTo(c).texts(); !slices.Equal(got, []string{"a", "c"}) {
		t.Errorf("history on the first cluster again: got %q, want a and c", got)
	}
	if epochs := []string{a.Epoch, b.Epoch, c.Epoch}; c.Epoch == a.Epoch {
		t.Errorf("epochs: got %q, want three", epochs)
	}
}
