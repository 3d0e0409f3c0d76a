package natsstore

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/ea766355/caddy-sse/hub"
	"github.com/ea766355/caddy-sse/store/nats/natstest"
)

// TestStreamIsMadeAnew deletes the stream while events are published: whatever is
// acknowledged is delivered at its position, and the new stream is a new epoch.
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
				stored, err := n.Append(t.Context(), []hub.Event{event(text, text)})
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
		if p.Epoch == last.epoch && string(last.records[p.Seq-1].Event.Data) != text {
			t.Errorf("%s was acknowledged as %v, where %s was delivered", text, p, last.records[p.Seq-1].Event.Data)
		}
	}
}

// TestStreamLosesEvents restores an old state of the server's files. Positions
// that were in use mean other events then, so they are another epoch.
func TestStreamLosesEvents(t *testing.T) {
	t.Parallel()
	for name, more := range map[string]int{"and is idle": 0, "and has others in their place": 30} {
		t.Run(name, func(t *testing.T) {
			servers := natstest.Start(t, 1)
			n := startNode(t, newStream(), 1, someOptions, servers.URLs()...)
			n.upTo(n.publish(numbered("kept ", 5)...))
			restore := backUp(t, servers, 0)
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

// backUp returns what puts a server's files back to what they are now. The server
// is started again, also by that.
func backUp(t *testing.T, servers *natstest.Servers, i int) (restore func()) {
	t.Helper()
	backup := filepath.Join(t.TempDir(), "backup")
	servers.Kill(i)
	if err := os.CopyFS(backup, os.DirFS(servers.Files(i))); err != nil {
		t.Fatal(err)
	}
	servers.Start(i)
	return func() {
		servers.Kill(i)
		if err := errors.Join(os.RemoveAll(servers.Files(i)), os.CopyFS(servers.Files(i), os.DirFS(backup))); err != nil {
			t.Fatal(err)
		}
		servers.Start(i)
	}
}

// TestPublishingWhilePositionsAreUsedAgain restores an old state of the server's
// files while events are published. Whatever is acknowledged from then on is
// delivered at the position that was answered, in its epoch.
func TestPublishingWhilePositionsAreUsedAgain(t *testing.T) {
	t.Parallel()
	servers := natstest.Start(t, 1)
	n := startNode(t, newStream(), 1, someOptions, servers.URLs()...)
	n.upTo(n.publish(numbered("kept ", 5)...))
	restore := backUp(t, servers, 0)
	lost := n.publish(numbered("lost ", 20)...)
	n.upTo(lost)

	restore()
	var publishers sync.WaitGroup
	var mu sync.Mutex
	acknowledged := make(map[string]hub.Position)
	for p := range 8 {
		publishers.Go(func() {
			var batch []hub.Event
			for i := range 1 + 2*(p%2) {
				text := strconv.Itoa(p) + "." + strconv.Itoa(i)
				batch = append(batch, event(text, text))
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
		if p.Epoch != last.epoch || string(last.records[p.Seq-last.oldest].Event.Data) != text {
			t.Errorf("%s was acknowledged as %v, and the epoch is %s", text, p, last.epoch)
		}
	}
}

// TestPositionsAreUsedAgainUnnoticed: the tail is busy, so that publishing is the
// first to meet a position that was used before, by a new event or by the
// duplicate of one that another node has stored meanwhile.
func TestPositionsAreUsedAgainUnnoticed(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"new", "batch", "duplicate", "duplicates"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			servers := natstest.Start(t, 1)
			n := startNode(t, newStream(), 1, someOptions, servers.URLs()...)
			n.upTo(n.publish(numbered("kept ", 5)...))
			restore := backUp(t, servers, 0)
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
			events := []hub.Event{event("a", "a")}
			if kind == "batch" || kind == "duplicates" {
				events = append(events, event("b", "b"))
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
				return n.doubted
			})
			close(release)
			appending.Wait()
			for i, s := range stored {
				l := n.upTo(s.Position)
				if s.Duplicate != strings.HasPrefix(kind, "duplicate") {
					t.Errorf("%s was answered as a duplicate: %v", events[i].Data, s.Duplicate)
				}
				if got := string(l.records[s.Position.Seq-l.oldest].Event.Data); s.Position.Epoch == lost.Epoch || got != string(events[i].Data) {
					t.Errorf("%s was answered with %v, where %s is; the epoch was %s", events[i].Data, s.Position, got, lost.Epoch)
				}
			}
		})
	}
}

// TestNodeIsCutOffForTooLong: what it had no chance to receive is a gap.
func TestNodeIsCutOffForTooLong(t *testing.T) {
	servers := natstest.Start(t, 1)
	few := someOptions
	few.MaxEvents = 10
	stream := newStream()
	proxy := natstest.NewProxy(t, servers.URLs()[0])
	other := startNode(t, stream, 1, few, servers.URLs()...)
	n := startNode(t, stream, 1, few, proxy.URL())
	before := other.publish(numbered("before ", 5)...)
	n.upTo(before)
	proxy.Cut()
	n.await("the loss of NATS", func() bool { return !n.connected })
	batch := make([]hub.Event, 1000)
	for range 3 {
		for i := range batch {
			batch[i] = event("meanwhile", "")
		}
		if _, err := other.Append(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
	}
	proxy.Mend()
	last := n.upTo(other.publish("after"))
	if want := uint64(5 + 3000 - few.MaxEvents - moreEvents + 1); last.epoch != before.Epoch || last.oldest < want || last.oldest > want+1 {
		t.Errorf("the history goes on from %d, epoch %s; want %d, %s", last.oldest, last.epoch, want, before.Epoch)
	}
	if len(n.lives) != 2 {
		t.Errorf("the history began %d times, want 2", len(n.lives))
	}
}

// TestWhatIsNoEvent: a message that was deleted, or is none of ours, is not
// skipped in silence.
func TestWhatIsNoEvent(t *testing.T) {
	servers := natstest.Start(t, 1)
	js, done := servers.JetStream()
	defer done()
	n := startNode(t, newStream(), 1, someOptions, servers.URLs()...)
	n.upTo(n.publish(numbered("", 10)...))
	found, err := js.Stream(t.Context(), n.config.stream)
	if err != nil {
		t.Fatal(err)
	}
	if err := found.DeleteMsg(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	other := startNode(t, n.config.stream, 1, someOptions, servers.URLs()...)
	if got := other.upTo(other.publish("10")); got.oldest != 4 || len(got.records) != 8 || len(other.lives) != 2 {
		t.Errorf("after a hole, %d events from %d on were delivered in life %d", len(got.records), got.oldest, len(other.lives))
	}
	if _, err := js.Publish(t.Context(), found.CachedInfo().Config.Subjects[0], []byte("none of ours")); err != nil {
		t.Fatal(err)
	}
	if got := n.upTo(n.publish("12")); got.oldest != 13 || len(n.lives) != 2 {
		t.Errorf("after what is no event, the history begins with %d in life %d", got.oldest, len(n.lives))
	}
}

// TestNewLifeReachesAllNodes: also those that notice nothing by themselves.
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

// TestClocksDiffer: an event's age is told by our clock, whatever the clocks of
// the node that accepted it and of the server say.
func TestClocksDiffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		for name, c := range map[string]struct {
			publisher, server time.Duration // ahead of ours
			ago, waited       time.Duration // it was accepted, and stored
			want              time.Duration // ago
		}{
			"no clock is off":              {ago: time.Minute, waited: time.Second, want: time.Minute},
			"the server's is behind":       {server: -48 * time.Hour, ago: time.Minute, want: time.Minute},
			"the server's is ahead":        {server: 48 * time.Hour, ago: time.Minute, want: time.Minute},
			"the publisher's is behind":    {publisher: -48 * time.Hour, ago: time.Minute, want: time.Minute},
			"the publisher's is ahead":     {publisher: 48 * time.Hour, ago: time.Minute, want: time.Minute},
			"both are, by the same":        {publisher: 48 * time.Hour, server: 48 * time.Hour, ago: time.Hour, want: time.Hour},
			"the publisher's, just stored": {publisher: 48 * time.Hour, want: 0},
		} {
			accepted := now.Add(-c.ago)
			e := hub.Event{At: accepted.Add(c.publisher), Expires: accepted.Add(c.publisher + 10*time.Minute)}
			tl := tail{skew: -c.server}
			tl.setClock(&e, accepted.Add(c.waited+c.server))
			if got := now.Sub(e.At); got != c.want {
				t.Errorf("%s: the event is %v old, want %v", name, got, c.want)
			}
			if left := e.Expires.Sub(e.At); left != 10*time.Minute {
				t.Errorf("%s: it expires %v after it was accepted", name, left)
			}
		}
	})
}
