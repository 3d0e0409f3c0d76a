package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/ea766355/caddy-sse/e2e"
)

// Actions of operators on the stream itself.

// onStream repeats an action on the stream until it succeeds, because the stream may have no
// leader for a while.
func (w *world) onStream(what string, do func(context.Context, jetstream.JetStream, jetstream.Stream) error) {
	js, done := w.servers.JetStream()
	defer done()
	var last error
	w.servers.Eventually(what+" does not succeed", func(ctx context.Context) bool {
		found, err := js.Stream(ctx, streamName)
		if err == nil {
			err = do(ctx, js, found)
		}
		if err != nil && (last == nil || err.Error() != last.Error()) {
			w.t.Logf("%s: %v; trying again", what, err)
			last = err
		}
		return err == nil
	})
}

func (w *world) edit(change func(*jetstream.StreamConfig)) {
	w.onStream("editing the stream", func(ctx context.Context, js jetstream.JetStream, found jetstream.Stream) error {
		c := found.CachedInfo().Config
		change(&c)
		_, err := js.UpdateStream(ctx, c)
		return err
	})
}

func (w *world) editSubject(random *rand.Rand) {
	w.edit(func(c *jetstream.StreamConfig) { c.Subjects = []string{fmt.Sprint("edited.", random.Uint64())} })
}

// lowerLimits drops the older half of the stream, and returns when the nodes have raised the limits again.
// All nodes must already have the dropped events.
func (w *world) lowerLimits(*rand.Rand) {
	const least = 1000
	w.mending.Wait()
	w.awaitHistory()
	began := time.Now()
	w.onStream("lowering the limits", func(ctx context.Context, js jetstream.JetStream, found jetstream.Stream) error {
		c := found.CachedInfo().Config
		c.MaxMsgs = max(least, int64(found.CachedInfo().State.Msgs/2))
		c.MaxAge = time.Hour
		c.AllowAtomicPublish = false
		c.Replicas = 1
		_, err := js.UpdateStream(ctx, c)
		return err
	})
	var oldest uint64
	w.onStream("raising the limits", func(_ context.Context, _ jetstream.JetStream, found jetstream.Stream) error {
		c := found.CachedInfo().Config
		oldest = found.CachedInfo().State.FirstSeq
		if c.MaxMsgs > 0 || c.MaxAge <= time.Hour || !c.AllowAtomicPublish || c.Replicas != size {
			return errors.New("they are not raised yet")
		}
		return nil
	})
	w.ledger.AddHole(e2e.Hole{Position: e2e.Position{Epoch: w.epoch(), Seq: oldest - 1}, At: began})
	w.servers.AwaitReplicas(streamName)
}

// awaitHistory waits until all nodes have the whole stream, in the epoch of the last acknowledged event.
func (w *world) awaitHistory() {
	for _, n := range w.nodes {
		e2e.Wait(w.t, 4*e2e.Patience, "a node to have the whole history", func() error {
			epoch, err := n.epoch()
			if want := w.epoch(); err == nil && epoch != want {
				err = fmt.Errorf("it has the epoch %s, and not %s", epoch, want)
			}
			return err
		})
	}
}

// awaitAgreement waits until all nodes have the whole stream, in the same epoch, and returns the epoch.
func (w *world) awaitAgreement() (epoch string) {
	e2e.Wait(w.t, 4*e2e.Patience, "the nodes to agree on an epoch", func() error {
		var epochs []string
		for _, n := range w.nodes {
			has, err := n.epoch()
			if err != nil {
				return err
			}
			epochs = append(epochs, has)
		}
		if epoch = epochs[0]; len(slices.Compact(epochs)) > 1 {
			return fmt.Errorf("the epochs are %s", epochs)
		}
		return nil
	})
	return epoch
}

// epoch returns the epoch of the node's history. It returns an error if the node is behind.
func (n *node) epoch() (string, error) {
	resp, err := http.Get("http://" + n.addr() + "/sse/status")
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	if !strings.Contains(string(body), `"connected":true,"lag":0`) {
		return "", errors.New(string(body))
	}
	_, head, _ := strings.Cut(string(body), `"head":"`)
	epoch, _, _ := strings.Cut(head, "-")
	return epoch, nil
}

