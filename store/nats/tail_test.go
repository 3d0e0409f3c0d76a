package natsstore

import (
	"context"
	"errors"
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

// TestStreamIsMadeAnew deletes the stream while events are published. Every acknowledged event is
// delivered at its position, and the new stream has a new epoch.
func TestStreamIsMadeAnew(t *testing.T) {
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
		t.Errorf("the new epoch %s begins with %d", last.epoch, last.oldest)
	}
	for p, text := range acknowledged {
		if p.Epoch == last.epoch && last.at(p.Seq) != text {
			t.Errorf("%s was acknowledged as %v, where %s was delivered", text, p, last.at(p.Seq))
		}
	}
}

// TestStreamLosesEvents restores an old state of the server's files. Positions then stand for other
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
				t.Errorf("delivered %q", got)
			}
		})
	}
}

// TestNodesAgreeOnALife: all nodes notice at the same time that the stream has lost events, and end with
// the same epoch.
func TestNodesAgreeOnALife(t *testing.T) {
	t.Parallel()
	servers := natstest.Start(t, 1)
	name := newStream()
	startNode(t, name, 1, someOptions, servers.URLs()...).publish("a")
	var tails []*tail
	for range 8 {
		s := openStore(t, name, 1, servers.URLs()...)
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
		s.Retain(someOptions, 0)
		found, err := s.find(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		tails = append(tails, &tail{store: s, found: &stream{Stream: found}})
	}
	epochs := make([]string, len(tails))
	var noticing sync.WaitGroup
	for i, tl := range tails {
		noticing.Go(func() {
			if err := tl.replaceEpoch(t.Context()); !errors.Is(err, errOtherEpoch) {
				t.Error(err)
			}
			found, err := tl.find(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			epochs[i] = epochOf(found.CachedInfo().Config, found.CachedInfo().Created)
		})
	}
	noticing.Wait()
	if slices.Sort(epochs); epochs[0] != epochs[len(epochs)-1] {
		t.Errorf("the nodes go on in the epochs %q", epochs)
	}
}

// TestPublishingWhilePositionsAreUsedAgain restores an old state of the server's files while events are
// published. Every event that is acknowledged after that is delivered at the answered position and epoch.
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
			t.Errorf("%s was acknowledged as %v, and the epoch is %s", text, p, last.epoch)
		}
	}
}

// TestPositionsAreUsedAgainUnnoticed: the tail is busy, so a publish is the first to find a position that
// is used again: by a new event, or by the duplicate of an event that another node stored meanwhile.
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
			servers.Eventually("nobody notices", func(context.Context) bool {
				n.store.mu.Lock()
				defer n.store.mu.Unlock()
				return n.distrusted
			})
			close(release)
			appending.Wait()
			for i, s := range stored {
				l := n.upTo(s.Position)
				if s.Duplicate != strings.HasPrefix(kind, "duplicate") {
					t.Errorf("%s was answered as a duplicate: %v", events[i].Data, s.Duplicate)
				}
				if got := l.at(s.Position.Seq); s.Position.Epoch == lost.Epoch || got != string(events[i].Data) {
					t.Errorf("%s was answered with %v, where %s is; the epoch was %s", events[i].Data, s.Position, got, lost.Epoch)
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
	if l.epoch != before.Epoch || len(n.lives) != 1 {
		t.Errorf("the history began %d times, its epoch is %s, and was %s", len(n.lives), l.epoch, before.Epoch)
	}
	kept := uint64((few.MaxBytes + moreBytes) / size)
	if next := l.records[5].Seq; next < last.Seq-kept || next > last.Seq-kept+kept/20 {
		t.Errorf("after 5 comes %d of %d, want the last %d at most", next, last.Seq, kept)
	}
}

// TestMessagesAreDeleted deletes messages in the middle and at the end. A node that starts skips them at
// once. A node that has them is not affected.
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
	if !slices.Equal(got.texts(), want) || len(other.lives) != 1 {
		t.Errorf("%d messages were delivered in %d lives, want %d: %q", len(got.records), len(other.lives), len(want), got.texts())
	}
	info, err := found.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("with %d of %d deleted it started in %v; there are %d consumers", n-len(want), n, took, info.State.Consumers)
	if info.State.Consumers > 2 {
		t.Errorf("two nodes have %d consumers", info.State.Consumers)
	}

	// A message that a lagging server skips is not deleted.
	tl := &tail{store: had.store, last: mark{seq: 3*every - 1}, found: &stream{Stream: found}}
	if err := tl.checkNext(t.Context(), 3*every+1); err != nil {
		t.Errorf("a deleted message is missing: %v", err)
	}
	for last, next := range map[uint64]uint64{3*every - 2: 3*every + 1, 1: 700, 1000: 999, 10: 1 << 63} {
		tl.last.seq = last
		if err := tl.checkNext(t.Context(), next); !errors.Is(err, errSkipped) {
			t.Errorf("after %d may come %d, says %v", last, next, err)
		}
	}

	// Messages that are not delivered yet can be deleted too.
	last := other.publish(numbered("more ", 3)...)
	had.upTo(last)
	if l := other.upTo(last); l.records[len(l.records)-1].Seq != n+3 || len(other.lives)+len(had.lives) != 2 {
		t.Errorf("the histories end with %d and began %d and %d times", l.head, len(other.lives), len(had.lives))
	}
}

