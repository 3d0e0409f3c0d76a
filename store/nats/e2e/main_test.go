// Package e2e_test tries to lose events in a cluster. Three real nats-servers keep one stream, and
// three real Caddy nodes share it. Clients switch between the nodes with their last position.
// Publishers repeat each request on any node with the same key until it is acknowledged. Meanwhile
// servers and nodes are killed, restarted, reloaded, cut off from one another and restored to an
// earlier state, the stream is edited, users are disconnected, and the topics of users change. In
// the end every client must have received every acknowledged event for it, once and in order. No
// client may have received a gap without a reason. A disconnected user must not have received an
// event that was published after the answer. A user who lost a topic must not have received a
// later event of it.
//
// The printed seed reproduces the random choices. Their timing depends on the machine.
//
// This package is not in the main module with the other whole-system tests, because the main
// module must not depend on NATS.
package e2e_test

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ea766355/caddy-sse/e2e"
	"github.com/ea766355/caddy-sse/store/nats/natstest"
)

var (
	duration = flag.Duration("duration", time.Minute, "the time during which faults happen")
	clients  = flag.Int("clients", 300, "how many clients there are")
	rate     = flag.Int("rate", 50, "publish requests a second")
	seed     = flag.Uint64("seed", 0, "the seed of all random choices; 0: the time")
	results  = flag.String("results", "", "a file for the totals")
)

func TestMain(m *testing.M) {
	code := e2e.Run(m, "github.com/ea766355/caddy-sse/store/nats/cmd/caddy")
	natstest.Clean()
	os.Exit(code)
}

// size is the number of NATS servers, and of nodes.
const size = 3

// streamName is the stream of the default hub.
const streamName = "SSE_default"

// world is the cluster and everything around it. Only the goroutine of the test uses it, except for the
// fields below mu.
type world struct {
	t         testing.TB
	servers   *natstest.Servers
	nodes     []*node
	ledger    *e2e.Ledger
	followers []*e2e.Follower
	faults    map[string]int
	guests    []*guest
	members   []*member
	commands  int // requests to disconnect, or to change topics
	foreign   int // messages in the stream that no hub published
	restored  int // number of restores
	mending   sync.WaitGroup

	quiet sync.RWMutex // read-locked by each request to publish

	publishing sync.WaitGroup
	mu         sync.Mutex
	again      int64         // repeated requests
	longest    time.Duration // longest time until an acknowledgment
}

// node is one Caddy and its network connections, which can be cut.
type node struct {
	*e2e.Server
	nats    []*natstest.Proxy // to the NATS servers
	clients *e2e.Proxy        // the bad network of some clients
}

// TestClusterLosesNothing checks that no event is lost, the sum of promises 1, 2, 3, 6 and 7 in a cluster.
func TestClusterLosesNothing(t *testing.T) {
	*seed = cmp.Or(*seed, uint64(time.Now().UnixNano()))
	t.Logf("seed %d", *seed)
	w := &world{t: t, ledger: new(e2e.Ledger), faults: make(map[string]int)}
	w.start()
	began := time.Now()
	w.follow()
	w.publish()
	w.storm()
	w.settle()
	v := w.judge()
	w.report(v, time.Since(began))
	if v.deliveries == 0 {
		t.Error("deliveries: got 0, want some")
	}
	if t.Failed() {
		t.Logf("seed %d", *seed)
		for i, n := range w.nodes {
			t.Logf("the end of node %d's log:\n%s", i+1, n.Tail())
		}
	}
}

// random returns a separate random source for each use.
func random(use uint64) *rand.Rand { return rand.New(rand.NewPCG(*seed, use)) }

// start starts the servers and the nodes.
func (w *world) start() {
	w.servers = natstest.Start(w.t, size)
	for i := range size {
		n := new(node)
		for _, url := range w.servers.URLs() {
			n.nats = append(n.nats, natstest.NewProxy(w.t, url))
		}
		n.Server = e2e.Start(w.t, n.config(random(uint64(i))))
		n.clients = e2e.NewProxy(w.t, n.addr(), *seed+uint64(i), e2e.Faults{CutAfter: 100_000, Stall: time.Second, Piece: 200})
		w.nodes = append(w.nodes, n)
	}
}

