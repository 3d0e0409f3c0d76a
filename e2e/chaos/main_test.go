package chaos

import (
	"cmp"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/ea766355/caddy-sse/e2e"
)

var (
	duration = flag.Duration("duration", time.Minute, "the time during which faults happen")
	clients  = flag.Int("clients", 45, "how many clients there are")
	rate     = flag.Int("rate", 15, "publish requests a second")
	seed     = flag.Uint64("seed", 0, "the seed of all random choices; 0: the time")
	results  = flag.String("results", "", "a file for the totals")
)

func TestMain(m *testing.M) { e2e.MainWithClock(m) }

// hub is a hub under test.
type hub struct {
	name   string
	path   string
	bound  uint64 // events that it retains at least; 0: all
	share  int    // percentage of the clients
	load   int    // percentage of the events
	ledger *e2e.Ledger

	changes     *fileChanges // not nil: its file is changed
	publishers  []*e2e.Publisher
	disconnects []disconnect // requests to disconnect that were answered

	mu       sync.Mutex
	members  []*e2e.Member       // members whose topics change
	commands map[uint64]struct{} // seqs of answered changes of topics
	failed   int                 // unanswered requests for a change, which may have been stored
}

// world is the server and everything around it. The goroutine of the test owns the server. The
// fields below mu are shared.
type world struct {
	t      testing.TB
	server *e2e.Server
	others []*e2e.Server // with the same files
	hubs   []*hub

	admin   *e2e.Proxy // the bad network of some publishers
	proxies map[e2e.Protocol]*e2e.Proxy
	shared  map[string]*e2e.Client // by path: HTTP/2 connections with many streams

	faults   map[string]int
	launched []time.Time // start times of processes

	quiet      chan struct{} // closed when all clients must stay
	publishing sync.WaitGroup
	running    sync.WaitGroup

	mu          sync.Mutex
	connections []*e2e.Client
	traces      []*trace       // of clients that have left
	current     map[int]client // by index
	done        map[string]int // counts of what clients did
}

// TestChaos checks that no event is lost, the sum of promises 1, 2, 3, 6, 7 and 10.
func TestChaos(t *testing.T) {
	*seed = cmp.Or(*seed, uint64(time.Now().UnixNano()))
	t.Logf("seed %d", *seed)
	w := newWorld(t)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("seed %d; faults %v; the end of the server's log:\n%s", *seed, w.faults, w.server.Tail())
		}
	})
	began := time.Now()
	w.warmUp()
	base := w.reading()

	w.startClients()
	w.startMembers()
	w.publish()
	w.storm(*duration*5/6, true)
	w.storm(*duration/6, false)
	w.settle()

	verdict := w.judge()
	w.reportTo(verdict, time.Since(began))
	for _, finding := range verdict.findings {
		t.Error(finding)
	}
	if verdict.deliveries == 0 || verdict.rights.Reported == 0 || w.faults[kill] == 0 {
		t.Errorf("deliveries, changes of topics and kills: got %d, %d and %d, want some of each", verdict.deliveries, verdict.rights.Reported, w.faults[kill])
	}
	w.checkGrowth(base)
}

func newWorld(t testing.TB) *world {
	w := &world{
		t: t,
		hubs: []*hub{
			{name: "default", path: "/events", share: 40, load: 35},
			{name: "chat", path: "/chat", share: 25, load: 20},
			{name: "ticker", path: "/ticker", share: 20, load: 35, bound: tickerBound},
			{name: "files", path: "/files", share: 15, load: 10, changes: &fileChanges{file: "a.db"}},
		},
		proxies: make(map[e2e.Protocol]*e2e.Proxy),
		shared:  make(map[string]*e2e.Client),
		faults:  make(map[string]int),
		quiet:   make(chan struct{}),
		current: make(map[int]client),
		done:    make(map[string]int),
	}
	for _, h := range w.hubs {
		h.ledger, h.commands = new(e2e.Ledger), make(map[uint64]struct{})
	}
	w.launched = append(w.launched, time.Now())
	w.server = e2e.Start(t, w.config(w.random(0)))
	for range 2 {
		w.others = append(w.others, w.server.Sibling(w.config(w.random(0))))
	}

	faults := e2e.Faults{CutAfter: 200_000, Stall: 2 * time.Second, Piece: 200, Rate: 4 << 10}
	for i, p := range []e2e.Protocol{e2e.H1, e2e.H1TLS, e2e.H2} {
		port := w.server.HTTPS
		if p == e2e.H1 {
			port = w.server.HTTP
		}
		w.proxies[p] = e2e.NewProxy(t, fmt.Sprintf("127.0.0.1:%d", port), *seed+uint64(i), faults)
	}
	w.admin = e2e.NewProxy(t, fmt.Sprintf("127.0.0.1:%d", w.server.Admin), *seed+9,
		e2e.Faults{CutAfter: 20_000, Stall: time.Second, Piece: 50})
	for _, h := range w.hubs {
		c := w.server.Client(e2e.H2)
		c.Path, c.Backoff = h.path, retryMax
		w.shared[h.path] = c
	}
	return w
}

// random returns a separate random source for each use.
func (w *world) random(use int) *rand.Rand { return rand.New(rand.NewPCG(*seed, uint64(use))) }

// count counts an action of a client.
func (w *world) count(what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.done[what]++
}

// settle ends the faults. All clients reconnect over a good network and get time to receive the
// remaining events.
func (w *world) settle() {
	w.publishing.Wait()
	w.server.SetClock(0)
	for _, p := range w.proxies {
		p.Calm()
	}
	close(w.quiet)
	w.running.Wait()
	late := time.Now().Add(2 * e2e.Patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for time.Now().Before(late) && !w.allCaughtUp() {
		<-tick.C
	}
	for index, c := range w.current {
		w.leave(index, c, true)
	}
	for _, c := range w.connections {
		c.Close()
	}
}

// allCaughtUp reports whether all clients have received their last event.
func (w *world) allCaughtUp() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.current {
		if c.failure() == nil && isBehind(c) {
			return false
		}
	}
	return true
}

// isBehind reports whether a client has events to receive.
func isBehind(c client) bool {
	last, h := c.last(), c.hub()
	switch {
	case last.Epoch == "":
		return true
	case h.changes != nil:
		return h.changes.isBehind(h.ledger, c.identity(), last)
	}
	return len(h.ledger.Expected(c.identity(), last.Epoch, last.Seq)) > 0
}