// TestMessagesAreDeletedMeanwhile deletes the last messages that a node waits for. Its history is complete
// without them.
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
		t.Error("the history is whole, though two messages are missing")
	}
	if err := tl.setTarget(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !n.open {
		t.Error("the history is not whole, though there is nothing more")
	}
}

// TestForeignMessages: messages of others are records like all. The hub decides what they mean.
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
		if got := n.upTo(last).texts(); !slices.Equal(got, []string{"0", "1", "2", "none of ours", "", "3"}) || len(n.lives) != 1 {
			t.Errorf("delivered %q in %d lives", got, len(n.lives))
		}
	}
}

// TestNewLifeReachesAllNodes: also the nodes that notice no lost event themselves.
func TestNewLifeReachesAllNodes(t *testing.T) {
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
		epochs = append(epochs, n.lives[1].epoch)
	}
	if epochs[0] != epochs[1] {
		t.Errorf("two nodes are in the epochs %v", epochs)
	}
}

// TestLifeIsPutBack: two nodes changed the stream at the same time, and one restored the epoch that the
// other had replaced. That epoch stays ended.
func TestLifeIsPutBack(t *testing.T) {
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
	n.await("a new epoch", func() bool { return len(n.lives) == 2 && len(n.newest().records) == 1 })
	if _, err := js.UpdateStream(t.Context(), before); err != nil {
		t.Fatal(err)
	}
	n.await("a third epoch", func() bool { return len(n.lives) == 3 && len(n.newest().records) == 1 })
	if epochs := []string{n.lives[0].epoch, n.lives[1].epoch, n.lives[2].epoch}; epochs[2] == epochs[0] || epochs[2] == epochs[1] {
		t.Errorf("the epochs are %q", epochs)
	}
}

func TestEpochIsTheStreams(t *testing.T) {
	made := time.Now()
	c := jetstream.StreamConfig{Name: "S"}
	epoch := epochOf(c, made)
	if len(epoch) != 8 || epoch != epochOf(c, made.UTC()) {
		t.Errorf("epoch %q, and in another zone %q", epoch, epochOf(c, made.UTC()))
	}
	if epoch == epochOf(c, made.Add(1)) || epoch == epochOf(jetstream.StreamConfig{Name: "T"}, made) {
		t.Error("two streams have one epoch")
	}
}

// TestClockIsSet: the time of a record is by the clock of this node. This clock and that of the server can
// be set at any time.
func TestClockIsSet(t *testing.T) {
	t.Parallel()
	servers := natstest.Start(t, 1)
	n := startNode(t, newStream(), 1, someOptions, servers.URLs()...)
	for _, wrong := range []time.Duration{48 * time.Hour, -48 * time.Hour} {
		n.setSkew(wrong)
		if at := n.ourTime(time.Now()); at.After(time.Now()) {
			t.Errorf("something was stored at %v, which is to come", at)
		}
		servers.Eventually("the clock is not looked at", func(context.Context) bool {
			began := time.Now()
			p := n.publish("a")
			l := n.upTo(p)
			at := l.records[len(l.records)-1].At
			return at.Sub(began).Abs() < time.Second
		})
	}
}
