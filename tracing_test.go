package caddysse_test

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	caddysse "github.com/ea766355/caddy-sse"
	"github.com/ea766355/caddy-sse/hub"
	"github.com/ea766355/caddy-sse/store/disk"
)

// spanReceiver receives spans by OTLP over HTTP and keeps them.
type spanReceiver struct {
	mu   sync.Mutex
	kept []*trace.Span
}

// receiveSpans makes Caddy's directive tracing send its spans to a receiver, until the test
// ends.
func receiveSpans(t *testing.T) *spanReceiver {
	r := new(spanReceiver)
	endpoint := httptest.NewServer(r)
	t.Cleanup(endpoint.Close)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.URL)
	t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "50") // milliseconds
	return r
}

func (r *spanReceiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	var export collector.ExportTraceServiceRequest
	if err != nil || req.URL.Path != "/v1/traces" || proto.Unmarshal(body, &export) != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, resource := range export.ResourceSpans {
		for _, scope := range resource.ScopeSpans {
			r.kept = append(r.kept, scope.Spans...)
		}
	}
}

// named returns the spans with this name of a trace. An empty trace stands for all.
func (r *spanReceiver) named(name, traceID string) (spans []*trace.Span) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, span := range r.kept {
		if span.Name == name && (traceID == "" || hex.EncodeToString(span.TraceId) == traceID) {
			spans = append(spans, span)
		}
	}
	return spans
}

// await waits until a trace has n spans with this name, and returns them.
func (r *spanReceiver) await(t *testing.T, n int, name, traceID string) []*trace.Span {
	t.Helper()
	eventually(t, fmt.Sprintf("%d spans %q", n, name), func() bool { return len(r.named(name, traceID)) == n })
	return r.named(name, traceID)
}

// attributesOf returns the attributes of a span as text.
func attributesOf(s *trace.Span) string {
	attributes := make(map[string]string)
	for _, a := range s.Attributes {
		attributes[a.Key] = fmt.Sprint(a.Value.GetIntValue())
		if text := a.Value.GetStringValue(); text != "" {
			attributes[a.Key] = text
		}
	}
	return fmt.Sprint(attributes)
}

// parentSpan is the span of the publishers in these tests.
const parentSpan = "00f067aa0ba902b7"

// publishIn broadcasts a body as a part of a trace.
func publishIn(t *testing.T, traceID, flags, addr, body string, contentType ...string) answer {
	t.Helper()
	return do(t, "POST", "http://"+addr+"/sse/broadcast", body,
		"Content-Type", append(contentType, "application/json")[0], "Traceparent", "00-"+traceID+"-"+parentSpan+"-"+flags)
}

// TestTracing: a publish is a span, and its delivery is one more, however many connections
// there are and however they are written to. A batch is one publish, and a delivery for each
// event. The parent is the request on a route with the directive tracing, and
// the span of the publisher on the admin endpoint. Traces that are not sampled have no
// spans. A refused publish is a span with an error. A reload without the directive ends the spans, and
// one with it begins them again.
func TestTracing(t *testing.T) {
	spans := receiveSpans(t)
	untraced := "sse_api /sse/*\n" + bothWays("")
	s := start(t, "", "tracing\n"+untraced)
	streams := []*stream{s.open("/events"), s.open("/events"), s.open("/kept")}
	publish := func(name, flags, addr string) (traceID, id string) {
		t.Helper()
		traceID = strings.Repeat(name, 32)
		a := publishIn(t, traceID, flags, addr, `{"text":"`+name+`"}`)
		if a.status != http.StatusOK {
			t.Fatalf("%d %s", a.status, a.body)
		}
		for _, st := range streams {
			st.expect(name)
		}
		return traceID, decode[receipt](t, a.body).ID
	}
	check := func(name, addr string) {
		t.Helper()
		traceID, id := publish(name, "01", addr)
		d, p := spans.await(t, 1, "sse deliver", traceID)[0], spans.await(t, 1, "sse publish", traceID)[0]
		parent := parentSpan
		if addr == s.http {
			parent = hex.EncodeToString(spans.await(t, 1, "handler", traceID)[0].SpanId)
		}
		if got := hex.EncodeToString(p.ParentSpanId); got != parent {
			t.Errorf("the parent of the publish is %s, want %s", got, parent)
		}
		if string(d.ParentSpanId) != string(p.SpanId) {
			t.Errorf("the parent of the delivery is %x, and the publish is %x", d.ParentSpanId, p.SpanId)
		}
		if got, want := attributesOf(p), fmt.Sprint(map[string]string{"sse.hub": "default", "sse.events": "1", "sse.id": id}); got != want {
			t.Errorf("attributes of the publish: %s, want %s", got, want)
		}
		if got, want := attributesOf(d), fmt.Sprint(map[string]string{"sse.hub": "default", "sse.deliveries": "3", "sse.id": id}); got != want {
			t.Errorf("attributes of the delivery: %s, want %s", got, want)
		}
		if p.Kind != trace.Span_SPAN_KIND_PRODUCER || d.Kind != trace.Span_SPAN_KIND_CONSUMER {
			t.Errorf("the kinds are %s and %s", p.Kind, d.Kind)
		}
		if d.StartTimeUnixNano < p.StartTimeUnixNano || d.EndTimeUnixNano < d.StartTimeUnixNano {
			t.Errorf("the delivery is from %d to %d, and the publish began at %d", d.StartTimeUnixNano, d.EndTimeUnixNano, p.StartTimeUnixNano)
		}
	}

	check("a", s.http)
	check("b", s.admin)

	batch := strings.Repeat("c", 32)
	publishIn(t, batch, "01", s.admin, `{"text":"1"}`+"\n"+`{"text":"2"}`, "application/x-ndjson")
	for _, st := range streams {
		st.expect("1", "2")
	}
	spans.await(t, 2, "sse deliver", batch)
	if p := spans.await(t, 1, "sse publish", batch)[0]; !strings.Contains(attributesOf(p), "sse.events:2") {
		t.Errorf("attributes of a batch: %s", attributesOf(p))
	}

	refused := strings.Repeat("d", 32)
	if a := publishIn(t, refused, "01", s.admin, `{"text":"1","type":"sse.x"}`); a.status != http.StatusBadRequest {
		t.Errorf("a reserved type is answered with %d", a.status)
	}
	if p := spans.await(t, 1, "sse publish", refused)[0]; p.Status.GetCode() != trace.Status_STATUS_CODE_ERROR || !strings.Contains(p.Status.Message, "reserved") {
		t.Errorf("the status of a refused publish is %v", p.Status)
	}

	publish("e", "00", s.http)
	publish("e", "00", s.admin)
	s.mustLoad(s.site(untraced)) // the spans before are sent now
	if n := len(spans.named("sse publish", "")) + len(spans.named("sse deliver", "")); n != 4+4 {
		t.Errorf("%d spans, want 8: a trace that is not sampled must have none", n)
	}
	publish("f", "01", s.http)
	publish("f", "01", s.admin)

	s.mustLoad(s.site("tracing\n" + untraced))
	publish("9", "01", s.admin) // no request has passed the directive yet
	check("1", s.http)
	check("2", s.admin)
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	for _, traceID := range []string{strings.Repeat("f", 32), strings.Repeat("9", 32)} {
		if n := len(spans.named("sse publish", traceID)) + len(spans.named("sse deliver", traceID)); n > 0 {
			t.Errorf("%d spans while tracing is off", n)
		}
	}
}

