package caddysse

import (
	"context"
	"net/http"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/ea766355/caddy-sse/hub"
)

// With Caddy's directive tracing, a publish is a span. Its context is stored with each
// event, and each node adds one span for the delivery of the event.

// tracerProvider is that of Caddy's directive. Caddy has no way to ask for it, but the span
// of each request that passes the directive knows it. It is nil until the first such
// request. When the config of the directive ends, Caddy shuts it down, and it records
// nothing any more.
var tracerProvider atomic.Pointer[sdk.TracerProvider]

// learnTracerProvider remembers the tracer provider of a request's span, whether the span
// is sampled or not.
func learnTracerProvider(ctx context.Context) {
	if p, ok := trace.SpanFromContext(ctx).TracerProvider().(*sdk.TracerProvider); ok && tracerProvider.Load() != p {
		tracerProvider.Store(p)
	}
}

// tracer returns a tracer, which records nothing if there is no tracer provider.
func tracer() trace.Tracer {
	if p := tracerProvider.Load(); p != nil {
		return p.Tracer("github.com/ea766355/caddy-sse")
	}
	return noop.Tracer{}
}

// traceContext reads and writes the W3C headers traceparent and tracestate.
var traceContext propagation.TraceContext

// traceOf returns the context of a request with its trace. The admin endpoint has no
// directive tracing, so there the header of the request names the trace.
func traceOf(r *http.Request) context.Context {
	ctx := r.Context()
	if r.Header["Traceparent"] == nil || trace.SpanContextFromContext(ctx).IsValid() {
		return ctx
	}
	return traceContext.Extract(ctx, propagation.HeaderCarrier(r.Header))
}

// publishTraced publishes. If the context has a trace that is sampled, the publish is a
// span of it, and each event is stored with the context of that span.
func (h *pooledHub) publishTraced(ctx context.Context, events []hub.Event) ([]hub.Receipt, error) {
	learnTracerProvider(ctx)
	for i := range events {
		events[i].Trace = "" // the caller may publish the same events again
	}
	if !trace.SpanContextFromContext(ctx).IsSampled() {
		return h.Publish(ctx, events...)
	}
	ctx, span := tracer().Start(ctx, "sse publish", trace.WithSpanKind(trace.SpanKindProducer),
		trace.WithAttributes(attribute.String("sse.hub", h.name), attribute.Int("sse.events", len(events))))
	defer span.End()
	if span.IsRecording() {
		header := make(propagation.MapCarrier)
		traceContext.Inject(ctx, header)
		for i := range events {
			events[i].Trace = header["traceparent"]
		}
	}
	receipts, err := h.Publish(ctx, events...)
	if err != nil {
		span.SetStatus(codes.Error, err.Error())
		return nil, err
	}
	span.SetAttributes(attribute.String("sse.id", receipts[0].Position.String()))
	return receipts, nil
}

// traceDelivery adds the span of a delivery to the trace of its event.
func (h *pooledHub) traceDelivery(d hub.Delivery) {
	ctx := traceContext.Extract(context.Background(), propagation.MapCarrier{"traceparent": d.Trace})
	if !trace.SpanContextFromContext(ctx).IsSampled() { // another program has stored the event
		return
	}
	_, span := tracer().Start(ctx, "sse deliver", trace.WithSpanKind(trace.SpanKindConsumer), trace.WithTimestamp(d.First),
		trace.WithAttributes(attribute.String("sse.hub", h.name), attribute.String("sse.id", d.Position.String()),
			attribute.Int("sse.deliveries", d.Writes)))
	span.End(trace.WithTimestamp(d.Last))
}
