package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ea766355/caddy-sse/bench/internal/hub"
	"github.com/ea766355/caddy-sse/bench/internal/load"
)

// patience is how long a run waits for missing events.
const patience = 5 * time.Second

// bench is one run of the program.
type bench struct {
	quick      bool
	rounds     int
	workshop   hub.Workshop
	tmp        string
	cert, key  string
	clientCPU  int
	loadBefore string // load average
	maxStreams int    // limited by open files
	profiles   string // directory for CPU profiles of the servers, or empty
	mode       string // current mode

	entries []*entry
}

// entry is a hub and its measurements.
type entry struct {
	hub     hub.Hub
	version string
	missing error // why the hub could not be prepared
	samples map[string][]sample
	failed  map[string]error
}

// sample is the measurements of one run of a mode, by column.
type sample map[string]float64

func newBench(ctx context.Context, cpu int, quick bool, rounds int) (*bench, error) {
	dir, err := moduleDir(ctx)
	if err != nil {
		return nil, err
	}
	tmp, err := os.MkdirTemp("", "caddy-sse-bench-")
	if err != nil {
		return nil, err
	}
	b := &bench{
		quick: quick, rounds: rounds, tmp: tmp,
		loadBefore: loadAverage(),
		workshop:   hub.Workshop{Module: dir, Bin: tmp, CPU: cpu},
		cert:       filepath.Join(tmp, "cert.pem"), key: filepath.Join(tmp, "key.pem"),
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return nil, err
	}
	b.maxStreams = int(min(limit.Cur, 1<<20)) - 100
	return b, writeCertificate(b.cert, b.key)
}

func (b *bench) prepare(ctx context.Context, h hub.Hub) {
	e := &entry{hub: h, samples: make(map[string][]sample), failed: make(map[string]error)}
	e.version, e.missing = h.Prepare(ctx, b.workshop)
	if e.missing != nil {
		fmt.Fprintf(os.Stderr, "missing: %s: %v\n", h.Name(), e.missing)
	}
	b.entries = append(b.entries, e)
}

// measure runs a mode on every hub, round by round, so that a disturbance of the machine affects all hubs.
func (b *bench) measure(ctx context.Context, m *mode) error {
	rounds := 1
	if m.median && !b.quick {
		rounds = b.rounds
	}
	for round := range rounds {
		for _, e := range b.entries {
			if e.missing != nil || e.failed[m.name] != nil || !m.takes(e.hub.Abilities()) {
				continue
			}
			b.mode = m.name
			fmt.Fprintf(os.Stderr, "%s %d/%d: %s\n", m.name, round+1, rounds, e.hub.Name())
			s, err := m.run(ctx, b, e.hub)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				fmt.Fprintf(os.Stderr, "failed: %v\n", err)
				e.failed[m.name] = err
				continue
			}
			e.samples[m.name] = append(e.samples[m.name], s)
		}
	}
	return nil
}

// scaled returns a number of streams, or a tenth of it in a quick run.
func (b *bench) scaled(n int) int {
	if b.quick {
		n /= 10
	}
	return min(n, b.maxStreams)
}

// lasting returns the duration of a run, which is shorter in a quick run.
func (b *bench) lasting(d time.Duration) time.Duration {
	if b.quick {
		return time.Second
	}
	return d
}

// session is a server that was started for one run, and its open streams.
type session struct {
	hub   hub.Hub
	srv   *hub.Server
	rec   *load.Recorder
	fleet load.Fleet
	conns int
	users bool

	profile string // file for a CPU profile of the server, or empty
}

func (b *bench) start(ctx context.Context, h hub.Hub, users bool) (*session, error) {
	dir, err := os.MkdirTemp(b.tmp, "site-")
	if err != nil {
		return nil, err
	}
	srv, err := h.Start(ctx, hub.Site{Dir: dir, CPU: b.workshop.CPU, Cert: b.cert, Key: b.key, Users: users})
	if err != nil {
		return nil, fmt.Errorf("start: %w", err)
	}
	s := &session{hub: h, srv: srv, rec: new(load.Recorder), users: users}
	if b.profiles != "" {
		name := strings.NewReplacer(" ", "-", ",", "").Replace(b.mode + "-" + h.Name() + ".pprof")
		s.profile = filepath.Join(b.profiles, name)
	}
	return s, nil
}

func (s *session) stop() {
	if s.fleet != nil {
		s.fleet.Close()
	}
	s.srv.Stop()
}

