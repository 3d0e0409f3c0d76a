package disk

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ea766355/caddy-sse/hub"
)

// BenchmarkPublish publishes events of 256 bytes, each with a key, to a hub with default
// bounds. A publish is answered after fsync.
func BenchmarkPublish(b *testing.B) {
	for _, kind := range []string{"disk", "memory"} {
		for _, publishers := range []int{1, 64} {
			b.Run(kind+"/"+strconv.Itoa(publishers), func(b *testing.B) {
				path := filepath.Join(b.TempDir(), "history.db")
				var store hub.Store = hub.NewMemory()
				if kind == "disk" {
					store = mustOpen(b, path)
				}
				publish(b, store, publishers, 1)
				if info, err := os.Stat(path); err == nil {
					b.ReportMetric(float64(info.Size())/1e6, "MB")
				}
			})
		}
	}
}

// BenchmarkBatch publishes a hundred events at a time.
func BenchmarkBatch(b *testing.B) {
	publish(b, mustOpen(b, filepath.Join(b.TempDir(), "history.db")), 8, 100)
}

// publish measures publishers that publish batches to a full history.
func publish(b *testing.B, store hub.Store, publishers, batch int) {
	h := hub.New(hub.Options{})
	if err := h.Use(store); err != nil {
		b.Fatal(err)
	}
	data := bytes.Repeat([]byte("x"), 256)
	ctx := context.Background()
	// Fill the history, so that each published event drops one.
	full := slices.Repeat([]hub.Event{{Data: data, Targets: []hub.Target{{Kind: hub.All}}}}, 1000)
	for range 2 * hub.DefaultMaxEvents / len(full) {
		if _, err := h.Publish(ctx, full...); err != nil {
			b.Fatal(err)
		}
		for i := range full {
			full[i].Key = ""
		}
	}
	b.ReportAllocs()
	b.ResetTimer()
	var next atomic.Int64
	var wg sync.WaitGroup
	start := time.Now()
	for range publishers {
		wg.Go(func() {
			events := make([]hub.Event, batch)
			for {
				n := next.Add(int64(batch))
				if n-int64(batch) >= int64(b.N) {
					return
				}
				for i := range events {
					key := "0192f0c4-7e4f-7c1a-b5b2-" + strconv.FormatInt(100_000_000_000+n-int64(i), 10)
					events[i] = hub.Event{Data: data, Key: key, Targets: []hub.Target{{Kind: hub.User, Name: "alice"}}}
				}
				if _, err := h.Publish(ctx, events...); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(next.Load())/time.Since(start).Seconds(), "events/s")
	b.StopTimer()
	if err := h.Close(); err != nil {
		b.Fatal(err)
	}
}
