package caddysse

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/ea766355/caddy-sse/hub"
)

func init() {
	// Streams of earlier configs may be open although the config in force has no hubs.
	caddy.OnExit(func(context.Context) {
		_ = closeHubsAtExit()
		graces.over.Wait()
	})
}

// serversShuttingDown is true when the process exits and the servers have begun to shut
// down. With the option shutdown_delay, servers still serve for a while after
// [caddy.Exiting] is true.
var serversShuttingDown atomic.Bool

// reportTimeout is how long the exit waits for the reports of the last streams.
const reportTimeout = 2 * time.Second

// onServerShutdown runs when a server of this config begins to shut down. If the process
// exits, it ends all streams, also those that earlier configs opened: the server would wait
// for them forever. On a reload streams go on.
//
// The process may exit during a reload, while another config is active already. Then Caddy
// waits for the servers of all earlier configs before it stops the config in force, so this
// ends the streams of all of them. The config in force decides about its own.
func (a *App) onServerShutdown() {
	switch {
	case !caddy.Exiting():
	case a.isSuperseded():
		a.endEarlierStreams()
	default:
		shutdownHubs()
	}
}

// onServersStopped runs when all servers of this config have shut down. If the process
// exits, it waits for the streams that were taken over from the servers. They are reported
// here, while the apps of the config still run.
func (a *App) onServersStopped(context.Context) error {
	if !caddy.Exiting() || a.isSuperseded() {
		return nil
	}
	return closeHubsAtExit()
}

// endEarlierStreams ends the streams that routes of the config in force have not opened.
func (a *App) endEarlierStreams() {
	next := cmp.Or(appOf(caddy.ActiveContext()), running.Load())
	for name, h := range openHubs() {
		var its []*hub.Settings
		if next != nil && next != a {
			its = next.served[name]
		}
		h.EndOthers(its, hub.Shutdown)
	}
}

// shutdownHubs ends all streams of all hubs.
func shutdownHubs() {
	serversShuttingDown.Store(true)
	for _, h := range openHubs() {
		h.Shutdown()
	}
}

var exitOnce = new(sync.Once)

// closeHubsAtExit closes all hubs when the process exits. Only the first call does so.
func closeHubsAtExit() (err error) {
	exitOnce.Do(func() {
		shutdownHubs()
		for _, h := range openHubs() {
			err = errors.Join(err, h.Close())
		}
		reports.flush(reportTimeout)
	})
	return err
}