// open opens a fleet in place of the open one.
func (s *session) open(p load.Protocol, conns int, position string) error {
	if s.fleet != nil {
		s.fleet.Close()
		s.fleet = nil
	}
	addr := s.srv.H1
	if p != load.H1 {
		addr = s.srv.TLS
	}
	fleet, err := load.New(p, addr, s.rec)
	if err != nil {
		return err
	}
	s.fleet, s.conns = fleet, conns
	if err := fleet.Open(conns, func(i int) load.Request { return s.hub.Stream(s.user(i), position) }); err != nil {
		return fmt.Errorf("open: %w", err)
	}
	return nil
}

// user returns the user of the i-th stream.
func (s *session) user(i int) string {
	if !s.users {
		return ""
	}
	return fmt.Sprintf("u%d", i)
}

// burst is the events that a run publishes.
type burst struct {
	publishers int
	rate       float64 // events per second; 0: as fast as possible
	lasting    time.Duration
	count      int // the burst ends after this many events
	size       int // bytes of data per event
}

// outcome is the result of a burst.
type outcome struct {
	load.Result
	*load.Published
	server, client time.Duration // CPU
	took           time.Duration // from the first request to the last receipt
}

// broadcast publishes to all streams and waits until all have received everything.
func (s *session) broadcast(ctx context.Context, b burst) (*outcome, error) {
	run := s.rec.Begin(s.conns, b.publishers)
	request := func(publisher uint16, n uint32) load.Request {
		m := load.Mark{Run: run, Lane: publisher, Seq: n, At: load.Now()}
		return s.hub.Publish("", m.Data(b.size))
	}
	return s.publish(ctx, b, request, s.conns, func(p *load.Published) func(int, int) uint32 {
		return func(_, lane int) uint32 { return p.Each[lane] }
	})
}

// sendToOne publishes each event to one user, in a scattered order of users.
func (s *session) sendToOne(ctx context.Context, b burst) (*outcome, error) {
	run := s.rec.Begin(s.conns, 1)
	sent := make([]uint32, s.conns)
	next := 0
	request := func(uint16, uint32) load.Request {
		next = (next + 7919) % s.conns // a prime, so that every user has a turn
		sent[next]++
		m := load.Mark{Run: run, Seq: sent[next], At: load.Now()}
		return s.hub.Publish(s.user(next), m.Data(b.size))
	}
	return s.publish(ctx, b, request, 1, func(*load.Published) func(int, int) uint32 {
		return func(conn, _ int) uint32 { return sent[conn] }
	})
}

func (s *session) publish(ctx context.Context, b burst, request func(uint16, uint32) load.Request, fanout int,
	expected func(*load.Published) func(conn, lane int) uint32,
) (out *outcome, err error) {
	out = new(outcome)
	serverBefore, err := s.srv.CPU()
	if err != nil {
		return nil, err
	}
	clientBefore := clientCPU()
	var (
		published *load.Published
		failure   error
		finished  atomic.Bool // publishes the two fields above
	)
	if seconds := int(b.lasting.Seconds()); s.profile != "" && seconds > 0 {
		profiled := make(chan error, 1)
		go func() { profiled <- s.srv.Profile(ctx, seconds, s.profile) }()
		defer func() { err = errors.Join(err, <-profiled) }()
	}
	go func() {
		defer finished.Store(true)
		published, failure = load.Publish(ctx, load.Publishing{
			Addr: s.srv.API, Publishers: b.publishers, Rate: b.rate, For: b.lasting, Count: b.count, Request: request,
		})
	}()
	received := s.received(fanout, &finished, &published)
	runErr := s.fleet.Run(received)
	for !finished.Load() { // Run may fail during the burst
		time.Sleep(time.Millisecond)
	}
	if err := errors.Join(runErr, failure, ctx.Err()); err != nil {
		return nil, err
	}
	serverAfter, err := s.srv.CPU()
	if err != nil {
		return nil, err
	}
	out.Published = published
	out.Result = s.rec.End(expected(published))
	out.server, out.client = serverAfter-serverBefore, clientCPU()-clientBefore
	out.took = max(out.LastAt, published.Start+1) - published.Start
	return out, nil
}

// received returns a function that reports whether all events have arrived, or no more arrive.
func (s *session) received(fanout int, finished *atomic.Bool, published **load.Published) func() bool {
	var arrived func() bool
	return func() bool {
		if arrived == nil {
			if !finished.Load() {
				return false
			}
			arrived = s.arrived((*published).Total() * int64(fanout))
		}
		return arrived()
	}
}

// arrived returns a function that reports whether n events have arrived, or no more arrive.
func (s *session) arrived(n int64) func() bool {
	var count int64
	var since time.Duration
	return func() bool {
		got, now := s.rec.Deliveries(), load.Now()
		if since == 0 || got != count {
			count, since = got, now
		}
		return got >= n || now-since > patience
	}
}

// clientCPU returns the user and system time of this process.
func clientCPU() time.Duration {
	var usage unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &usage) // never fails
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