// lateDisk is a history on disk whose node lags: the history is open at once, and its records
// come when release is closed.
type lateDisk struct{ disk.Disk }

// releaseLateDisk is the release of the stores that are opened from now on.
var releaseLateDisk chan struct{}

func init() { caddy.RegisterModule(lateDisk{}) }

func (lateDisk) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "sse.stores.late_disk", New: func() caddy.Module { return new(lateDisk) }}
}

func (d *lateDisk) UnmarshalCaddyfile(t *caddyfile.Dispenser) error {
	return d.Disk.UnmarshalCaddyfile(t)
}

func (d *lateDisk) Open(hubName string) (hub.Store, error) {
	s, err := d.Disk.Open(hubName)
	return lateStore{s, releaseLateDisk}, err
}

type lateStore struct {
	hub.Store
	release chan struct{}
}

func (s lateStore) Tail(ctx context.Context, feed hub.Feed) {
	s.Store.Tail(ctx, lateFeed{feed, s.release})
}

type lateFeed struct {
	hub.Feed
	release chan struct{}
}

func (f lateFeed) Begin(epoch string, oldest uint64) hub.Position {
	have := f.Feed.Begin(epoch, oldest)
	f.Status(nil, 0)
	return have
}

func (f lateFeed) Deliver(records []hub.Record) {
	<-f.release
	f.Feed.Deliver(records)
}

// TestTraceIsKeptOnDisk: an event that is delivered after a restart is a part of the trace that
// it was published in before. The spans of a process are sent when it stops.
func TestTraceIsKeptOnDisk(t *testing.T) {
	spans := receiveSpans(t)
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "3600000")
	file := filepath.Join(t.TempDir(), "history.db")
	const site = "tracing\nsse_api /sse/*\nsse /events {\n anonymous\n}\n"
	traceID := strings.Repeat("a", 32)
	s := start(t, "sse {\n store disk "+file+"\n}", site)
	if a := publishIn(t, traceID, "01", s.http, `{"text":"x"}`); a.status != http.StatusOK {
		t.Fatalf("%d %s", a.status, a.body)
	}
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	caddysse.EndGraces() // else the next config gets the hub with its history
	if n := len(spans.named("sse publish", traceID)); n != 1 {
		t.Fatalf("%d spans of the publish were sent when Caddy stopped", n)
	}

	releaseLateDisk = make(chan struct{})
	s.global = "sse {\n store late_disk " + file + "\n}"
	s.mustLoad(s.site(site))
	st := s.open("/events")
	close(releaseLateDisk)
	st.expect("x")
	caddysse.Exit(t)
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	delivered := spans.named("sse deliver", traceID)
	if len(delivered) != 1 || string(delivered[0].ParentSpanId) != string(spans.named("sse publish", traceID)[0].SpanId) {
		t.Errorf("the deliveries are %v", delivered)
	}
}
