package e2e_test

import (
	"math/rand/v2"
	"time"

	"github.com/ea766355/caddy-sse/e2e"
	"github.com/ea766355/caddy-sse/store/nats/natstest"
)

// storm causes faults for a while: each kind once, and then random ones.
func (w *world) storm() {
	random := random(1)
	type fault struct {
		name string
		do   func(*rand.Rand)
	}
	faults := []fault{
		{"kill -9 of the NATS server that leads the stream", w.killLeader},
		{"kill -9 of a node", w.killNode},
		{"SIGTERM to a node", w.terminateNode},
		{"a node cut off from NATS", func(r *rand.Rand) { w.part(r, (*natstest.Proxy).Cut) }},
		{"a node that NATS hears and does not answer", func(r *rand.Rand) { w.part(r, (*natstest.Proxy).Mute) }},
		{"a reload that connects again", w.reload},
		{"all nodes started at once", w.startTogether},
		{"a disconnect", func(r *rand.Rand) { w.disconnect(r, 0) }},
		{"a disconnect while a node was away", func(r *rand.Rand) { w.disconnect(r, min(longAway, *duration/4)) }},
		{"a change of topics", func(r *rand.Rand) { w.changeTopics(r, 0) }},
		{"a change of topics while a node was away", func(r *rand.Rand) { w.changeTopics(r, 2*time.Second) }},
		{"a stream with another subject", w.editSubject},
		{"a stream with lower limits", w.lowerLimits},
		{"messages deleted in the middle", w.deleteMessages},
		{"a foreign message", w.publishForeign},
		{"servers put back to an earlier state", w.restore},
	}
	w.publishOne(e2e.Everybody) // creates the stream and its epoch
	order := random.Perm(len(faults))
	for end := time.Now().Add(*duration); time.Now().Before(end) && w.hasNoViolation(); {
		if len(order) == 0 {
			order = append(order, random.IntN(len(faults)))
		}
		f := faults[order[0]]
		order = order[1:]
		f.do(random)
		w.faults[f.name]++
		// The next fault follows at once or after a while.
		pause(random, 3*time.Second)
	}
}

// longAway is how long a node is cut off during a disconnect: longer than the others remember it.
const longAway = 65 * time.Second

func pause(random *rand.Rand, most time.Duration) {
	<-time.After(time.Duration(random.Int64N(int64(most))))
}

func (w *world) node(random *rand.Rand) *node { return w.nodes[random.IntN(size)] }

// killLeader kills the leader. All servers must have caught up before, so that a majority with all
// messages remains.
func (w *world) killLeader(random *rand.Rand) {
	w.servers.AwaitReplicas(streamName)
	leader := w.servers.AwaitLeader(streamName)
	w.servers.Kill(leader)
	pause(random, 3*time.Second)
	w.servers.Start(leader)
}

func (w *world) killNode(random *rand.Rand) {
	n := w.node(random)
	n.Kill()
	pause(random, time.Second)
	n.Run()
}

func (w *world) terminateNode(random *rand.Rand) {
	n := w.node(random)
	n.Terminate(e2e.Patience)
	pause(random, time.Second)
	n.Run()
}

// part cuts a node off from NATS, and lets other faults happen meanwhile.
func (w *world) part(random *rand.Rand, from func(*natstest.Proxy)) {
	n := w.node(random)
	for _, p := range n.nats {
		from(p)
	}
	mended := time.After(time.Duration(random.Int64N(int64(10 * time.Second))))
	w.mending.Go(func() {
		<-mended
		for _, p := range n.nats {
			p.Mend()
		}
	})
}

func (w *world) reload(random *rand.Rand) {
	n := w.node(random)
	if err := n.Reload(n.config(random)); err != nil {
		w.t.Error(err)
	}
}

func (w *world) startTogether(*rand.Rand) {
	for _, n := range w.nodes {
		n.Kill()
	}
	for _, n := range w.nodes {
		n.Launch()
	}
	for _, n := range w.nodes {
		n.Await()
	}
}

// hasNoViolation reports whether no client has found a broken promise so far. Otherwise the test
// ends early.
func (w *world) hasNoViolation() bool {
	for _, f := range w.followers {
		if f.Err() != nil {
			return false
		}
	}
	return true
}
