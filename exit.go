package caddysse

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/ea766355/caddy-sse/hub"
)

func init() {
	// For streams of earlier configs, when the one in force has no hubs.
	caddy.OnExit(func(context.Context) {
		_ = exitHubs()
		graces.over.Wait()
	})
}

// serversEnd says that the process is about to end, and the servers have begun to
// shut down. With shutdown_delay they still serve after Caddy says that it exits.
var serversEnd atomic.Bool

// reportPatience is how long the end of the process waits for the reports of the last
// streams.
const reportPatience = 2 * time.Second

// serverEnds runs when a server of this config begins to shut down. If the process is
// about to end, all streams must end, or the server would wait for them for ever, also
// for those that earlier configs opened. On a reload they go on.
//
// A server runs this beside its shutdown, so it may come late: when the config is over,
// and the process is about to end for another reason. Then the next config decides for
// all streams but those that this server may wait for.
func (a *App) serverEnds() {
	switch {
	case !caddy.Exiting():
	case a.superseded():
		a.endRoutes(hub.Shutdown)
	default:
		shutdownHubs()
	}
}

// serversEnded runs when all servers of this config have shut down. If the process is
// about to end, it waits for the streams that are no longer the servers', and reports
// them while the config is still whole.
func (a *App) serversEnded(context.Context) error {
	if !caddy.Exiting() || a.superseded() {
		return nil
	}
	return exitHubs()
}

// shutdownHubs ends all streams.
func shutdownHubs() {
	serversEnd.Store(true)
	for _, h := range openHubs() {
		h.Shutdown()
	}
}

var exitOnce = new(sync.Once)

// exitHubs ends all hubs at the end of the process, once.
func exitHubs() (err error) {
	exitOnce.Do(func() {
		shutdownHubs()
		for _, h := range openHubs() {
			err = errors.Join(err, h.Close())
		}
		reports.flush(reportPatience)
	})
	return err
}
