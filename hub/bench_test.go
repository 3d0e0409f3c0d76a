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

// The publisher of a broadcast encodes once, and leaves the waking to others.
func BenchmarkPublishBroadcast(b *testing.B) {
	for _, listeners := range []int{1, 100, 10_000} {
		b.Run(fmt.Sprint("listeners=", listeners), func(b *testing.B) {
			h := newHub(b, Options{})
			for i := range listeners {
				connect(b, h, requestOf(fmt.Sprint(i)))
			}
			b.ReportAllocs()
			for b.Loop() {
				mustPublish(b, h, Target{})
			}
		})
	}
}

// One user among many costs as much as one among few.
func BenchmarkPublishToOneUser(b *testing.B) {
	for _, users := range []int{100, 100_000} {
		b.Run(fmt.Sprint("users=", users), func(b *testing.B) {
			h := newHub(b, Options{})
			for i := range users {
				connect(b, h, requestOf(fmt.Sprint(i)))
			}
			runtime.GC() // what was opened is not to be marked while it is measured
			b.ReportAllocs()
			for b.Loop() {
				mustPublish(b, h, user("42"))
			}
		})
	}
}

// Replay costs what was missed, and not what is retained.
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

// From publish to flushed, through Open and Serve.
func BenchmarkDeliver(b *testing.B) {
	h := newHub(b, Options{})
	w, stop := deliverer(b, h)
	defer stop()
	b.ReportAllocs()
	for b.Loop() {
		mustPublish(b, h, Target{})
		<-w.flushed
	}
}

// What a delivery costs beyond the publish: one look-up and one write.
func BenchmarkCatchUp(b *testing.B) {
	h := newHub(b, Options{})
	c := catcher(b, h)
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

// deliverer is a stream that is being served.
func deliverer(t testing.TB, h *Hub) (w *discard, stop func()) {
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

// catcher is a stream that has been opened, and has nothing to do.
func catcher(t testing.TB, h *Hub) *Conn {
	for range 10 {
		mustPublish(t, h, Target{})
	}
	c := connect(t, h, requestOf("alice")).Conn
	c.catchUp(&discard{})
	return c
}

// raceEnabled: under the race detector a sync.Pool forgets at random.
var raceEnabled = func() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}()

func TestDeliveryAllocatesNothing(t *testing.T) {
	h := newHub(t, Options{})
	c, w := catcher(t, h), &discard{}
	var bound float64
	if raceEnabled {
		bound = 3 // a batch, if the pool forgot it, and its slices
	}
	for _, events := range []uint64{1, 5} {
		allocs := testing.AllocsPerRun(1000, func() {
			c.cursor.Store(h.history.head - events)
			c.catchUp(w)
		})
		if allocs > bound {
			t.Errorf("%v allocations to deliver %d events", allocs, events)
		}
	}
	if n, _ := c.Sent(); n != 1001*6 {
		t.Errorf("delivered %d events", n)
	}
}

// BenchmarkGrants is what 10,000 connections with granted topics cost others: a publish
// to one topic that 100 of them have, and a connection that comes and goes.
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
