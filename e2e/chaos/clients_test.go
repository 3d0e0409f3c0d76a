package chaos

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/ea766355/caddy-sse/e2e"
)

// client is a running client of any kind. Its methods may be called from any goroutine.
type client interface {
	hub() *hub
	identity() e2e.Identity
	last() e2e.Position
	failure() error // the error if it received something that breaks a promise
	stop() *trace   // stops it and waits for its end
}

// trace is the record of a client.
type trace struct {
	kind     string
	hub      *hub
	id       e2e.Identity
	since    time.Time // when it got its first position
	start    e2e.Position
	last     e2e.Position
	final    bool // the client was open at the end
	received []e2e.Received
	streams  int
	ends     []string // reasons why its streams ended
	closings []string // reasons of sse.closing and sse.rejected
	err      error
}

// begin is the identity of a client and its start: at the head, or at a position that it got at
// a given time.
type begin struct {
	id    e2e.Identity
	from  e2e.Position
	since time.Time
}

// kind is a kind of client.
type kind struct {
	name    string
	connect func(w *world, h *hub) *e2e.Client
	join    func(w *world, k *kind, c *e2e.Client, h *hub, b begin) client
	returns bool // it can start with a position
}

func direct(p e2e.Protocol) func(*world, *hub) *e2e.Client {
	return func(w *world, h *hub) *e2e.Client { return w.server.Client(p) }
}

func proxied(p e2e.Protocol) func(*world, *hub) *e2e.Client {
	return func(w *world, h *hub) *e2e.Client { return w.server.ClientVia(w.proxies[p].Addr, p) }
}

func slow(p e2e.Protocol) func(*world, *hub) *e2e.Client {
	return func(w *world, h *hub) *e2e.Client { return w.server.SmallClient(p) }
}

func curl(p e2e.Protocol) func(*world, *hub) *e2e.Client {
	return func(w *world, h *hub) *e2e.Client { return w.server.Curl(w.proxies[p].Addr, p) }
}

func shared(w *world, h *hub) *e2e.Client { return w.shared[h.path] }

// kinds are assigned in turn to the clients of each hub.
var kinds = []*kind{
	{"follower, h1, bad network", proxied(e2e.H1), follow, true},
	{"go-sse, h1, bad network", proxied(e2e.H1), goSSE, false},
	{"follower, h2, bad network", proxied(e2e.H2), follow, true},
	{"eventsource, h1, bad network", proxied(e2e.H1), eventSource, true},
	{"curl, h1, bad network", curl(e2e.H1), follow, true},
	{"follower, h1, slow", slow(e2e.H1), follow, true},
	{"follower, h2, one connection for many", shared, follow, true},
	{"follower, h1 over TLS, bad network", proxied(e2e.H1TLS), follow, true},
	{"follower, h1", direct(e2e.H1), follow, true},
	{"go-sse, h2", direct(e2e.H2), goSSE, false},
	{"eventsource, h2, bad network", proxied(e2e.H2), eventSource, true},
	{"follower, h2, slow", slow(e2e.H2), follow, true},
	{"follower, h2, one connection for many", shared, follow, true},
	{"curl, h2, bad network", curl(e2e.H2), follow, true},
	{"follower, h3", direct(e2e.H3), follow, true},
}

// startClients starts clients, and replaces them now and then until the faults end.
func (w *world) startClients() {
	for i, h := range w.hubs {
		for n := range *clients * h.share / 100 {
			index := i*10_000 + n
			w.running.Go(func() { w.runClients(index, kinds[(n+5*i)%len(kinds)], h, w.random(10_000+index)) })
		}
	}
}

// runClients runs clients one after the other at an index. A client that left may come back.
func (w *world) runClients(index int, k *kind, h *hub, random *rand.Rand) {
	c := k.connect(w, h)
	if c != w.shared[h.path] {
		c.Path, c.Backoff = h.path, retryMax
	}
	w.mu.Lock()
	w.connections = append(w.connections, c)
	w.mu.Unlock()
	b := begin{id: randomIdentity(random), since: time.Now()}
	for {
		current := k.join(w, k, c, h, b)
		w.mu.Lock()
		w.current[index] = current
		w.mu.Unlock()
		if w.stay(current, random) {
			return
		}
		ended := w.leave(index, current, false)
		if k.returns && random.IntN(4) > 0 {
			b.from, b.since = ended.last, time.Now()
			w.count("clients that left and came back")
		} else {
			b = begin{id: randomIdentity(random), since: time.Now()}
			w.count("clients that were replaced by others")
		}
		// The wait is long enough for some clients of the third hub to miss events.
		w.wait(time.Duration(random.Int64N(int64(5*time.Second)) << random.IntN(3)))
	}
}

// wait waits for a time, or until clients must stay, and reports whether they must.
func (w *world) wait(d time.Duration) bool {
	select {
	case <-w.quiet:
		return true
	case <-time.After(d):
		return false
	}
}

// stay keeps a client open for a while. The client may stop reading meanwhile. It reports whether
// clients must stay.
func (w *world) stay(c client, random *rand.Rand) bool {
	for range random.IntN(12) {
		if w.wait(time.Duration(random.Int64N(int64(5 * time.Second)))) {
			return true
		}
		if f, ok := c.(*follower); ok && random.IntN(4) == 0 {
			f.Hold()
			w.count("clients that stopped reading for a while")
			quiet := w.wait(time.Duration(random.Int64N(int64(5 * time.Second))))
			f.Release()
			if quiet {
				return true
			}
		}
	}
	select {
	case <-w.quiet:
		return true
	default:
		return false
	}
}

// leave stops a client and keeps its trace.
func (w *world) leave(index int, c client, final bool) *trace {
	tr := c.stop()
	tr.final = final
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.current, index)
	w.traces = append(w.traces, tr)
	return tr
}

// follower is a client that checks every byte.
type follower struct {
	*e2e.Follower
	k     *kind
	of    *hub
	since time.Time
}

func follow(w *world, k *kind, c *e2e.Client, h *hub, b begin) client {
	return &follower{e2e.FollowFrom(w.t, c, b.id, b.from), k, h, b.since}
}

func (f *follower) hub() *hub              { return f.of }
func (f *follower) identity() e2e.Identity { return f.Identity }
func (f *follower) last() e2e.Position     { return f.Last() }
func (f *follower) failure() error         { return f.Err() }

func (f *follower) stop() *trace {
	f.Stop()
	streams, ends := f.Streams()
	var closings []string
	for _, g := range f.Closings() {
		closings = append(closings, g.Reason)
	}
	return &trace{
		kind: f.k.name, hub: f.of, id: f.Identity, since: f.since,
		start: f.Start(), last: f.Last(), received: f.Received(),
		streams: streams, ends: ends, closings: closings, err: f.Err(),
	}
}

func (tr *trace) String() string {
	return fmt.Sprintf("%s on %s, %+v, from %s to %s, %d streams", tr.kind, tr.hub.name, tr.id, tr.start, tr.last, tr.streams)
}
