package caddysse

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"
	_ "unsafe" // for go:linkname

	"github.com/caddyserver/caddy/v2"
)

// SetRouteGrace sets how long a hub may be without a route.
func SetRouteGrace(d time.Duration) { routeGrace = d }

// EndGraces ends the grace period of all hubs without a route.
func EndGraces() {
	graces.mu.Lock()
	for _, back := range graces.back {
		close(back)
	}
	graces.mu.Unlock()
	graces.over.Wait()
}

//go:linkname caddyExiting github.com/caddyserver/caddy/v2.exiting
var caddyExiting atomic.Bool

// Exit makes Caddy report that the process is about to end, until the test ends.
func Exit(t testing.TB) {
	caddyExiting.Store(true)
	if !caddy.Exiting() {
		t.Fatal("Caddy does not say that it exits")
	}
	t.Cleanup(func() {
		caddyExiting.Store(false)
		serversShuttingDown.Store(false)
		exitOnce = new(sync.Once)
	})
}

// Decoding holds the slots for large bodies.
var Decoding = decodeSlots

// BeginTurns has the turns that are free of streams that begin.
var BeginTurns = beginTurns

// FlushReports waits until all streams are reported.
func FlushReports(limit time.Duration) { reports.flush(limit) }

// SetMaxReports sets how many reports may wait, until the test ends.
func SetMaxReports(t testing.TB, n int) {
	before := maxReports
	maxReports = n
	t.Cleanup(func() { maxReports = before })
}

// OnServerShutdown returns the function that a server of the current config runs during its shutdown.
func OnServerShutdown() func() { return running.Load().onServerShutdown }

// SetWatchHeartbeat sets the heartbeat of the stream of all events, until the test ends.
func SetWatchHeartbeat(t testing.TB, d time.Duration) {
	before := watchHeartbeat
	watchHeartbeat = d
	t.Cleanup(func() { watchHeartbeat = before })
}

// SetWatchLifetime sets the lifetime of the stream of all events, until the test ends.
func SetWatchLifetime(t testing.TB, d time.Duration) {
	before := watchLifetime
	watchLifetime = d
	t.Cleanup(func() { watchLifetime = before })
}