// config returns a config under which no event may be lost. Each has another order of servers, so that a
// reload makes the node connect again.
func (n *node) config(random *rand.Rand) e2e.Config {
	var urls []string
	for _, i := range random.Perm(size) {
		urls = append(urls, n.nats[i].URL())
	}
	return e2e.Config{
		Hub: fmt.Sprintf("history 10000000\n history_size 1GiB\n store nats {\n url %s\n replicas %d\n }", strings.Join(urls, " "), size),
		Stream: "retry 20ms 200ms\n max_lifetime 10s\n heartbeat " + []string{"300ms", "15s"}[random.IntN(2)] +
			"\n takeover " + []string{"on", "off"}[random.IntN(2)],
		Routes: "sse_api /sse/*",
	}
}

// addr is the address for clients and publishers.
func (n *node) addr() string { return fmt.Sprintf("127.0.0.1:%d", n.HTTP) }

func (w *world) addrs() (addrs []string) {
	for _, n := range w.nodes {
		addrs = append(addrs, n.addr())
	}
	return addrs
}

// follow starts all clients. Each switches nodes when its stream ends: by its lifetime, by a
// fault, or cut off at any byte.
func (w *world) follow() {
	addrs := w.addrs()
	for _, n := range w.nodes {
		addrs = append(addrs, n.clients.Addr)
	}
	c := e2e.Roaming(addrs...)
	c.Backoff = 200 * time.Millisecond
	for i := range *clients {
		id := e2e.Identity{User: user(i), Session: session(i)}
		if i%3 == 0 {
			id.Topics = []string{topics[i%len(topics)]}
		}
		w.followers = append(w.followers, e2e.Follow(w.t, c, id))
	}
	e2e.AwaitOpen(w.t, w.followers)
}

// The identities of clients and the targets of events.
const users, sessions = 30, 10

var topics = []string{"news/a", "news/b", "sport/a", "sport/b"}

func user(i int) string    { return fmt.Sprintf("user %d", i%users) }
func session(i int) string { return fmt.Sprintf("session %d", i%sessions) }

// request returns the events of one request: one event, or now and then a batch.
func request(random *rand.Rand) []e2e.Event {
	events := make([]e2e.Event, 1+random.IntN(8)/7*random.IntN(20))
	everybody := random.IntN(4) == 0
	for i := range events {
		events[i].Size = random.IntN(300)
		switch n := random.IntN(6); {
		case everybody:
		case n < 3:
			events[i].To = e2e.To("user", user(random.IntN(users)), user(random.IntN(users)))
		case n < 4:
			events[i].To = e2e.To("session", session(random.IntN(sessions)))
		default:
			events[i].To = e2e.To("topic", topics[random.IntN(len(topics))])
		}
	}
	return events
}

// keyLimit is the most time until an event is acknowledged: the servers must not forget its key before.
const keyLimit = 100 * time.Second

// publish starts the publishers, which stop when the faults stop.
func (w *world) publish() {
	const publishers = 25
	ctx, stop := context.WithTimeout(context.Background(), *duration)
	w.t.Cleanup(stop)
	for i := range publishers {
		random := random(uint64(1000 + i))
		p := e2e.RoamingPublisher(w.ledger, w.addrs()...)
		w.publishing.Go(func() {
			defer p.Close()
			tick := time.NewTicker(publishers * time.Second / time.Duration(*rate))
			defer tick.Stop()
			var longest time.Duration
			for ctx.Err() == nil {
				// A request that was sent is acknowledged, also after the end.
				began := time.Now()
				within, done := context.WithTimeout(context.Background(), keyLimit)
				w.quiet.RLock()
				if err := p.Publish(within, request(random)...); err != nil {
					w.t.Errorf("publishing: %v", err)
				}
				w.quiet.RUnlock()
				done()
				longest = max(longest, time.Since(began))
				select {
				case <-ctx.Done():
				case <-tick.C:
				}
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			w.again += p.Retried.Load()
			w.longest = max(w.longest, longest)
		})
	}
}

// settle ends the faults, and gives all clients time to receive the remaining events.
func (w *world) settle() {
	w.publishing.Wait()
	w.mending.Wait()
	for _, n := range w.nodes {
		n.clients.Calm()
	}
	late := time.Now().Add(6 * e2e.Patience)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for time.Now().Before(late) && !w.allCaughtUp() {
		<-tick.C
	}
	for _, f := range w.followers {
		f.Stop()
	}
}

// allCaughtUp reports whether all clients have received their last event.
func (w *world) allCaughtUp() bool {
	for _, f := range w.followers {
		if last := f.Last(); f.Err() == nil && len(w.ledger.Expected(f.Identity, last.Epoch, last.Seq)) > 0 {
			return false
		}
	}
	return true
}
