package caddysse_test

import (
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// metric returns the value of a series of /metrics, or -1 if it does not exist.
func (s *server) metric(series string) float64 {
	s.Helper()
	for line := range strings.Lines(s.api("GET", "/metrics", "").body) {
		if value, ok := strings.CutPrefix(line, series+" "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				s.Fatal(err)
			}
			return v
		}
	}
	return -1
}

// families returns the metrics of this module with their labels.
var families = map[string]string{
	"caddy_sse_connections":                "hub protocol",
	"caddy_sse_users":                      "hub",
	"caddy_sse_connections_opened_total":   "hub",
	"caddy_sse_connections_closed_total":   "hub reason",
	"caddy_sse_events_published_total":     "hub",
	"caddy_sse_publishes_refused_total":    "hub reason",
	"caddy_sse_deliveries_total":           "hub",
	"caddy_sse_bytes_total":                "hub",
	"caddy_sse_replayed_total":             "hub",
	"caddy_sse_gaps_total":                 "hub reason",
	"caddy_sse_rejected_total":             "hub reason",
	"caddy_sse_history_events":             "hub",
	"caddy_sse_history_max_events":         "hub",
	"caddy_sse_history_bytes":              "hub",
	"caddy_sse_history_max_bytes":          "hub",
	"caddy_sse_history_oldest_age_seconds": "hub",
	"caddy_sse_delivery_seconds":           "hub",
	"caddy_sse_lock_wait_seconds":          "hub",
	"caddy_sse_store_connected":            "hub",
	"caddy_sse_store_writable":             "hub",
	"caddy_sse_store_lag_records":          "hub",
	"caddy_sse_store_commit_seconds":       "hub",
}

// TestMetrics: the metrics have their names, labels and values, with two hubs and over reloads,
// also failing ones.
func TestMetrics(t *testing.T) {
	const site = `sse /events {
			anonymous
			max_connections 2
		}
		sse /chat {
			hub chat
			anonymous
		}`
	s := start(t, "sse {\n history 3\n}\nsse chat", site)
	one := s.open("/events")
	for range 5 {
		s.send(`{"text":"x"}`)
		one.expect("x")
	}
	gone := s.open("/events?last_event_id=" + strings.TrimSuffix(one.connected.id, "0") + "1")
	gone.event()
	gone.expect("x", "x", "x")
	do(t, "GET", "http://"+s.http+"/events", "") // is rejected
	gone.close()
	chat := s.open("/chat")
	s.send(`{"text":"y"}`, "?hub=chat")
	chat.expect("y")

	check := func(when string) {
		t.Helper()
		want := map[string]float64{
			`caddy_sse_connections{hub="default",protocol="h1"}`:               1,
			`caddy_sse_connections{hub="chat",protocol="h1"}`:                  1,
			`caddy_sse_connections_opened_total{hub="default"}`:                2,
			`caddy_sse_connections_closed_total{hub="default",reason="gone"}`:  1,
			`caddy_sse_events_published_total{hub="default"}`:                  5,
			`caddy_sse_events_published_total{hub="chat"}`:                     1,
			`caddy_sse_deliveries_total{hub="default"}`:                        8,
			`caddy_sse_deliveries_total{hub="chat"}`:                           1,
			`caddy_sse_replayed_total{hub="default"}`:                          3,
			`caddy_sse_replayed_total{hub="chat"}`:                             0,
			`caddy_sse_gaps_total{hub="default",reason="evicted"}`:             1,
			`caddy_sse_gaps_total{hub="default",reason="epoch"}`:               0,
			`caddy_sse_rejected_total{hub="default",reason="max_connections"}`: 1,
			`caddy_sse_history_events{hub="default"}`:                          3,
			`caddy_sse_history_max_events{hub="default"}`:                      3,
			`caddy_sse_history_max_bytes{hub="chat"}`:                          64 << 20,
			`caddy_sse_users{hub="default"}`:                                   0,
			`caddy_sse_store_connected{hub="default"}`:                         1,
			`caddy_sse_store_writable{hub="default"}`:                          1,
			`caddy_sse_store_lag_records{hub="default"}`:                       0,
			`caddy_sse_store_commit_seconds_count{hub="default"}`:              5,
			`caddy_sse_history_events{hub="chat"}`:                             1,
			`caddy_sse_history_bytes{hub="default"}`:                           float64(s.status("default").Bytes),
			`caddy_sse_delivery_seconds_count{hub="default"}`:                  5,
			`caddy_sse_delivery_seconds_bucket{hub="default",le="+Inf"}`:       5,
		}
		for series, value := range want {
			eventually(t, fmt.Sprintf("%s to be %v %s", series, value, when), func() bool { return s.metric(series) == value })
		}
		if bytes := s.metric(`caddy_sse_bytes_total{hub="default"}`); bytes < 8*20 {
			t.Errorf("%v bytes", bytes)
		}
	}
	check("at first")
	for i := range 3 {
		s.mustLoad(s.site(site))
		check(fmt.Sprintf("after reload %d", i+1))
	}
	if err := s.load(s.site("respond hello\nsse /events {\n hub nope\n}")); err == nil {
		t.Error("a hub that is not there was accepted")
	}
	check("after a reload that failed")

	found := make(map[string]string)
	for _, series := range regexp.MustCompile(`(?m)^(caddy_sse_\w+)\{(.*)\} `).FindAllStringSubmatch(s.api("GET", "/metrics", "").body, -1) {
		name := strings.TrimSuffix(series[1], "_count")
		if strings.HasSuffix(name, "_bucket") || strings.HasSuffix(name, "_sum") {
			continue // of the histogram that has the count
		}
		var labels []string
		for _, pair := range regexp.MustCompile(`(\w+)="`).FindAllStringSubmatch(series[2], -1) {
			labels = append(labels, pair[1])
		}
		found[name] = strings.Join(labels, " ")
	}
	if !maps.Equal(found, families) {
		t.Errorf("families %v, want %v", found, families)
	}
}

