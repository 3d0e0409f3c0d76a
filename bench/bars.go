package main

import (
	"fmt"
	"slices"
	"strings"
)

// The hubs of the bars.
const (
	ours  = "caddy-sse"
	limit = "raw write(2) loop"
	peer  = "Nchan"
	floor = "empty Caddy handler"
)

// bar is a limit for figures.
type bar struct {
	what string
	bar  string
	// measured returns the figures as text, and whether they are within the limit.
	measured func(look) (string, bool)
}

// look looks figures up and records whether one is missing.
type look struct {
	b       *bench
	missing *bool
}

func (l look) up(hub, mode, key string) float64 { return l.find(hub, mode, key, false) }

func (l look) total(hub, mode, key string) float64 { return l.find(hub, mode, key, true) }

func (l look) find(hub, mode, key string, sum bool) float64 {
	for _, e := range l.b.entries {
		if e.hub.Name() == hub {
			if v, ok := e.figure(mode, key, sum); ok {
				return v
			}
		}
	}
	*l.missing = true
	return 0
}

// all returns the figure of every round.
func (l look) all(hub, mode, key string) (values []float64) {
	for _, e := range l.b.entries {
		if e.hub.Name() == hub {
			for _, s := range e.samples[mode] {
				values = append(values, s[key])
			}
		}
	}
	return values
}

// timesRaw returns the CPU time per delivery of a mode as a multiple of the raw loop's.
func timesRaw(mode string, most float64) func(look) (string, bool) {
	return func(l look) (string, bool) {
		us, raw, lost := l.up(ours, mode, "cpu"), l.up(limit, mode, "cpu"), l.total(limit, mode, "lost")
		shown := fmt.Sprintf("%.2fx (%.2f µs, raw %.2f µs)", us/raw, us, raw)
		if lost > 0 {
			shown += fmt.Sprintf("; the raw loop lost %.0f", lost)
		}
		return shown, us/raw <= most && lost == 0
	}
}

func atMost(hub, mode, key string, most float64, format string) func(look) (string, bool) {
	return func(l look) (string, bool) {
		v := l.up(hub, mode, key)
		return fmt.Sprintf(format, v), v <= most
	}
}

func atLeast(hub, mode, key string, least float64, format string) func(look) (string, bool) {
	return func(l look) (string, bool) {
		v := l.up(hub, mode, key)
		return fmt.Sprintf(format, v), v >= least
	}
}

// timesFloor compares figures with those of an empty Caddy handler. Each must be at most the given
// multiple.
func timesFloor(mode string, most float64, format string, keys ...string) func(look) (string, bool) {
	return func(l look) (string, bool) {
		var shown []string
		met := true
		for _, key := range keys {
			v, empty := l.up(ours, mode, key), l.up(floor, mode, key)
			shown = append(shown, fmt.Sprintf("%.2fx ("+format+", empty "+format+")", v/empty, v, empty))
			met = met && v <= most*empty
		}
		return strings.Join(shown, ", "), met
	}
}