// epoch returns the epoch of the last acknowledged event.
func (w *world) epoch() string {
	entries := w.ledger.Entries()
	return entries[len(entries)-1].Position.Epoch
}

// deleteMessages deletes messages that are not for any client.
func (w *world) deleteMessages(random *rand.Rand) {
	decoy := e2e.To("user", fmt.Sprint("nobody ", random.Uint64()))
	for range 2 + random.IntN(5) {
		w.publishOne(decoy)
	}
	for _, e := range w.ledger.Entries() {
		if !e.To.Matches(e2e.Identity{User: decoy.Names[0]}) || e.To.Field != "user" {
			continue
		}
		w.ledger.AddHole(e2e.Hole{Position: e.Position, At: time.Now()})
		w.onStream("deleting a message", func(ctx context.Context, _ jetstream.JetStream, found jetstream.Stream) error {
			err := found.DeleteMsg(ctx, e.Position.Seq)
			if _, gone := found.GetMsg(ctx, e.Position.Seq); err != nil && gone != nil {
				return nil
			}
			return err
		})
	}
}

// publishForeign stores a message that is not an event of a hub.
func (w *world) publishForeign(random *rand.Rand) {
	began, id := time.Now(), fmt.Sprint("foreign ", random.Uint64())
	var seq uint64
	w.onStream("publishing a foreign message", func(ctx context.Context, js jetstream.JetStream, found jetstream.Stream) error {
		ack, err := js.Publish(ctx, found.CachedInfo().Config.Subjects[0], []byte("hello"), jetstream.WithMsgID(id))
		if err == nil {
			seq = ack.Sequence
		}
		return err
	})
	w.foreign++
	w.ledger.AddHole(e2e.Hole{Position: e2e.Position{Epoch: w.epoch(), Seq: seq}, At: began})
}

// restore restores all servers to their state of some seconds ago. Events of these seconds are
// lost, so a new epoch starts, in which the older events keep their seq. No publish may be in
// flight while the files are copied: a repeated publish of a lost event could not be recognized by
// its key.
func (w *world) restore(random *rand.Rand) {
	w.mending.Wait()
	w.quiet.Lock()
	before := w.epoch()
	w.servers.AwaitReplicas(streamName)
	var kept uint64
	w.onStream("looking at the stream", func(_ context.Context, _ jetstream.JetStream, found jetstream.Stream) error {
		kept = found.CachedInfo().State.LastSeq
		return nil
	})
	restore := w.servers.Snapshot()
	w.quiet.Unlock()
	w.publishOne(e2e.Everybody)
	pause(random, 5*time.Second)

	w.quiet.Lock()
	defer w.quiet.Unlock()
	restore()
	w.publishOne(e2e.Everybody)
	// On a busy machine a node may replace the epoch that another node has just set. Then no
	// acknowledged event has the last epoch yet, and the events of the one between have it too.
	after, between := w.awaitAgreement(), w.epoch()
	if after != between {
		w.publishOne(e2e.Everybody)
		w.awaitHistory()
	}
	if after == before {
		w.t.Errorf("epoch after the restore: got %s again, want another one", before)
	}
	w.restored++
	for _, e := range w.ledger.Entries() {
		if p := &e.Position; p.Epoch == before && p.Seq <= kept || p.Epoch == between && between != before && between != after {
			p.Epoch = after
			w.ledger.Add(e)
		}
	}
	for _, h := range w.ledger.Holes() {
		if p := &h.Position; p.Epoch == before && p.Seq <= kept {
			p.Epoch = after
			w.ledger.AddHole(h)
		}
	}
}

// publishOne publishes an event and waits until it is acknowledged.
func (w *world) publishOne(to e2e.Target) {
	p := e2e.RoamingPublisher(w.ledger, w.addrs()...)
	defer p.Close()
	within, done := context.WithTimeout(context.Background(), keyLimit)
	defer done()
	if err := p.Publish(within, e2e.Event{To: to, Size: 100}); err != nil {
		w.t.Errorf("publishing: %v", err)
	}
}
