package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/ea766355/caddy-sse/bench/internal/hub"
	"github.com/ea766355/caddy-sse/bench/internal/load"
)

// carriage is a protocol, the number of streams to open over it, and its key in a sample.
type carriage struct {
	protocol load.Protocol
	conns    int
	key      string
}

// carriages returns the protocols of a hub.
func carriages(a hub.Abilities) []carriage {
	all := []carriage{{load.H1, 5_000, "h1"}}
	if a.TLS {
		all = append(all, carriage{load.H1TLS, 2_000, "tls"})
	}
	if a.H2 {
		all = append(all, carriage{load.H2, 1_000, "h2"})
	}
	if a.H3 {
		all = append(all, carriage{load.H3, 1_000, "h3"})
	}
	return all
}

func stormOf(p load.Protocol, conns int) func(context.Context, *bench, hub.Hub) (sample, error) {
	return func(ctx context.Context, b *bench, h hub.Hub) (sample, error) {
		return b.storm(ctx, h, p, b.scaled(conns))
	}
}

// stormTLS runs a storm for each protocol over TLS.
func stormTLS(ctx context.Context, b *bench, h hub.Hub) (sample, error) {
	out := sample{}
	for _, c := range carriages(h.Abilities())[1:] {
		s, err := b.storm(ctx, h, c.protocol, b.scaled(1_000))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.protocol, err)
		}
		out[c.key], out[c.key+"Seconds"] = s["cpu"], s["seconds"]
		for _, fault := range slices.Concat(faults, ends) {
			out[fault.key] += s[fault.key]
		}
	}
	return out, nil
}

// storm closes all streams, publishes, and lets all clients reconnect with their position.
func (b *bench) storm(ctx context.Context, h hub.Hub, p load.Protocol, conns int) (sample, error) {
	s, err := b.start(ctx, h, false)
	if err != nil {
		return nil, err
	}
	defer s.stop()
	const missed = 100
	if err := s.warm(ctx, p, conns); err != nil {
		return nil, err
	}
	last, err := s.broadcast(ctx, burst{publishers: 1, count: 1, size: eventSize})
	if err != nil {
		return nil, err
	}
	position, err := h.Position(last.Receipt)
	if err != nil {
		return nil, err
	}
	s.fleet.Close()
	if err := s.srv.Settle(ctx); err != nil { // so that the closing is not measured
		return nil, err
	}

	run := s.rec.Begin(conns, 1)
	if _, err := load.Publish(ctx, load.Publishing{
		Addr: s.srv.API, Publishers: 1, Count: missed,
		Request: func(_ uint16, n uint32) load.Request {
			return h.Publish("", load.Mark{Run: run, Seq: n, At: load.Now()}.Data(eventSize))
		},
	}); err != nil {
		return nil, err
	}
	before, err := s.srv.CPU()
	if err != nil {
		return nil, err
	}
	start := load.Now()
	if err := s.open(p, conns, position); err != nil {
		return nil, err
	}
	if err := s.fleet.Run(s.arrived(int64(conns * missed))); err != nil {
		return nil, err
	}
	after, err := s.srv.CPU()
	if err != nil {
		return nil, err
	}
	res := s.rec.End(func(int, int) uint32 { return uint32(missed) })
	return sample{
		"cpu": micros(after-before, res.Deliveries), "seconds": (res.LastAt - start).Seconds(),
		"lost": float64(res.Lost), "doubled": float64(res.Doubled + res.Stray), "disordered": float64(res.Disordered),
		"gaps": float64(res.Gaps), "closed": float64(res.Closed),
	}, nil
}

// connect opens streams over each protocol, as fast as they are answered.
func connect(ctx context.Context, b *bench, h hub.Hub) (sample, error) {
	out := sample{}
	for _, c := range carriages(h.Abilities()) {
		conns := b.scaled(1_000)
		if c.protocol == load.H1 {
			conns = b.scaled(5_000)
		}
		cpu, took, err := b.connect(ctx, h, c.protocol, conns)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.protocol, err)
		}
		out[c.key], out[c.key+"Rate"] = micros(cpu, int64(conns)), float64(conns)/took.Seconds()
	}
	return out, nil
}

func (b *bench) connect(ctx context.Context, h hub.Hub, p load.Protocol, conns int) (cpu, took time.Duration, err error) {
	s, err := b.start(ctx, h, false)
	if err != nil {
		return 0, 0, err
	}
	defer s.stop()
	if err := s.open(p, 100, ""); err != nil {
		return 0, 0, err
	}
	s.fleet.Close()
	if err := s.srv.Settle(ctx); err != nil { // so that the closing is not measured
		return 0, 0, err
	}
	before, err := s.srv.CPU()
	if err != nil {
		return 0, 0, err
	}
	start := load.Now()
	if err := s.open(p, conns, ""); err != nil {
		return 0, 0, err
	}
	took = load.Now() - start
	after, err := s.srv.CPU()
	return after - before, took, err
}