// refusals returns the series of refusals, by reason.
var refusals = map[string][]string{
	"caddy_sse_rejected_total": {
		"cannot_stream", "forbidden", "hub_closed", "invalid", "max_connections", "max_connections_per_ip",
		"max_connections_per_user", "shutdown", "starting", "unauthorized",
	},
	"caddy_sse_publishes_refused_total": {"canceled", "cross_origin", "error", "invalid", "not_stored", "too_large", "uncertain"},
	"caddy_sse_connections_closed_total": {
		"disconnected", "expired", "gone", "hub_closed", "lifetime", "polled", "replaced", "shutdown", "timeout",
	},
}

// TestRefusalsAreCounted: each refusal is counted by its reason. The series exist with 0 before.
func TestRefusalsAreCounted(t *testing.T) {
	file := filepath.Join(t.TempDir(), "history.db")
	s := start(t, "sse {\n max_event_size 100\n}\nsse gone {\n store disk "+file+"\n}",
		"test_auth /events\nsse /events {\n topics news\n}\nsse_api /sse/*\nsse /gone {\n hub gone\n anonymous\n}")
	s.status("gone")
	for name, reasons := range refusals {
		for _, reason := range reasons {
			if n := s.metric(fmt.Sprintf("%s{hub=%q,reason=%q}", name, "default", reason)); n != 0 {
				t.Errorf("%s of %s is %v at first", name, reason, n)
			}
		}
	}
	for _, protocol := range []string{"h1", "h2", "h3"} {
		if n := s.metric(fmt.Sprintf("caddy_sse_connections{hub=\"default\",protocol=%q}", protocol)); n != 0 {
			t.Errorf("%v connections over %s at first", n, protocol)
		}
	}
	unknown := s.metric(`caddy_sse_publishes_refused_total{hub="",reason="unknown_hub"}`)
	if unknown < 0 {
		t.Error("there is no series of unknown hubs")
	}

	site := "http://" + s.http
	for _, test := range []struct {
		method, path, body string
		headers            []string
		series             string
	}{
		{"GET", "/events", "", []string{"X-User", ""}, `rejected_total{hub="default",reason="unauthorized"}`},
		{"GET", "/events?topic=secret", "", []string{"X-User", "a"}, `rejected_total{hub="default",reason="forbidden"}`},
		{"GET", "/events?topics=news", "", []string{"X-User", "a"}, `rejected_total{hub="default",reason="invalid"}`},
		{"POST", "/events", "", []string{"X-User", "a"}, `rejected_total{hub="default",reason="invalid"}`},
		{"POST", "/sse/send", `{"text":"no target"}`, nil, `publishes_refused_total{hub="default",reason="invalid"}`},
		{"POST", "/sse/send", `text`, []string{"Content-Type", "text/plain"}, `publishes_refused_total{hub="default",reason="invalid"}`},
		{"POST", "/sse/broadcast", `{"text":"` + strings.Repeat("x", 101) + `"}`, nil, `publishes_refused_total{hub="default",reason="too_large"}`},
		{"POST", "/sse/broadcast?hub=gone", `{"type":"open","text":"x"}`, nil, `publishes_refused_total{hub="gone",reason="invalid"}`},
		{"POST", "/sse/broadcast?hub=nope", `{"text":"x"}`, nil, `publishes_refused_total{hub="",reason="unknown_hub"}`},
		{"POST", "/sse/broadcast", `{"text":"x"}`, []string{"Sec-Fetch-Site", "cross-site"}, `publishes_refused_total{hub="default",reason="cross_origin"}`},
	} {
		before := s.metric("caddy_sse_" + test.series)
		if len(test.headers) == 0 || test.headers[0] != "Content-Type" {
			test.headers = append(test.headers, "Content-Type", "application/json")
		}
		if a := do(t, test.method, site+test.path, test.body, test.headers...); a.status < 400 {
			t.Errorf("%s %s is answered with %d", test.method, test.path, a.status)
		}
		if n := s.metric("caddy_sse_" + test.series); n != before+1 {
			t.Errorf("after %s %s, %s went from %v to %v", test.method, test.path, test.series, before, n)
		}
	}
	if a := s.api("DELETE", "/sse/connections/nobody", ""); a.status != 404 {
		t.Errorf("status %d", a.status)
	}
	if n := s.metric(`caddy_sse_publishes_refused_total{hub="",reason="unknown_hub"}`); n != unknown+1 {
		t.Errorf("%v publishes to unknown hubs, want %v", n, unknown+1)
	}
}

