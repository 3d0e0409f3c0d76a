package hub

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"
)

var payload = []byte(strings.Repeat("x", 200))

func mustPublish(b testing.TB, h *Hub, targets ...Target) {
	if _, err := h.Publish(b.Context(), Event{Data: payload, Targets: targets}); err != nil {
		b.Fatal(err)
	}
}

// The publisher of a broadcast encodes once. Another goroutine wakes the subscribers.
func BenchmarkPublishBroadcast(b *testing.B) {
	for _, subscribers := range []int{1, 100, 10_000} {
		b.Run(fmt.Sprint("subscribers=", subscribers), func(b *testing.B) {
			h := newHub(b, Options{})
			for i := range subscribers {
				connect(b, h, requestOf(fmt.Sprint(i)))
			}
			b.ReportAllocs()
			for b.Loop() {
				mustPublish(b, h, Target{})
			}
		})
	}
}

// A publish to one user costs as much among many users as among few.
func BenchmarkPublishToOneUser(b *testing.B) {
	for _, users := range []int{100, 100_000} {
		b.Run(fmt.Sprint("users=", users), func(b *testing.B) {
			h := newHub(b, Options{})
			for i := range users {
				connect(b, h, requestOf(fmt.Sprint(i)))
			}
			runtime.GC() // so that the collector does not mark the connections during the measurement
			b.ReportAllocs()
			for b.Loop() {
				mustPublish(b, h, user("42"))
			}
		})
	}
}

// The cost of a replay grows with the number of missed events, not with the number of retained
// ones.
func BenchmarkReplay(b *testing.B) {
	for _, retained := range []int{1000, 100_000} {
		for _, missed := range []int{10, 100} {
			b.Run(fmt.Sprintf("missed=%d/retained=%d", missed, retained), func(b *testing.B) {
				h := newHub(b, Options{MaxEvents: retained})
				every := retained / missed
				for i := range retained {
					if i%every == 0 {
						mustPublish(b, h, user("alice"))
					} else {
						mustPublish(b, h, user("bob"))
					}
				}
				start := Position{Epoch: h.history.epoch, Seq: h.history.oldest - 1}.String()
				gone, cancel := context.WithCancel(b.Context())
				cancel()
				var w discard
				b.ReportAllocs()
				for b.Loop() {
					c := connect(b, h, requestOf("alice").at(start))
					c.stream(gone, &w)
					if n, _ := c.Sent(); n != uint64(missed) {
						b.Fatalf("%d events", n)
					}
				}
			})
		}
	}
}

// discard is a client that is infinitely fast.
type discard struct{ flushed chan struct{} }

func (d *discard) Write(p []byte) (int, error) { return len(p), nil }
func (d *discard) Abort()                      {}
func (d *discard) Flush() error {
	if d.flushed != nil {
		d.flushed <- struct{}{}
	}
	return nil
}

// BenchmarkDeliver measures the way of an event from Publish to the flush, through Open and Serve.
func BenchmarkDeliver(b *testing.B) {
	h := newHub(b, Options{})
	w, stop := serveStream(b, h)
	defer stop()
	b.ReportAllocs()
	for b.Loop() {
		mustPublish(b, h, Target{})
		<-w.flushed
	}
}

// BenchmarkCatchUp measures a delivery without the publish: one look-up and one write.
func BenchmarkCatchUp(b *testing.B) {
	h := newHub(b, Options{})
	c := idleConn(b, h)
	b.ReportAllocs()
	for b.Loop() {
		c.cursor.Store(h.history.head - 1)
		c.catchUp(&discard{})
	}
}

func BenchmarkAppendFull(b *testing.B) {
	h := newHistory(Options{}.withDefaults(), "e", 1, new(pinned))
	targets := make([]Event, 1000)
	for i := range targets {
		targets[i] = Event{At: time.Now(), Data: payload, Targets: []Target{user(fmt.Sprint(i))}}
	}
	now := time.Now()
	i := 0
	put := func() {
		h.append(encode(recordOf(h.head+1, targets[i%len(targets)]), "abcdefgh", now), now)
		i++
	}
	for range 2 * DefaultMaxEvents {
		put()
	}
	b.ReportAllocs()
	for b.Loop() {
		put()
	}
}

// serveStream serves a stream until stop is called.
func serveStream(t testing.TB, h *Hub) (w *discard, stop func()) {
	c := connect(t, h, requestOf("alice"))
	w = &discard{flushed: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c.stream(ctx, w)
	}()
	<-w.flushed
	return w, func() {
		cancel()
		<-ended
	}
}

// idleConn returns a connection that was sent everything.
func idleConn(t testing.TB, h *Hub) *Conn {
	for range 10 {
		mustPublish(t, h, Target{})
	}
	c := connect(t, h, requestOf("alice")).Conn
	c.catchUp(&discard{})
	return c
}

// raceEnabled says whether the race detector runs. A sync.Pool then drops values at random.
var raceEnabled = func() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}()

func TestDeliveryAllocatesNothing(t *testing.T) {
	h := newHub(t, Options{})
	c, w := idleConn(t, h), &discard{}
	var bound float64
	if raceEnabled {
		bound = 3 // a batch and its slices, if the pool dropped them
	}
	for _, events := range []uint64{1, 5} {
		allocs := testing.AllocsPerRun(1000, func() {
			c.cursor.Store(h.history.head - events)
			c.catchUp(w)
		})
		if allocs > bound {
			t.Errorf("allocations to deliver %d events: got %v, want at most %v", events, allocs, bound)
		}
	}
	if n, _ := c.Sent(); n != 1001*6 {
		t.Errorf("delivered events: got %d, want %d", n, 1001*6)
	}
}

// BenchmarkGrants measures what 10,000 connections with granted topics cost others: a publish to
// one topic of 100 connections, and a connection that begins and ends.
func BenchmarkGrants(b *testing.B) {
	for _, each := range []int{1, 100} {
		h := newHub(b, Options{})
		granted := func(i int) []string {
			names := make([]string, each)
			for n := range names {
				names[n] = fmt.Sprint("room/", (i+n*101)%(100*each))
			}
			return names
		}
		var conns []*Conn
		for i := range 10_000 {
			conns = append(conns, connect(b, h, requestOf(fmt.Sprint("user-", i), granted(i)...)).Conn)
		}
		b.Run(fmt.Sprint("publish, ", each, " topics each"), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				publish(b, h, "x", topic("room/7"))
			}
		})
		for _, own := range []int{1, 100, 1000} {
			names := make([]string, own)
			for n := range names {
				names[n] = fmt.Sprint("room/", n)
			}
			r := requestOf("newcomer", names...)
			b.Run(fmt.Sprintf("connect with %d, %d topics each", own, each), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					connect(b, h, r).Cancel()
				}
			})
		}
		for _, c := range conns {
			Pending{c}.Cancel()
		}
	}
}
