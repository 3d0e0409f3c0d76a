//go:build holds && linux

package hub

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// BenchmarkLongestHold reports the longest time that a call holds the hub's lock, as the median of
// 20 runs. It needs only one iteration: go test -tags holds -run '^$' -bench LongestHold
// -benchtime 1x ./hub
func BenchmarkLongestHold(b *testing.B) {
	topics := func(prefix string, n int) []Target {
		targets := make([]Target, n)
		for i := range targets {
			targets[i] = topic(prefix + strconv.Itoa(i))
		}
		return targets
	}
	names := func(targets []Target) []string {
		names := make([]string, len(targets))
		for i, t := range targets {
			names[i] = t.Name
		}
		return names
	}
	fillWith := func(b *testing.B, h *Hub, n int, event func(i int) Event) {
		now := time.Now()
		for from := 0; from < n; from += 1000 {
			records := make([]Record, min(1000, n-from))
			for i := range records {
				e := event(from + i)
				e.At, e.Data = now, []byte("x")
				records[i] = Record{h.history.head + 1 + uint64(i), now, encodeEvent(&e)}
			}
			feed{h}.Deliver(records)
		}
	}
	fill := func(b *testing.B, h *Hub, n int, target func(i int) Target) {
		fillWith(b, h, n, func(i int) Event { return Event{Targets: []Target{target(i)}} })
	}
	roomy := Options{MaxEvents: 2_000_000, MaxBytes: 4 << 30}
	for _, c := range []struct {
		name string
		opts Options
		// prepare sets the hub up and returns the function that is measured.
		prepare func(b *testing.B, h *Hub) (run func(i int))
	}{
		{"publish to 1,000 topics with 10,000 subscribers of a pattern", Options{}, func(b *testing.B, h *Hub) func(int) {
			for range 10_000 {
				connect(b, h, requestOf("", "orders/*"))
			}
			targets := topics("orders/", 1000)
			return func(int) { publish(b, h, "x", targets...) }
		}},
		{"publish to 100 topics that 10,000 connections requested in another order", Options{}, func(b *testing.B, h *Hub) func(int) {
			targets := topics("t/", 100)
			asked := names(targets)
			slices.Reverse(asked)
			for range 10_000 {
				connect(b, h, requestOf("", asked...))
			}
			return func(int) { publish(b, h, "x", targets...) }
		}},
		{"first client of a new pattern with 500,000 retained events", roomy, func(b *testing.B, h *Hub) func(int) {
			fill(b, h, 500_000, func(i int) Target { return topic(fmt.Sprint("a/", i, "/b/c")) })
			shapes := []string{"*", "a/*", "*/*/b/c", "a/*/*", "a/*/b/*", "*/*/*", "*/*/*/*", "a/*/b/c", "*/*/b/*", "a/*/*/c"}
			return func(i int) { connect(b, h, requestOf("", shapes[i%len(shapes)])).Cancel() }
		}},
		{"a page of a listing of 100,000 connections", Options{}, func(b *testing.B, h *Hub) func(int) {
			for i := range 100_000 {
				connect(b, h, requestOf(fmt.Sprint("user-", i)))
			}
			return func(int) {
				for _, c := range h.Connections(Filter{})[:100] {
					c.Info()
				}
			}
		}},
		{"a listing of 100,000 topics", Options{}, func(b *testing.B, h *Hub) func(int) {
			connect(b, h, requestOf("", "*", "t/*", "a/*/b"))
			filter := Filter{Topics: names(topics("t/", 100_000))}
			return func(int) { h.Connections(filter) }
		}},
		{"why of a user with 10,000 connections and 10,000 that have ended", Options{}, func(b *testing.B, h *Hub) func(int) {
			for range 10_000 {
				connect(b, h, requestOf("alice", "news", "room/*"))
				connect(b, h, requestOf("alice", "news", "room/*")).Cancel()
			}
			p := send(b, h, to(user("bob"), topic("room/9")))
			return func(int) { why(h, p, "alice") }
		}},
		{"a history cut from 1,000,000 to 10 events", roomy, func(b *testing.B, h *Hub) func(int) {
			return func(int) {
				h.SetOptions(Options{MaxEvents: 10})
			}
		}},
		{"5,000 lagging streams that end at once", Options{}, func(b *testing.B, h *Hub) func(int) {
			return func(int) {
				for _, c := range h.Connections(Filter{}) {
					h.finish(c, Gone)
				}
			}
		}},
		{"waking 10,000 connections of 100 lanes", Options{}, func(b *testing.B, h *Hub) func(int) {
			targets := topics("t/", 100)
			for range 10_000 {
				connect(b, h, requestOf("", names(targets)...))
			}
			return func(int) {
				h.mu.Lock()
				for _, t := range targets {
					h.markDirty(h.history.lane(t))
				}
				h.mu.Unlock()
				h.signalWaker()
				for {
					h.mu.RLock()
					left := len(h.dirty)
					h.mu.RUnlock()
					if left == 0 {
						return
					}
				}
			}
		}},
		{"a connection with 1,000 topics that begins and ends", Options{}, func(b *testing.B, h *Hub) func(int) {
			all := names(topics("t/", 1000))
			return func(int) { connect(b, h, requestOf("", all...)).Cancel() }
		}},
		{"an event for a topic that has 1,000,000", roomy, func(b *testing.B, h *Hub) func(int) {
			fill(b, h, 1_000_000, func(int) Target { return topic("t") })
			return func(int) { fill(b, h, 20_000, func(int) Target { return topic("t") }) }
		}},
		{"a client that passes 1,000,000 states that were replaced", roomy, func(b *testing.B, h *Hub) func(int) {
			fillWith(b, h, 1_000_000, func(i int) Event { return Event{Slot: strconv.Itoa(i % 10), Targets: []Target{topic("t")}} })
			return func(int) {
				c := connect(b, h, requestOf("", "t").at(Earliest))
				c.catchUp(&discard{})
				c.Cancel()
			}
		}},
		{"a reader that passes 1,000,000 holes", roomy, func(b *testing.B, h *Hub) func(int) {
			h.fillHoles(1_000_000)
			return func(int) {
				r, err := h.Read(b.Context(), Earliest, EventFilter{})
				if err != nil {
					b.Fatal(err)
				}
				for r.Position().Seq < 999_999 {
					if _, err := r.Next(b.Context()); err != nil {
						b.Fatal(err)
					}
				}
			}
		}},
		{"eviction of a change of the topics of 100,000 connections", Options{MaxEvents: 1}, func(b *testing.B, h *Hub) func(int) {
			for range 100_000 {
				connect(b, h, requestOf("alice"))
			}
			return func(i int) {
				if _, err := h.ChangeTopics(b.Context(), TopicChange{Filter: Filter{}, Add: []string{strconv.Itoa(i)}}); err != nil {
					b.Fatal(err)
				}
				h.mu.longest()
				publish(b, h, "x")
			}
		}},
		{"first client of a new pattern after a change of the topics of 100,000 connections", Options{}, func(b *testing.B, h *Hub) func(int) {
			for range 100_000 {
				connect(b, h, requestOf("alice"))
			}
			if _, err := h.ChangeTopics(b.Context(), TopicChange{Filter: Filter{}, Add: []string{"t"}}); err != nil {
				b.Fatal(err)
			}
			return func(i int) { connect(b, h, requestOf("", strings.Repeat("t/", i)+"*")).Cancel() }
		}},
		{"the end of 200 connections with 1,000 topics", Options{}, func(b *testing.B, h *Hub) func(int) {
			all := names(topics("t/", 1000))
			return func(int) {
				for range 200 {
					connect(b, h, requestOf("", all...))
				}
				h.mu.longest()
				h.EndStreams()
			}
		}},
		{"a new store with 10,000 connections of 10 topics", Options{}, func(b *testing.B, h *Hub) func(int) {
			for range 10_000 {
				connect(b, h, requestOf("", names(topics("t/", 10))...))
			}
			return func(int) { feed{h}.Begin(NewEpoch(), 1) }
		}},
		{"a new store with 10,000 streams that have stalled in different events", roomy, func(b *testing.B, h *Hub) func(int) {
			for range 10_000 {
				connect(b, h, requestOf("alice"))
			}
			return func(int) { feed{h}.Begin(NewEpoch(), 1) }
		}},
		{"evicted events that 10,000 streams have stalled in, which have ended", roomy, func(b *testing.B, h *Hub) func(int) {
			return func(int) {
				h.mu.Lock()
				h.history.opts.MaxBytes = -1
				h.mu.Unlock()
				for h.releaseEvicted() {
				}
			}
		}},
	} {
		b.Run(c.name, func(b *testing.B) {
			h := newHub(b, c.opts)
			run := c.prepare(b, h)
			var holds []time.Duration
			for i := range 20 {
				switch c.name {
				case "a history cut from 1,000,000 to 10 events":
					h.SetOptions(roomy)
					fill(b, h, 1_000_000, func(i int) Target { return topic("t") })
				case "5,000 lagging streams that end at once":
					for range 5_000 {
						connect(b, h, requestOf("", names(topics("t/", 100))...))
					}
					fill(b, h, 4_000, func(i int) Target { return topic(fmt.Sprint("t/", i%100)) })
				}
				if strings.Contains(c.name, "stalled in") {
					if i > 0 {
						h.Close()
						h = newHub(b, c.opts)
						run = c.prepare(b, h)
					}
					if strings.HasSuffix(c.name, "ended") {
						for range 10_000 {
							connect(b, h, requestOf("alice"))
						}
					}
					for i, p := range h.Connections(Filter{}) {
						fill(b, h, 1, func(int) Target { return topic("t") })
						p.pin(item{frame: h.history.entry(h.history.head).frame, seq: uint64(i + 1)}, false)
					}
					if strings.HasSuffix(c.name, "ended") {
						h.mu.Lock()
						for key := range h.pinned.events {
							h.pinned.noteEvicted(key)
						}
						h.mu.Unlock()
						h.EndStreams()
					}
				}
				h.mu.longest()
				run(i)
				holds = append(holds, h.mu.longest())
			}
			slices.Sort(holds)
			b.ReportMetric(float64(holds[len(holds)/2].Microseconds())/1000, "ms")
			b.ReportMetric(0, "ns/op")
			for _, c := range h.Connections(Filter{}) {
				Pending{c}.Cancel()
			}
		})
	}
}
