package caddysse

import (
	"errors"

	"github.com/caddyserver/caddy/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/ea766355/caddy-sse/hub"
)

// collector reads the counters of the open hubs when Prometheus scrapes it. The process has
// one collector, so a reload neither resets nor doubles a metric.
type collector struct{}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("caddy_sse_"+name, help, append([]string{"hub"}, labels...), nil)
}

var (
	connectionsDesc = desc("connections", "Open connections.", "protocol")
	usersDesc       = desc("users", "Users with an open connection to this node.")
	openedDesc      = desc("connections_opened_total", "Connections opened.")
	closedDesc      = desc("connections_closed_total", "Connections that ended.", "reason")
	rejectedDesc    = desc("rejected_total", "Streams refused.", "reason")
	publishedDesc   = desc("events_published_total", "Events stored.")
	refusedDesc     = desc("publishes_refused_total", "Requests to publish that were refused, batches once. The hub is empty if there is none of that name.", "reason")
	deliveriesDesc  = desc("deliveries_total", "Events written, each once for every connection.")
	bytesDesc       = desc("bytes_total", "Bytes written to streams.")
	replayedDesc    = desc("replayed_total", "Deliveries of events that are older than their connection.")
	gapsDesc        = desc("gaps_total", "Gaps told to clients.", "reason")
	latencyDesc     = desc("delivery_seconds", "Time from publish to written, of deliveries that are not replayed.")
	waitsDesc       = desc("lock_wait_seconds", "Time that changes of the hub waited for its lock, of those that had to wait.")

	eventsDesc    = desc("history_events", "Events retained.")
	maxEventsDesc = desc("history_max_events", "The bound of the events retained (option history).")
	heapDesc      = desc("history_bytes", "Bytes of the heap that the history takes.")
	maxHeapDesc   = desc("history_max_bytes", "The bound of these bytes (option history_size).")
	ageDesc       = desc("history_oldest_age_seconds", "Age of the oldest event retained, 0 if there is none.")

	connectedDesc = desc("store_connected", "Whether the store can be reached: 1 or 0.")
	writableDesc  = desc("store_writable", "Whether the store can be written, as far as is known: 1 or 0.")
	lagDesc       = desc("store_lag_records", "Records of the store that this node has yet to receive.")
	commitsDesc   = desc("store_commit_seconds", "Time that the store took to store what was published at once.")
)

// Describe implements prometheus.Collector.
func (collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		connectionsDesc, usersDesc, openedDesc, closedDesc, rejectedDesc, publishedDesc, refusedDesc, deliveriesDesc,
		bytesDesc, replayedDesc, gapsDesc, latencyDesc, waitsDesc, eventsDesc, maxEventsDesc, heapDesc, maxHeapDesc,
		ageDesc, connectedDesc, writableDesc, lagDesc, commitsDesc,
	} {
		ch <- d
	}
}

// protocols have a metric also before they have a connection.
var protocols = []string{"h1", "h2", "h3"}

// Collect implements prometheus.Collector.
func (collector) Collect(ch chan<- prometheus.Metric) {
	ch <- prometheus.MustNewConstMetric(refusedDesc, prometheus.CounterValue, float64(unknownHubs.Load()), "", "unknown_hub")
	for name, h := range openHubs() {
		h.collect(ch, name)
	}
}

func (h *pooledHub) collect(ch chan<- prometheus.Metric, name string) {
	s := h.Stats()
	store := h.storeStatus(s)
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, append([]string{name}, labels...)...)
	}
	count := func(d *prometheus.Desc, value uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(value), append([]string{name}, labels...)...)
	}
	histogram := func(d *prometheus.Desc, h hub.Histogram) {
		buckets := make(map[float64]uint64)
		var total uint64
		for i, n := range h.Counts {
			total += n
			if i < len(hub.LatencyBuckets) {
				buckets[hub.LatencyBuckets[i].Seconds()] = total
			}
		}
		ch <- prometheus.MustNewConstHistogram(d, total, h.Sum.Seconds(), buckets, name)
	}
	boolGauge := func(d *prometheus.Desc, is bool) {
		value := 0.0
		if is {
			value = 1
		}
		gauge(d, value)
	}

	for _, protocol := range protocols {
		s.Connections[protocol] += 0
	}
	for protocol, n := range s.Connections {
		gauge(connectionsDesc, float64(n), protocol)
	}
	gauge(usersDesc, float64(s.Users))
	count(openedDesc, s.Opened)
	for reason, n := range s.Closed {
		count(closedDesc, uint64(n), reason)
	}
	for reason, n := range s.Rejected {
		count(rejectedDesc, uint64(n), reason)
	}
	for reason, n := range h.streamsRefused {
		count(rejectedDesc, n.Load(), reason)
	}
	count(publishedDesc, s.Published)
	for reason, n := range h.publishesRefused {
		count(refusedDesc, n.Load(), reason)
	}
	count(deliveriesDesc, s.Deliveries)
	count(bytesDesc, s.Bytes)
	count(replayedDesc, s.Replayed)
	for reason, n := range s.Gaps {
		count(gapsDesc, n, reason)
	}
	histogram(latencyDesc, s.Latency)
	histogram(waitsDesc, s.Waits)

	gauge(eventsDesc, float64(s.Events))
	gauge(maxEventsDesc, float64(s.MaxEvents))
	gauge(heapDesc, float64(s.EventBytes))
	gauge(maxHeapDesc, float64(s.MaxBytes))
	gauge(ageDesc, s.OldestAge.Seconds())

	boolGauge(connectedDesc, store.Connected)
	boolGauge(writableDesc, store.Writable)
	gauge(lagDesc, float64(store.Lag))
	histogram(commitsDesc, s.Commits)
}

// registerMetrics registers the metrics in the registry of the config.
func registerMetrics(ctx caddy.Context) error {
	err := ctx.GetMetricsRegistry().Register(collector{})
	if _, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
		return nil
	}
	return err
}
