package caddysse

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
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

// shutdownHubs runs when a server begins to shut down. If the process is about
// to end, all streams must end, or the server would wait for them for ever,
// also for those that earlier configs opened. On a reload they go on.
func shutdownHubs() {
	if !caddy.Exiting() {
		return
	}
	serversEnd.Store(true)
	for _, h := range openHubs() {
		h.Shutdown()
	}
}

// afterServers runs when all servers have shut down. If the process is about to end, it
// waits for the streams that are no longer the servers', and reports them while the
// config is still whole.
func afterServers(context.Context) error {
	if !caddy.Exiting() {
		return nil
	}
	return exitHubs()
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