// TestLogsAndEvents: each opening and each end of a stream causes one debug line and one of
// Caddy's events. A publish causes none.
func TestLogsAndEvents(t *testing.T) {
	s := start(t, "events {\n on sse_connected test\n on sse_disconnected test\n}", "test_auth\nsse /events")
	st := s.open("/events", "X-User", "alice")
	for range 10 {
		s.send(`{"text":"payload"}`)
		st.expect("payload")
	}
	// The newest config reports the end, even of streams of earlier configs.
	s.mustLoad(s.site("test_auth\nsse /events"))
	st.close()
	// Streams of earlier tests may end meanwhile.
	linesOf := func(message string) []map[string]any {
		return slices.DeleteFunc(logs.with(t, message), func(line map[string]any) bool { return line["connection"] != st.id })
	}
	eventsOf := func(name string) []emitted {
		return slices.DeleteFunc(recordedEvents(name), func(e emitted) bool { return e.data["connection"] != st.id })
	}
	eventually(t, "the line of the end", func() bool { return len(linesOf("stream closed")) == 1 })
	eventually(t, "the event of the end", func() bool { return len(eventsOf("sse_disconnected")) == 1 })

	lines := append(linesOf("stream opened"), linesOf("stream closed")...)
	events := append(eventsOf("sse_connected"), eventsOf("sse_disconnected")...)
	if len(lines) != 2 || len(events) != 2 {
		t.Fatalf("lines %v, events %v", lines, events)
	}
	for i := range 2 {
		line, data := lines[i], events[i].data
		if line["level"] != "debug" || line["logger"] != "sse" {
			t.Errorf("line %v", line)
		}
		for field, want := range map[string]string{"hub": "default", "connection": st.id, "user": "alice", "protocol": "h1", "remote": "127.0.0.1"} {
			if line[field] != want || data[field] != want {
				t.Errorf("%s is %v in the log and %v in the event, want %s", field, line[field], data[field], want)
			}
		}
	}
	line, data := lines[1], events[1].data
	if line["reason"] != "gone" || line["events"] != 10.0 || line["bytes"].(float64) < 200 || line["duration"].(float64) <= 0 {
		t.Errorf("closed: %v", line)
	}
	if data["reason"] != "gone" || data["events"] != uint64(10) {
		t.Errorf("closed: %v", data)
	}
	if strings.Contains(logs.tail(1<<20), "payload") {
		t.Error("what is published is logged")
	}
}
