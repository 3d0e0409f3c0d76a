package main

import (
	"context"
	"strings"
	"time"

	"github.com/ea766355/caddy-sse/bench/internal/hub"
	"github.com/ea766355/caddy-sse/bench/internal/load"
)

// eventSize is the default size of an event's data, in bytes.
const eventSize = 200

// mode is a kind of load.
type mode struct {
	name    string
	title   string
	columns []column
	median  bool // the result is the median of several rounds
	takes   func(hub.Abilities) bool
	run     func(context.Context, *bench, hub.Hub) (sample, error)
}

var allModes = []*mode{
	{
		name: "paced", title: "Broadcast to 5,000 streams at 5 events/s, h1 cleartext", median: true,
		columns: broadcastColumns, takes: publishes, run: paced(load.H1, 5_000),
	},
	{
		name: "flat1", title: "Broadcast to 2,000 streams, 1 publisher flat out, h1 cleartext", median: true,
		columns: broadcastColumns, takes: publishes, run: flatOut(1),
	},
	{
		name: "flat4", title: "Broadcast to 2,000 streams, 4 publishers flat out, h1 cleartext", median: true,
		columns: broadcastColumns, takes: publishes, run: flatOut(4),
	},
	{
		name: "tls", title: "Broadcast to 2,000 streams at 5 events/s, h1 over TLS", median: true,
		columns: broadcastColumns, takes: publishesTLS, run: paced(load.H1TLS, 2_000),
	},
	{
		name: "h2", title: "Broadcast to 1,000 streams at 5 events/s, h2, a connection each", median: true,
		columns: broadcastColumns, takes: publishesH2, run: paced(load.H2, 1_000),
	},
	{
		name: "h3", title: "Broadcast to 1,000 streams at 5 events/s, h3, a connection each", median: true,
		columns: broadcastColumns, takes: publishesH3, run: paced(load.H3, 1_000),
	},
	{
		name: "user", title: "Events to one user among N, 1 publisher flat out, h1 cleartext", median: true,
		columns: userColumns, takes: func(a hub.Abilities) bool { return a.Users }, run: oneUser,
	},
	{
		name: "storm", title: "5,000 clients reconnect and catch up on 100 missed events each, h1 cleartext", median: true,
		columns: stormColumns, takes: resumes, run: stormOf(load.H1, 5_000),
	},
	{
		name: "stormtls", title: "1,000 clients reconnect and catch up on 100 missed events each, over TLS", median: true,
		columns: stormTLSColumns, takes: func(a hub.Abilities) bool { return resumes(a) && a.TLS }, run: stormTLS,
	},
	{
		name: "connect", title: "Streams opened, 64 at a time: 5,000 over h1 cleartext, 1,000 over the others", median: true,
		columns: connectColumns, takes: func(hub.Abilities) bool { return true }, run: connect,
	},
	{
		name: "stall", title: "One stalled client among 5,000, 5 events/s of 2 kB, h1 cleartext", median: true,
		columns: stallColumns, takes: publishes, run: stall,
	},
	{
		name: "idle", title: "Resident memory per idle connection", median: true,
		columns: idleColumns, takes: func(hub.Abilities) bool { return true }, run: idle,
	},
	{
		name: "peak", title: "Resident memory in a broadcast to 10,000 streams at 2 events/s, h1 over TLS",
		columns: peakColumns, takes: publishesTLS, run: peak,
	},
	{
		name: "keep", title: "Events published to a history on disk and in memory, each with a key, no streams", median: true,
		columns: keepColumns, takes: keeps, run: keep,
	},
	{
		name: "restart", title: "First stream after a kill -9, 100,000 events on disk", median: true,
		columns: restartColumns, takes: keeps, run: restart,
	},
	{
		name: "endure", title: "Ten minutes of publishing to disk flat out, batches of 100, each event with a key",
		columns: endureColumns, takes: keeps, run: endure,
	},
}

func modeNames() string {
	var names []string
	for _, m := range allModes {
		names = append(names, m.name)
	}
	return strings.Join(names, ",")
}

