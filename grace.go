package caddysse

import (
	"errors"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"
)

// routeGrace is how long a hub may be without a route before its streams end. The
// route may be missing by mistake, or for a moment.
var routeGrace = 10 * time.Second

// graces are the hubs that no route serves at the moment.
var graces = struct {
	mu   sync.Mutex
	back map[string]chan struct{} // by hub; closed when a route serves it again
	over sync.WaitGroup           // the goroutines that wait for that
}{back: make(map[string]chan struct{})}

// awaitRoute keeps the hub open until a route serves it again. When none does within
// routeGrace, its streams end.
func awaitRoute(name string, h *pooledHub) {
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
	if pooled != h { // it was closed, and there is another of that name
		release(name)
		return
	}
	back := make(chan struct{})
	graces.back[name] = back
	graces.over.Go(func() {
		awaitEnd(back)
		graces.mu.Lock()
		if graces.back[name] == back {
			delete(graces.back, name)
			h.end()
		}
		graces.mu.Unlock()
		release(name)
	})
}

// awaitEnd waits until there is a route again, the time for that is over, or the
// process is about to end, of which Caddy tells nobody.
func awaitEnd(back <-chan struct{}) {
	over := time.NewTimer(routeGrace)
	defer over.Stop()
	look := time.NewTicker(100 * time.Millisecond)
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

// routeIsBack ends the wait of awaitRoute.
func routeIsBack(name string) {
	graces.mu.Lock()
	defer graces.mu.Unlock()
	if back := graces.back[name]; back != nil {
		delete(graces.back, name)
		close(back)
	}
}

// release lets go of a hub in the pool, for those who have nobody to tell an error.
func release(name string) {
	if _, err := hubs.Delete(name); err != nil {
		caddy.Log().Named("sse").Error("closing a hub", zap.String("hub", name), zap.Error(err))
	}
}
