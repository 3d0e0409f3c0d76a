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

// report tells that a stream was opened or closed: with one debug line, and with one
// event of Caddy's.
type report struct {
	message, event string
	fields         []zap.Field
}

// reports is where all streams are reported.
var reports = newReporter()

// reporter tells reports in order, from one goroutine. Handlers of Caddy's events
// belong to others: one may be slow, and one may wait for a lock that Caddy holds
// while it changes its config. So no stream and no reload waits for them.
type reporter struct {
	newest atomic.Pointer[App] // the app that came into force last; it tells the reports, even when it is over

	mu     sync.Mutex
	queue  []report
	busy   chan struct{}          // closed when the goroutine ends; nil: there is none
	untold map[*hub.Conn]struct{} // connections whose opening was left out
	late   bool                   // it is logged that there are some, and the queue was never empty since
}

// maxReports is how many reports may wait. When there are more, streams that open are
// not reported, and neither is their end.
var maxReports = 1 << 16

func newReporter() *reporter { return &reporter{untold: make(map[*hub.Conn]struct{})} }

// opened reports a new stream.
func (r *reporter) opened(hubName string, conn *hub.Conn) {
	a := r.newest.Load()
	if a == nil || !a.listensTo("sse_connected") && !a.listensTo("sse_disconnected") {
		return
	}
	r.mu.Lock()
	first := false
	if len(r.queue) < maxReports {
		r.add(report{"stream opened", "sse_connected", fieldsOf(hubName, conn)})
	} else {
		r.untold[conn] = struct{}{}
		first, r.late = !r.late, true
	}
	r.mu.Unlock()
	if first {
		a.logger.Error("streams are not reported: handlers of Caddy's events are too slow for as many as open and close",
			zap.Int("waiting", maxReports))
	}
}

// closed reports the end of a stream whose opening was reported.
func (r *reporter) closed(hubName string, conn *hub.Conn, reason hub.Reason) {
	a := r.newest.Load()
	listens := a != nil && a.listensTo("sse_disconnected")
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, untold := r.untold[conn]; untold {
		delete(r.untold, conn)
		return
	}
	if !listens {
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

// add queues a report. mu is held.
func (r *reporter) add(rep report) {
	r.queue = append(r.queue, rep)
	if r.busy == nil {
		r.busy = make(chan struct{})
		go r.run(r.busy)
	}
}

// run tells what is queued, and ends when there is nothing.
func (r *reporter) run(busy chan struct{}) {
	defer close(busy)
	for {
		r.mu.Lock()
		if len(r.queue) == 0 {
			r.queue, r.busy, r.late = nil, nil, false
			r.mu.Unlock()
			return
		}
		rep := r.queue[0]
		r.queue[0] = report{}
		r.queue = r.queue[1:]
		r.mu.Unlock()
		r.newest.Load().tell(rep)
	}
}

// flush waits until all is told, but not for longer than the limit.
func (r *reporter) flush(limit time.Duration) {
	r.mu.Lock()
	busy := r.busy
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

// listensTo tells whether anybody wants reports with the event.
func (a *App) listensTo(event string) bool {
	return a.logger.Core().Enabled(zap.DebugLevel) || a.events.ShouldEmit(event)
}

// tell tells one report. The config of the app may have ended meanwhile, and its
// context with it: without that Caddy would call no handler and log an error.
func (a *App) tell(rep report) {
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
