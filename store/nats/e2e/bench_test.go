package e2e_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ea766355/caddy-sse/e2e"
	"github.com/ea766355/caddy-sse/store/nats/natstest"
)

// kinds are the stores to compare: NATS with two nodes, the others with one.
var kinds = []struct {
	name    string
	servers int
	store   string
}{
	{"memory", 0, ""},
	{"disk", 0, "store disk"},
	{"nats-1-server", 1, "store nats {\n url %s\n}"},
	{"nats-3-servers", 3, "store nats {\n url %s\n replicas 3\n}"},
}

// padding makes an event about 256 bytes long.
const padding = 220

// nodes starts the servers of a kind. It returns the node to publish to and the node of the clients.
func nodes(b *testing.B, servers int, store string) (here, there *e2e.Server) {
	b.Helper()
	config := e2e.Config{Hub: "history 1000000\n history_size 1GiB\n" + store}
	if servers == 0 {
		here = e2e.Start(b, config)
		return here, here
	}
	config.Hub = fmt.Sprintf(config.Hub, strings.Join(natstest.Start(b, servers).URLs(), " "))
	return e2e.Start(b, config), e2e.Start(b, config)
}

// BenchmarkDelivery publishes one event after the other over HTTP. It measures the time from the request
// until a client has the event, on the other node if there are two.
func BenchmarkDelivery(b *testing.B) {
	for _, kind := range kinds {
		here, there := nodes(b, kind.servers, kind.store)
		b.Run(kind.name, func(b *testing.B) {
			p := here.Publisher()
			f := e2e.Follow(b, there.Client(e2e.H1), e2e.Identity{})
			e2e.AwaitOpen(b, []*e2e.Follower{f})
			for b.Loop() {
				if err := p.Publish(b.Context(), e2e.Event{Size: padding}); err != nil {
					b.Fatal(err)
				}
			}
			e2e.AwaitAll(b, p.Ledger, []*e2e.Follower{f})
			took := make([]time.Duration, 0, p.Ledger.Len())
			sent := p.Ledger.Entries()
			for i, r := range f.Received() {
				took = append(took, r.At.Sub(sent[i].Sent))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
		})
	}
}

// BenchmarkPublish publishes over HTTP to a node without clients: one event per request, or a batch.
func BenchmarkPublish(b *testing.B) {
	for _, kind := range kinds {
		here, _ := nodes(b, kind.servers, kind.store)
		for _, c := range []struct{ publishers, batch int }{{1, 1}, {64, 1}, {1, 100}, {8, 100}} {
			name := kind.name + "/publishers=" + strconv.Itoa(c.publishers) + "/batch=" + strconv.Itoa(c.batch)
			b.Run(name, func(b *testing.B) {
				p := here.Publisher()
				turns := make(chan struct{})
				var publishing sync.WaitGroup
				for range c.publishers {
					publishing.Go(func() {
						for range turns {
							if err := p.Publish(b.Context(), slices.Repeat([]e2e.Event{{Size: padding}}, c.batch)...); err != nil {
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
				b.ReportMetric(float64(b.N*c.batch)/b.Elapsed().Seconds(), "events/s")
			})
		}
	}
}

// BenchmarkReceive measures the cost of an event for a node without clients: CPU time, and bytes from NATS.
func BenchmarkReceive(b *testing.B) {
	const batch = 100
	servers := natstest.Start(b, 1)
	proxy := natstest.NewProxy(b, servers.URLs()[0])
	config := func(url string) e2e.Config {
		return e2e.Config{Hub: fmt.Sprintf("history 1000000\n history_size 1GiB\n store nats {\n url %s\n}", url)}
	}
	here, there := e2e.Start(b, config(servers.URLs()[0])), e2e.Start(b, config(proxy.URL()))
	b.Run("256-bytes", func(b *testing.B) {
		p := here.Publisher()
		used, passed := there.CPU(), proxy.Passed.Load()
		for b.Loop() {
			if err := p.Publish(b.Context(), slices.Repeat([]e2e.Event{{Size: padding}}, batch)...); err != nil {
				b.Fatal(err)
			}
		}
		e2e.Wait(b, e2e.Patience, "the other node", func() error {
			if got, want := there.Status().Head, here.Status().Head; got != want {
				return fmt.Errorf("it is at %s of %s", got, want)
			}
			return nil
		})
		events := float64(b.N * batch)
		b.ReportMetric(float64((there.CPU()-used).Microseconds())/events, "cpu-µs/event")
		b.ReportMetric(float64(proxy.Passed.Load()-passed)/events, "B/event")
	})
}
