package hub

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ea766355/caddy-sse/internal/netyield"
)

// A publisher of a large batch gives way to goroutines that wait for the network. So does a store
// that delivers one.
func TestLargeBatchGivesWay(t *testing.T) {
	events := largeBatch(300)
	records := make([]Record, len(events))
	for i := range events {
		records[i] = Record{uint64(i + 1), time.Now(), encodeEvent(&events[i])}
	}
	for name, work := range map[string]func(*Hub) error{
		"publish": func(h *Hub) error { _, err := h.Publish(t.Context(), events...); return err },
		"deliver": func(h *Hub) error { feed{h}.Deliver(records); return nil },
	} {
		h := newHub(t, Options{})
		before := netyield.Count.Load()
		if err := work(h); err != nil {
			t.Fatal(err)
		}
		if n := netyield.Count.Load() - before; n < 5 {
			t.Errorf("%s: a batch with %d targets gave way %d times", name, len(events)*MaxTargets, n)
		}
	}
}

// A delivery does not give way after its last record: its store may hold a lock that publishers
// wait for. The store in memory does, and gives way itself.
func TestDeliveryOfOneEventKeepsTheCPU(t *testing.T) {
	h := newHub(t, Options{MaxBytes: 256 << 20})
	event := largeBatch(1)[0]
	for i := range event.Targets {
		event.Targets[i].Name = strings.Repeat("n", MaxNameLength-4) + event.Targets[i].Name[len("user "):]
	}
	data := encodeEvent(&event)
	before := netyield.Count.Load()
	for seq := range uint64(50) {
		feed{h}.Deliver([]Record{{seq + 1, time.Now(), data}})
	}
	if n := netyield.Count.Load() - before; n > 0 {
		t.Errorf("deliveries of one event gave way %d times, want 0", n)
	}
}

// largeBatch returns events with as many targets as an event may have.
func largeBatch(n int) []Event {
	targets := make([]Target, MaxTargets)
	for i := range targets {
		targets[i] = user(fmt.Sprint("user ", i))
	}
	return slices.Repeat([]Event{{Data: []byte("1"), Targets: targets}}, n)
}

// The store in memory delivers events with many targets one by one, because it gives way only
// between two deliveries. Small events share a delivery.
func TestMemoryDeliversManyTargetsAlone(t *testing.T) {
	for want, event := range map[int]Event{1: largeBatch(1)[0], 10: {Data: []byte("1"), Targets: []Target{user("alice")}}} {
		m := NewMemory()
		var feed longestDelivery
		ctx, stop := context.WithCancel(t.Context())
		var tail sync.WaitGroup
		tail.Go(func() { m.Tail(ctx, &feed) })
		entries := make([]Entry, 10)
		for i := range entries {
			entries[i] = Entry{fmt.Sprint("key ", i), encodeEvent(&event)}
		}
		if _, err := m.Append(ctx, entries); err != nil {
			t.Fatal(err)
		}
		stop()
		tail.Wait()
		if int(feed) != want {
			t.Errorf("the longest delivery has %d events with %d targets each, want %d", feed, len(event.Targets), want)
		}
	}
}

// longestDelivery is a feed that remembers the number of records in its longest delivery.
type longestDelivery int

func (*longestDelivery) Begin(string, uint64) (p Position) { return p }
func (*longestDelivery) Status(error, uint64)              {}
func (d *longestDelivery) Deliver(records []Record)        { *d = max(*d, longestDelivery(len(records))) }