var allBars = []bar{
	{"server CPU per delivery by the raw loop's: 5,000 streams at 5 events/s", "<= 1.15x", timesRaw("paced", 1.15)},
	{"the same by Nchan's", "< 1x", func(l look) (string, bool) {
		us, nchan := l.up(ours, "paced", "cpu"), l.up(peer, "paced", "cpu")
		return fmt.Sprintf("%.2fx (Nchan %.2f µs)", us/nchan, nchan), us < nchan
	}},
	{"by the raw loop's: 2,000 streams, 1 publisher flat out", "<= 0.1x", timesRaw("flat1", 0.1)},
	{"by the raw loop's: 2,000 streams, 4 publishers flat out", "<= 0.06x", timesRaw("flat4", 0.06)},
	{"the same: p50 of a delivery in ms, and deliveries/s by the raw loop's", "<= 100, >= 22x", func(l look) (string, bool) {
		// The p50 was 730 ms at 25 times the raw loop. This allows a tenth less.
		p50, times := l.up(ours, "flat4", "p50"), l.up(ours, "flat4", "deliveries")/l.up(limit, "flat4", "deliveries")
		return fmt.Sprintf("%.0f ms, %.1fx", p50, times), p50 <= 100 && times >= 22
	}},
	{"CPU per delivery by an empty Caddy handler's: 1,000 streams at 5 events/s, h2", "<= 0.9x", timesFloor("h2", 0.9, "%.1f µs", "cpu")},
	{"the same over h3", "<= 0.9x", timesFloor("h3", 0.9, "%.1f µs", "cpu")},
	{"KB per idle connection, h1, as found", "<= 4", atMost(ours, "idle", "h1", 4, "%.1f")},
	{"KB per idle connection, h1 TLS, as found", "<= 16", atMost(ours, "idle", "tls", 16, "%.1f")},
	{"KB per idle connection, h2, by an empty Caddy handler's, as found, settled, and after 5 events", "<= 0.95x", timesFloor("idle", 0.95, "%.1f", "h2", "h2Settled", "h2Written")},
	{"the same over h3", "<= 0.95x", timesFloor("idle", 0.95, "%.1f", "h3", "h3Settled", "h3Written")},
	{"CPU per connect by an empty Caddy handler's: h1, h1 TLS, h2, h3", "<= 1x", timesFloor("connect", 1, "%.0f µs", "h1", "tls", "h2", "h3")},
	{"peak resident memory in a broadcast to 10,000 TLS streams by idle", "<= 1.3x", atMost(ours, "peak", "ratioFound", 1.3, "%.2fx")},
	{"server CPU of an event to one of 18,000 users by one of 100", "<= 1.05x", atMost(ours, "user", "ratio", 1.05, "%.2fx")},
	{"5,000 clients reconnect, 100 events missed each: lost", "0", func(l look) (string, bool) {
		lost := l.total(ours, "storm", "lost")
		return fmt.Sprintf("%.0f", lost), lost == 0
	}},
	{"the same: server CPU per event by that of a live delivery", "<= 1x", func(l look) (string, bool) {
		storm, live := l.up(ours, "storm", "cpu"), l.up(ours, "paced", "cpu")
		return fmt.Sprintf("%.2fx (%.2f µs)", storm/live, storm), storm <= live
	}},
	{"one stalled client among 5,000: the others' p99", "within the runs without", func(l look) (string, bool) {
		with := l.up(ours, "stall", "p99Stalled")
		without := slices.Concat(l.all(ours, "stall", "p99A"), l.all(ours, "stall", "p99Again"), []float64{0})
		return fmt.Sprintf("median %.1f ms; without, at most %.1f ms", with, slices.Max(without)), with <= slices.Max(without)
	}},
	{"events/s to disk, fsync each commit, with keys, in process, 64 goroutines", ">= 100,000", atLeast(ours, "keep", "diskProcess", 100_000, "%.0f")},
	{"the same over HTTP, one event a request: 64 publishers by 1", ">= 9x", func(l look) (string, bool) {
		one, many, times := l.up(ours, "keep", "disk1"), l.up(ours, "keep", "disk64"), l.up(ours, "keep", "ratio")
		return fmt.Sprintf("%.1fx (%.0f, 1 publisher %.0f)", times, many, one), times >= 9
	}},
	{"the same, batches of 100", ">= 80,000", atLeast(ours, "keep", "diskBatch", 80_000, "%.0f")},
	{"s until the first stream after a kill -9, 100,000 events on disk", "<= 2", atMost(ours, "restart", "seconds", 2, "%.2f")},
	{"flat out to disk, with keys: resident memory and file after 10 minutes by after 5", "<= 1.1x", func(l look) (string, bool) {
		rss, file := l.up(ours, "endure", "rss10"), l.up(ours, "endure", "file10")
		rss5, file5 := l.up(ours, "endure", "rss5"), l.up(ours, "endure", "file5")
		return fmt.Sprintf("%.2fx (%.0f MB), %.2fx (%.0f MB)", rss/rss5, rss, file/file5, file), rss <= 1.1*rss5 && file <= 1.1*file5
	}},
	{"lost, doubled or out of order, in all modes of this run", "0", func(l look) (string, bool) {
		var sum float64
		*l.missing = true // until something was measured
		for _, m := range allModes {
			for _, c := range faults {
				for _, e := range l.b.entries {
					if e.hub.Name() == ours {
						v, ok := e.figure(m.name, c.key, true)
						sum += v
						*l.missing = *l.missing && !ok
					}
				}
			}
		}
		return fmt.Sprintf("%.0f", sum), sum == 0
	}},
}

// bars are the rows of the table of bars.
func (b *bench) bars() [][]string {
	var rows [][]string
	for _, bar := range allBars {
		missing := false
		shown, met := bar.measured(look{b, &missing})
		verdict := "missed"
		switch {
		case missing:
			shown, verdict = "", "not measured"
		case met:
			verdict = "met"
		}
		rows = append(rows, []string{bar.what, bar.bar, shown, verdict})
	}
	return rows
}
