package e2e_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/ea766355/caddy-sse/e2e"
)

// member is a user with a stream on each node. One topic is added, and then one is removed. Streams that
// end are not opened again.
type member struct {
	*e2e.Member
	answered time.Time // when the removal was answered
	away     *node     // cut off from NATS during the removal; nil: none
	reading  sync.WaitGroup
	nodes    []*node // of its streams
}

// addedTopic and removedTopic are the changes of each member.
const addedTopic, removedTopic = "sport/b", "news/a"

// changeTopics changes the topics of a member on all nodes. One of them may be cut off from NATS meanwhile.
// It must apply the change before it delivers later events.
func (w *world) changeTopics(random *rand.Rand, away time.Duration) {
	m := &member{Member: e2e.NewMember(fmt.Sprintf("member %d", len(w.members)), removedTopic)}
	w.members = append(w.members, m)
	ctx, leave := context.WithCancel(context.Background())
	w.t.Cleanup(leave)
	for _, n := range w.nodes {
		// A node that is starting has no streams.
		if v, err := m.Open(ctx, e2e.Roaming(n.addr()), e2e.Position{}); err == nil {
			m.nodes = append(m.nodes, n)
			m.reading.Go(func() { _, _ = v.Read() }) // the followers find violations, too
		}
	}
	w.change(m, w.addrs(), e2e.TopicChange{Added: []string{addedTopic}})
	pause(random, time.Second)
	cut := w.nodes[random.IntN(size)]
	var others []string
	for _, n := range w.nodes {
		if away == 0 || n != cut {
			others = append(others, n.addr())
		}
	}
	if away > 0 {
		m.away = cut
		for _, p := range cut.nats {
			p.Cut()
		}
	}
	onCutOff := time.After(away)
	w.change(m, others, e2e.TopicChange{Removed: []string{removedTopic}})
	m.answered = time.Now()
	w.mending.Go(func() {
		<-onCutOff
		if away > 0 {
			for _, p := range cut.nats {
				p.Mend()
			}
		}
		// The node has enough time to catch up, and to deliver forbidden events if it has a fault.
		// Streams end soon by their lifetime.
		<-time.After(6 * time.Second)
		leave()
		m.reading.Wait()
	})
}

// change changes the member's topics through one of the nodes, and repeats the request until it is
// answered. It returns the position of the change.
func (w *world) change(m *member, nodes []string, change e2e.TopicChange) e2e.Position {
	ctx, cancel := context.WithTimeout(context.Background(), 3*e2e.Patience)
	defer cancel()
	client := &http.Client{Timeout: e2e.Patience, Transport: &http.Transport{DisableKeepAlives: true}}
	at, failed, err := m.Change(ctx, change, w.lastOfEpoch(), "default", client,
		func() string { return "http://" + nodes[rand.IntN(len(nodes))] })
	w.commands += failed + 1
	if err != nil {
		w.t.Fatal(err)
	}
	return at
}

// lastOfEpoch returns the highest acknowledged position of the current epoch.
func (w *world) lastOfEpoch() (last e2e.Position) {
	epoch := w.epoch()
	for _, e := range w.ledger.Entries() {
		if p := e.Position; p.Epoch == epoch && p.Seq > last.Seq {
			last = p
		}
	}
	return last
}

// judgeMembers counts events that members received without the right to them, and events that they did not
// receive despite the right.
func (w *world) judgeMembers(entries []e2e.Entry, v *verdict) {
	var r e2e.Rights
	reported, onCutOff := 0, 0
	var slowest time.Duration // of members without a node that was cut off
	for _, m := range w.members {
		m.Judge(entries, &r)
		for i, visit := range m.Streams() {
			if at := visit.Reported(); len(at) == 2 {
				reported++
				if m.nodes[i] == m.away {
					onCutOff++
				} else {
					slowest = max(slowest, at[1].Sub(m.answered))
				}
			}
		}
	}
	for _, finding := range r.Findings {
		w.t.Error(finding)
	}
	v.unlawful, v.withheld, v.other = v.unlawful+r.Unlawful, v.withheld+r.Withheld, v.other+r.Misreported
	w.t.Logf("%d members; %d of their streams are judged, and %d reported both changes, at most %s after the answer, "+
		"except the %d on a node that was cut off", len(w.members), r.Streams, reported, slowest, onCutOff)
	w.faults["streams that were told two changes of topics"] = reported
	w.faults["of these on a node that had been away"] = onCutOff
	if len(w.members) > 0 && reported == 0 {
		w.t.Error("streams that reported both changes: got 0, want some")
	}
}
