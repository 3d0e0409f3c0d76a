package caddysse

import (
	"errors"

	"github.com/caddyserver/caddy/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/ea766355/caddy-sse/hub"
)

// collector reads the open hubs' counters when it is scraped. There is one for
// the whole process, so reloads neither reset nor double anything.
type collector struct{}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("caddy_sse_"+name, help, append([]string{"hub"}, labels...), nil)
}

var (
	connectionsDesc = desc("connections", "Open connections.", "protocol")
	openedDesc      = desc("connections_opened_total", "Connections opened.")
	closedDesc      = desc("connections_closed_total", "Connections that ended.", "reason")
	publishedDesc   = desc("events_published_total", "Events stored.")
	deliveriesDesc  = desc("deliveries_total", "Events written, each once for every connection.")
	bytesDesc       = desc("bytes_total", "Bytes written to streams.")
	replayedDesc    = desc("replayed_total", "Deliveries of events that are older than their connection.")
	gapsDesc        = desc("gaps_total", "Gaps told to clients.", "reason")
	rejectedDesc    = desc("rejected_total", "Connections not admitted.", "reason")
	eventsDesc      = desc("history_events", "Events retained.")
	eventBytesDesc  = desc("history_bytes", "Bytes of the events retained.")
	latencyDesc     = desc("delivery_seconds", "Time from publish to written, of deliveries that are not replayed.")
)

// Describe implements prometheus.Collector.
func (collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		connectionsDesc, openedDesc, closedDesc, publishedDesc, deliveriesDesc, bytesDesc,
		replayedDesc, gapsDesc, rejectedDesc, eventsDesc, eventBytesDesc, latencyDesc,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (collector) Collect(ch chan<- prometheus.Metric) {
	for name, h := range openHubs() {
		s := h.Stats()
		gauge := func(d *prometheus.Desc, value float64, labels ...string) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, append([]string{name}, labels...)...)
		}
		count := func(d *prometheus.Desc, value uint64, labels ...string) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(value), append([]string{name}, labels...)...)
		}
		for protocol, n := range s.Connections {
			gauge(connectionsDesc, float64(n), protocol)
		}
		for reason, n := range s.Closed {
			count(closedDesc, uint64(n), reason)
		}
		for reason, n := range s.Gaps {
			count(gapsDesc, n, reason)
		}
		for reason, n := range s.Rejected {
			count(rejectedDesc, uint64(n), reason)
		}
		count(openedDesc, s.Opened)
		count(publishedDesc, s.Published)
		count(deliveriesDesc, s.Deliveries)
		count(bytesDesc, s.Bytes)
		count(replayedDesc, s.Replayed)
		gauge(eventsDesc, float64(s.Events))
		gauge(eventBytesDesc, float64(s.EventBytes))

		buckets := make(map[float64]uint64)
		var total uint64
		for i, n := range s.Latency {
			total += n
			if i < len(hub.LatencyBuckets) {
				buckets[hub.LatencyBuckets[i].Seconds()] = total
			}
		}
		ch <- prometheus.MustNewConstHistogram(latencyDesc, total, s.LatencySum.Seconds(), buckets, name)
	}
}

// registerMetrics makes the config's registry show the metrics.
func registerMetrics(ctx caddy.Context) error {
	err := ctx.GetMetricsRegistry().Register(collector{})
	if _, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
		return nil
	}
	return err
}
