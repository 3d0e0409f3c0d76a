package caddysse

import (
	"context"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/ea766355/caddy-sse/hub"
)

// report says that a stream was opened or closed. It becomes one debug log line and one
// event of Caddy's app events.
type report struct {
	message, event string
	fields         []zap.Field
}

// reports is the reporter of the process.
var reports = newReporter()

// reporter emits reports in order, from one goroutine. Handlers of Caddy's events are code
// of others: they may be slow, or wait for a lock that Caddy holds while it changes its
// config. So no stream and no reload waits for them.
type reporter struct {
	newestApp atomic.Pointer[App] // the app that came into force last, also after it has stopped; it emits the reports

	mu          sync.Mutex
	queue       []report
	runDone     chan struct{}          // closed when the queue is empty; nil if no goroutine emits
	unreported  map[*hub.Conn]struct{} // open connections whose opening was not reported
	overflowing bool                   // the overflow is logged; false again when the queue is empty
}

// maxReports is the most reports in the queue. When the queue is full, new streams are not
// reported, neither their opening nor their end.
var maxReports = 1 << 16

func newReporter() *reporter { return &reporter{unreported: make(map[*hub.Conn]struct{})} }

// opened reports a new stream.
func (r *reporter) opened(hubName string, conn *hub.Conn) {
	a := r.newestApp.Load()
	if a == nil || !a.wantsReport("sse_connected") && !a.wantsReport("sse_disconnected") {
		return
	}
	r.mu.Lock()
	first := false
	if len(r.queue) < maxReports {
		r.add(report{"stream opened", "sse_connected", fieldsOf(hubName, conn)})
	} else {
		r.unreported[conn] = struct{}{}
		first, r.overflowing = !r.overflowing, true
	}
	r.mu.Unlock()
	if first {
		a.logger.Error("new streams are not reported, because the queue of reports is full: make the handlers of Caddy's events faster",
			zap.Int("waiting", maxReports))
	}
}

// closed reports the end of a stream whose opening was reported.
func (r *reporter) closed(hubName string, conn *hub.Conn, reason hub.Reason) {
	a := r.newestApp.Load()
	wanted := a != nil && a.wantsReport("sse_disconnected")
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.unreported[conn]; ok {
		delete(r.unreported, conn)
		return
	}
	if !wanted {
		return
	}
	events, bytes := conn.Sent()
	r.add(report{"stream closed", "sse_disconnected", append(fieldsOf(hubName, conn),
		zap.String("reason", string(reason)),
		zap.Duration("duration", time.Since(conn.About().Since)),
		zap.Uint64("events", events),
		zap.Uint64("bytes", bytes),
	)})
}

func fieldsOf(hubName string, conn *hub.Conn) []zap.Field {
	about := conn.About()
	return []zap.Field{
		zap.String("hub", hubName),
		zap.String("connection", about.ID),
		zap.String("user", about.User),
		zap.String("protocol", about.Protocol),
		zap.String("remote", about.Remote),
	}
}

// add appends a report to the queue. mu is held.
func (r *reporter) add(rep report) {
	r.queue = append(r.queue, rep)
	if r.runDone == nil {
		r.runDone = make(chan struct{})
		go r.run()
	}
}

// run emits the queued reports and returns when the queue is empty. A handler may end the
// goroutine with runtime.Goexit: then another one emits the rest.
func (r *reporter) run() {
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if len(r.queue) > 0 {
			go r.run()
			return
		}
		close(r.runDone)
		r.runDone = nil
	}()
	for {
		r.mu.Lock()
		if len(r.queue) == 0 {
			r.queue, r.overflowing = nil, false
			r.mu.Unlock()
			return
		}
		rep := r.queue[0]
		r.queue[0] = report{}
		r.queue = r.queue[1:]
		r.mu.Unlock()
		r.newestApp.Load().emit(rep)
	}
}

// flush waits until all reports are emitted, at most for the limit.
func (r *reporter) flush(limit time.Duration) {
	r.mu.Lock()
	busy := r.runDone
	r.mu.Unlock()
	if busy == nil {
		return
	}
	timeout := time.NewTimer(limit)
	defer timeout.Stop()
	select {
	case <-busy:
	case <-timeout.C:
	}
}

// wantsReport reports whether debug lines are logged or a handler waits for the event.
func (a *App) wantsReport(event string) bool {
	return a.logger.Core().Enabled(zap.DebugLevel) || a.events.ShouldEmit(event)
}

// emit emits one report. The config of the app, and its context, may have ended meanwhile.
// With an ended context Caddy would call no handler and log an error, so emit uses a
// context that does not end.
func (a *App) emit(rep report) {
	defer func() {
		if failure := recover(); failure != nil {
			a.logger.Error("a handler of Caddy's events panicked",
				zap.String("event", rep.event), zap.Any("panic", failure), zap.ByteString("stack", debug.Stack()))
		}
	}()
	if line := a.logger.Check(zap.DebugLevel, rep.message); line != nil {
		line.Write(rep.fields...)
	}
	if a.events.ShouldEmit(rep.event) {
		data := zapcore.NewMapObjectEncoder()
		for _, field := range rep.fields {
			field.AddTo(data)
		}
		ctx := a.ctx
		ctx.Context = context.WithoutCancel(ctx.Context)
		a.events.Emit(ctx, rep.event, data.Fields)
	}
}