// stall measures without, with, and again without a client that reads nothing.
func stall(ctx context.Context, b *bench, h hub.Hub) (sample, error) {
	plan := burst{publishers: 1, rate: 5, lasting: b.lasting(5 * time.Second), size: 2_000}
	measure := func(stalled bool) (out *outcome, took int, err error) {
		s, err := b.start(ctx, h, false)
		if err != nil {
			return nil, 0, err
		}
		defer s.stop()
		var deaf *load.Deaf
		if stalled {
			if deaf, err = load.OpenDeaf(s.srv.H1, h.Stream("", "")); err != nil {
				return nil, 0, err
			}
			defer deaf.Close()
		}
		if err := s.warm(ctx, load.H1, b.scaled(5_000)); err != nil {
			return nil, 0, err
		}
		// More than the client's buffers hold, so that it stalls.
		if _, err := s.broadcast(ctx, burst{publishers: 1, count: 20, size: 5 * plan.size}); err != nil {
			return nil, 0, err
		}
		if out, err = s.broadcast(ctx, plan); err != nil || !stalled {
			return out, 0, err
		}
		took, err = deaf.Queued()
		return out, took, err
	}
	first, _, err := measure(false)
	if err != nil {
		return nil, err
	}
	stalled, took, err := measure(true)
	if err != nil {
		return nil, err
	}
	if took >= 100*plan.size {
		return nil, fmt.Errorf("the stalled client was sent %d bytes: it never stalled", took)
	}
	second, _, err := measure(false)
	if err != nil {
		return nil, err
	}
	a, with, again := first.sample(), stalled.sample(), second.sample()
	out := sample{
		"p99A": a["p99"], "p99Stalled": with["p99"], "p99Again": again["p99"], "tookKB": float64(took) / 1024,
		"cpuA": a["cpu"], "cpuStalled": with["cpu"],
	}
	for _, key := range []string{"lost", "doubled", "disordered"} {
		out[key] = a[key] + with[key] + again[key]
	}
	return out, nil
}

// idle measures the resident memory of an idle connection, for each protocol.
func idle(ctx context.Context, b *bench, h hub.Hub) (sample, error) {
	out := sample{}
	for _, c := range carriages(h.Abilities()) {
		m, err := b.idle(ctx, h, c.protocol, b.scaled(c.conns))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.protocol, err)
		}
		out[c.key], out[c.key+"Settled"], out[c.key+"Written"] = m.found, m.settled, m.written
	}
	return out, nil
}

// idleMemory is KB per connection.
type idleMemory struct {
	found   float64 // as found
	settled float64 // after settling
	written float64 // after five events to each stream, and settling
}

func (b *bench) idle(ctx context.Context, h hub.Hub, p load.Protocol, conns int) (m idleMemory, err error) {
	s, err := b.start(ctx, h, false)
	if err != nil {
		return m, err
	}
	defer s.stop()
	// The first streams make a server allocate what is not per connection.
	if err := s.open(p, 16, ""); err != nil {
		return m, err
	}
	if err := s.srv.Settle(ctx); err != nil {
		return m, err
	}
	base, err := s.srv.RSS()
	if err != nil {
		return m, err
	}
	measure := func() (float64, error) {
		rss, err := s.srv.RSS()
		return float64(rss-base) / 1024 / float64(conns-16), err
	}
	if err := s.open(p, conns, ""); err != nil {
		return m, err
	}
	sleep(ctx, time.Second)
	if m.found, err = measure(); err != nil {
		return m, err
	}
	if err := s.srv.Settle(ctx); err != nil {
		return m, err
	}
	if m.settled, err = measure(); err != nil {
		return m, err
	}
	if _, err := s.broadcast(ctx, burst{publishers: 1, rate: 5, count: 5, size: eventSize}); err != nil {
		return m, err
	}
	sleep(ctx, time.Second) // until the last packets are acknowledged
	if err := s.srv.Settle(ctx); err != nil {
		return m, err
	}
	m.written, err = measure()
	return m, err
}

// peak compares the memory during a broadcast with that before: before and after settling.
func peak(ctx context.Context, b *bench, h hub.Hub) (sample, error) {
	s, err := b.start(ctx, h, false)
	if err != nil {
		return nil, err
	}
	defer s.stop()
	if err := s.open(load.H1TLS, b.scaled(10_000), ""); err != nil {
		return nil, err
	}
	sleep(ctx, time.Second)
	const mb = 1 << 20
	out := sample{}
	for _, at := range []string{"Found", "Settled"} {
		if at == "Settled" {
			if err := s.srv.Settle(ctx); err != nil {
				return nil, err
			}
		}
		before, err := s.srv.RSS()
		if err != nil {
			return nil, err
		}
		if err := s.srv.ResetPeak(); err != nil {
			return nil, err
		}
		res, err := s.broadcast(ctx, burst{publishers: 1, rate: 2, lasting: b.lasting(5 * time.Second), size: eventSize})
		if err != nil {
			return nil, err
		}
		highest, err := s.srv.PeakRSS()
		if err != nil {
			return nil, err
		}
		out["idle"+at] = float64(before) / mb
		out["peak"+at] = float64(highest) / mb
		out["ratio"+at] = float64(highest) / float64(before)
		out["lost"] += float64(res.Lost)
	}
	return out, nil
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
