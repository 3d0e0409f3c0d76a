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

// exitPoll is how often goroutines look whether the process exits. Caddy has no signal for
// the exit that works there.
const exitPoll = 100 * time.Millisecond

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
	if next == a {
		next = nil
	}
	endStreamsBefore(next)
}

// endStreamsBefore ends the streams that routes of this config have not opened. Nil stands
// for a config without hubs.
func endStreamsBefore(a *App) {
	for name, h := range openHubs() {
		var its []*hub.Settings
		if a != nil {
			its = a.served[name]
		}
		h.EndOthers(its, hub.Shutdown)
	}
}

// watchExit ends the streams of earlier configs if the process exits while a reload is under
// way. The reload may wait for the servers of all earlier configs, when it stops the config
// before or gives up the one that fails, and Caddy stops nothing else until it is over. No
// server calls onServerShutdown then, unless the config that stops has a route for streams.
//
// watchExit returns when Caddy has stopped the config.
func (a *App) watchExit() {
	look := time.NewTicker(exitPoll)
	defer look.Stop()
	for wasHeld := false; ; {
		select {
		case <-a.ctx.Done():
			return
		case <-look.C:
		}
		if !caddy.Exiting() {
			continue
		}
		// At any other exit Caddy has no active config from the beginning.
		active := caddy.ActiveContext()
		isHeld := active.Context != nil
		if isHeld && wasHeld {
			endStreamsBefore(cmp.Or(appOf(active), running.Load()))
			return
		}
		wasHeld = isHeld
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
