package caddysse

import (
	"errors"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/ea766355/caddy-sse/internal/runlog"
)

// routeGrace is how long a hub may be without a route before its streams end. A route may
// be missing by mistake or for a moment.
var routeGrace = 10 * time.Second

// graces are the grace periods of the hubs that no route serves.
var graces = struct {
	mu   sync.Mutex
	back map[string]chan struct{} // by hub; closed when a route serves the hub again
	over sync.WaitGroup           // the goroutines that wait for the end of a grace period, or watch for the exit
}{back: make(map[string]chan struct{})}

// startGrace keeps the hub open until a route serves it again. If no route does within
// routeGrace, it ends the hub's streams.
func startGrace(name string, h *pooledHub) {
	graces.mu.Lock()
	defer graces.mu.Unlock()
	if graces.back[name] != nil {
		return
	}
	pooled, _, err := hubs.LoadOrNew(name, func() (caddy.Destructor, error) {
		return nil, errors.New("the hub is closed")
	})
	if err != nil {
		return
	}
	if pooled != h { // h was closed, and a new hub has its name
		releaseHub(name)
		return
	}
	back := make(chan struct{})
	graces.back[name] = back
	graces.over.Go(func() {
		awaitGraceEnd(back)
		graces.mu.Lock()
		if graces.back[name] == back {
			delete(graces.back, name)
			h.endAllStreams()
		}
		graces.mu.Unlock()
		releaseHub(name)
	})
}

// awaitGraceEnd waits until a route serves the hub again, routeGrace has passed, or the
// process exits.
func awaitGraceEnd(back <-chan struct{}) {
	over := time.NewTimer(routeGrace)
	defer over.Stop()
	look := time.NewTicker(exitPoll)
	defer look.Stop()
	for !caddy.Exiting() {
		select {
		case <-back:
			return
		case <-over.C:
			return
		case <-look.C:
		}
	}
}

// cancelGrace ends the grace period of a hub that has a route again.
func cancelGrace(name string) {
	graces.mu.Lock()
	defer graces.mu.Unlock()
	if back := graces.back[name]; back != nil {
		delete(graces.back, name)
		close(back)
	}
}

// releaseHub releases a hub in the pool. It logs an error, since its callers cannot return
// one.
func releaseHub(name string) {
	if _, err := hubs.Delete(name); err != nil {
		runlog.Logger((*App)(nil)).Error("closing a hub", zap.String("hub", name), zap.Error(err))
	}
}