func publishes(a hub.Abilities) bool    { return a.Publish }
func publishesTLS(a hub.Abilities) bool { return a.Publish && a.TLS }
func publishesH2(a hub.Abilities) bool  { return a.Publish && a.H2 }
func publishesH3(a hub.Abilities) bool  { return a.Publish && a.H3 }
func resumes(a hub.Abilities) bool      { return a.Resume }

func paced(p load.Protocol, conns int) func(context.Context, *bench, hub.Hub) (sample, error) {
	return func(ctx context.Context, b *bench, h hub.Hub) (sample, error) {
		return b.broadcast(ctx, h, p, conns, burst{publishers: 1, rate: 5, lasting: b.lasting(8 * time.Second), size: eventSize})
	}
}

func flatOut(publishers int) func(context.Context, *bench, hub.Hub) (sample, error) {
	return func(ctx context.Context, b *bench, h hub.Hub) (sample, error) {
		return b.broadcast(ctx, h, load.H1, 2_000, burst{publishers: publishers, lasting: b.lasting(5 * time.Second), size: eventSize})
	}
}

func (b *bench) broadcast(ctx context.Context, h hub.Hub, p load.Protocol, conns int, burst burst) (sample, error) {
	s, err := b.start(ctx, h, false)
	if err != nil {
		return nil, err
	}
	defer s.stop()
	if err := s.warm(ctx, p, b.scaled(conns)); err != nil {
		return nil, err
	}
	out, err := s.broadcast(ctx, burst)
	if err != nil {
		return nil, err
	}
	return out.sample(), nil
}

// warm opens streams and publishes a little, so that all buffers reach their size.
func (s *session) warm(ctx context.Context, p load.Protocol, conns int) error {
	if err := s.open(p, conns, ""); err != nil {
		return err
	}
	warmUp := burst{publishers: 1, rate: 20, count: 10, size: eventSize}
	var err error
	if s.users {
		_, err = s.sendToOne(ctx, warmUp)
	} else {
		_, err = s.broadcast(ctx, warmUp)
	}
	return err
}

func (o *outcome) sample() sample {
	ms := func(ns int64) float64 { return float64(ns) / 1e6 }
	return sample{
		"cpu":        micros(o.server, o.Deliveries),
		"deliveries": float64(o.Deliveries) / o.took.Seconds(),
		"events":     float64(o.Total()) / o.took.Seconds(),
		"p50":        ms(o.Latency.ValueAtPercentile(50)),
		"p99":        ms(o.Latency.ValueAtPercentile(99)),
		"max":        ms(o.Latency.Max()),
		"publish50":  ms(o.Answered.ValueAtPercentile(50)),
		"publish99":  ms(o.Answered.ValueAtPercentile(99)),
		"busy":       100 * o.server.Seconds() / o.took.Seconds(),
		"clientBusy": 100 * o.client.Seconds() / o.took.Seconds(),
		"lost":       float64(o.Lost),
		"doubled":    float64(o.Doubled + o.Stray),
		"disordered": float64(o.Disordered),
		"gaps":       float64(o.Gaps),
		"closed":     float64(o.Closed),
	}
}

// micros returns the CPU time per item, in microseconds.
func micros(cpu time.Duration, n int64) float64 {
	return float64(cpu.Microseconds()) / float64(max(n, 1))
}

func oneUser(ctx context.Context, b *bench, h hub.Hub) (sample, error) {
	measure := func(conns int) (*outcome, error) {
		s, err := b.start(ctx, h, true)
		if err != nil {
			return nil, err
		}
		defer s.stop()
		if err := s.warm(ctx, load.H1, conns); err != nil {
			return nil, err
		}
		return s.sendToOne(ctx, burst{publishers: 1, lasting: b.lasting(5 * time.Second), size: eventSize})
	}
	few, err := measure(100)
	if err != nil {
		return nil, err
	}
	many, err := measure(b.scaled(18_000)) // of 20,000 files, streams leave a twentieth to others
	if err != nil {
		return nil, err
	}
	out := many.sample()
	out["cpuFew"] = micros(few.server, few.Total())
	out["cpuMany"] = micros(many.server, many.Total())
	out["ratio"] = out["cpuMany"] / out["cpuFew"]
	for _, key := range []string{"lost", "doubled", "disordered"} {
		out[key] += few.sample()[key]
	}
	return out, nil
}
