package caddysse

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/ea766355/caddy-sse/hub"
)

// nowhere is a client that accepts everything.
type nowhere struct{}

func (nowhere) Write(p []byte) (int, error) { return len(p), nil }
func (nowhere) Flush() error                { return nil }
func (nowhere) Abort()                      {}

// TestRouteGrace: a hub without a route ends its streams after ten seconds, unless it has a route
// before, or the process ends.
func TestRouteGrace(t *testing.T) {
	defer func(d time.Duration) { routeGrace = d }(routeGrace)
	routeGrace = 10 * time.Second
	for name, test := range map[string]struct {
		held   bool // by a config
		during func(t *testing.T, name string)
		want   hub.Reason // empty: the stream goes on
		after  time.Duration
	}{
		"no route, no config":         {during: func(*testing.T, string) {}, want: hub.HubClosed, after: 10 * time.Second},
		"no route, but a config":      {held: true, during: func(*testing.T, string) {}, want: hub.HubClosed, after: 10 * time.Second},
		"a route is back":             {held: true, during: func(_ *testing.T, name string) { time.Sleep(9900 * time.Millisecond); cancelGrace(name) }},
		"a route is back, and gone":   {held: true, during: func(_ *testing.T, name string) { time.Sleep(9 * time.Second); cancelGrace(name); await(name) }, want: hub.HubClosed, after: 19 * time.Second},
		"another config has no route": {held: true, during: func(_ *testing.T, name string) { time.Sleep(9 * time.Second); await(name) }, want: hub.HubClosed, after: 10 * time.Second},
		"the process ends":            {during: func(t *testing.T, _ string) { time.Sleep(1050 * time.Millisecond); Exit(t) }, want: hub.Shutdown, after: 1100 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				hold(t, name)
				h := openHubs()[name]
				if err := h.Use(hub.NewMemory()); err != nil {
					t.Fatal(err)
				}
				var ended hub.Reason
				var at time.Time
				conn, err := h.Connect(t.Context(), hub.Request{Settings: &hub.Settings{
					Heartbeat: time.Hour, Timeout: time.Minute,
					Closed: func(_ *hub.Conn, reason hub.Reason) { ended, at = reason, time.Now() },
				}})
				if err != nil {
					t.Fatal(err)
				}
				stream := conn.Open(nowhere{})
				go stream.Serve(t.Context())

				began := time.Now()
				startGrace(name, h)
				if !test.held {
					releaseHub(name)
				}
				test.during(t, name)
				time.Sleep(time.Minute)
				synctest.Wait()
				if ended != test.want {
					t.Errorf("the stream ended with %q, want %q", ended, test.want)
				}
				if took := at.Sub(began); ended != "" && took != test.after {
					t.Errorf("it ended after %s, want %s", took, test.after)
				}
				if test.held {
					releaseHub(name)
				}
				if openHubs()[name] != nil {
					t.Error("the hub is still open")
				}
				synctest.Wait()
			})
		})
	}
}

func await(name string) { startGrace(name, openHubs()[name]) }

// hold adds a new hub to the pool, like a config.
func hold(t *testing.T, name string) {
	t.Helper()
	if _, loaded, err := hubs.LoadOrNew(name, func() (caddy.Destructor, error) {
		return &pooledHub{Hub: hub.New(hub.Options{})}, nil
	}); err != nil || loaded {
		t.Fatal(loaded, err)
	}
}

// TestAwaitRouteOfAClosedHub: a stream may come late to a hub that was closed, or whose name
// belongs to another hub by now.
func TestAwaitRouteOfAClosedHub(t *testing.T) {
	old := &pooledHub{Hub: hub.New(hub.Options{})}
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	startGrace("closed", old)
	if openHubs()["closed"] != nil || len(graces.back) > 0 {
		t.Error("a hub that is closed is awaited")
	}
	hold(t, "closed")
	startGrace("closed", old)
	if len(graces.back) > 0 {
		t.Error("another hub is awaited")
	}
	releaseHub("closed")
	if openHubs()["closed"] != nil {
		t.Error("it is still held")
	}
}

// TestDestructAtTheEndOfTheProcess: no client gets the reason hub_closed.
func TestDestructAtTheEndOfTheProcess(t *testing.T) {
	Exit(t)
	hold(t, "exit")
	h := openHubs()["exit"]
	if err := h.Use(hub.NewMemory()); err != nil {
		t.Fatal(err)
	}
	ended := make(chan hub.Reason, 1)
	settings := &hub.Settings{Heartbeat: time.Hour, Closed: func(_ *hub.Conn, reason hub.Reason) { ended <- reason }}
	conn, err := h.Connect(t.Context(), hub.Request{Settings: settings})
	if err != nil {
		t.Fatal(err)
	}
	stream := conn.Open(nowhere{})
	go stream.Serve(t.Context())
	releaseHub("exit")
	if reason := <-ended; reason != hub.Shutdown {
		t.Errorf("the stream ended with %q", reason)
	}
	_, err = h.Connect(t.Context(), hub.Request{Settings: settings})
	if refusal, ok := errors.AsType[*hub.Refusal](err); !ok || refusal.Reason != hub.Shutdown {
		t.Errorf("who comes late is told %v", err)
	}
}
