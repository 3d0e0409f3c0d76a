package natsstore

import (
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ea766355/caddy-sse/hub"
	"github.com/ea766355/caddy-sse/store/nats/natstest"
)

// BenchmarkOtherNode measures the time from Append on one node to the delivery on another.
func BenchmarkOtherNode(b *testing.B) {
	for _, replicas := range []int{1, 3} {
		servers := natstest.Start(b, replicas)
		b.Run("servers="+strconv.Itoa(replicas), func(b *testing.B) {
			stream := newStream()
			here := startNode(b, stream, replicas, someOptions, servers.URLs()...)
			there := startNode(b, stream, replicas, someOptions, servers.URLs()...)
			there.upTo(here.publish("first"))
			var took []time.Duration
			for b.Loop() {
				began := time.Now()
				there.upTo(here.publish(strings.Repeat("x", 256)))
				took = append(took, time.Since(began))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
		})
	}
}

// BenchmarkAppend stores events of 256 bytes, on one server and on three, alone or in batches of 100,
// from 1 and from 64 goroutines.
func BenchmarkAppend(b *testing.B) {
	for _, replicas := range []int{1, 3} {
		servers := natstest.Start(b, replicas)
		for _, size := range []int{1, 100} {
			for _, publishers := range []int{1, 64} {
				name := "servers=" + strconv.Itoa(replicas) + "/batch=" + strconv.Itoa(size) + "/publishers=" + strconv.Itoa(publishers)
				b.Run(name, func(b *testing.B) {
					n := startNode(b, newStream(), replicas, someOptions, servers.URLs()...)
					n.publish("first")
					turns := make(chan struct{})
					var publishing sync.WaitGroup
					for range publishers {
						publishing.Go(func() {
							for range turns {
								batch := make([]hub.Entry, size)
								for i := range batch {
									batch[i] = entry(strings.Repeat("x", 256), "")
								}
								if _, err := n.Append(b.Context(), batch); err != nil {
									b.Error(err)
								}
							}
						})
					}
					for b.Loop() {
						turns <- struct{}{}
					}
					close(turns)
					publishing.Wait()
					b.ReportMetric(float64(b.N*size)/b.Elapsed().Seconds(), "events/s")
				})
			}
		}
	}
}
