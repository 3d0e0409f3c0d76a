package caddysse

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"go.uber.org/zap"

	"github.com/ea766355/caddy-sse/hub"
)

func init() {
	caddy.RegisterModule(new(App))
}

// App holds the hubs: named histories of events with their connections. They
// outlive config reloads.
type App struct {
	// The hubs by name, each 1 to 32 of a-z, 0-9, - and _. Default: one hub named
	// "default", with default options, if a route uses it.
	Hubs map[string]*HubConfig `json:"hubs,omitempty"`

	ctx    caddy.Context
	logger *zap.Logger
	events *caddyevents.App
	held   map[string]*pooledHub      // those this config holds in the pool
	served map[string][]*hub.Settings // of each route, by hub

	inForce atomic.Bool // it is or was in force
	over    atomic.Bool // Stop was called
	failed  atomic.Bool // the config has failed before it came into force

	stores map[string]StoreModule // by hub; none: memory
	opened map[string]hub.Store   // by hub, from Start until they are put to use
}

// HubConfig bounds the history of a hub. When a bound is met the oldest events
// go, and clients that had not received them are told so. A reload may change
// all of it without ending a stream.
type HubConfig struct {
	// How many events are retained. Default: 10000.
	History int `json:"history,omitempty"`

	// How long events are retained. Default: 24h.
	HistoryAge caddy.Duration `json:"history_age,omitempty"`

	// How many bytes of the heap the history takes, within 15 %: the encoded events, the
	// names of whom they are for, and the index. The process takes about 2.5 times
	// that, since Go's collector lets the heap grow to twice what is live.
	// Default: 67108864 (64 MiB).
	HistorySize int64 `json:"history_size,omitempty"`

	// How many bytes an event's type and payload may have together, at most 1 GiB;
	// publishing a larger one is refused with status 413. Default: 1048576 (1 MiB).
	MaxEventSize int `json:"max_event_size,omitempty"`

	// What keeps the history when the process ends. Default: nothing, the history
	// is in memory.
	StoreRaw json.RawMessage `json:"store,omitempty" caddy:"namespace=sse.stores inline_key=kind"`
}

const defaultHub = "default"

var hubName = regexp.MustCompile(`^[a-z0-9_-]{1,32}$`)

// hubs holds the open hubs by name. A config holds those it names from its
// Provision to its Cleanup, so a hub lives on from one config to the next.
var hubs = caddy.NewUsagePool()

// running is the app of the config in force. Until its predecessor has stopped,
// an app that has started is not in force, because its config may still fail.
var running atomic.Pointer[App]

// CaddyModule returns the Caddy module information. Its receiver is a pointer,
// because Caddy's events call it while the app may be changing.
func (*App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "sse",
		New: func() caddy.Module { return new(App) },
	}
}

// Provision takes hold of the hubs. It changes nothing about one that is open.
func (a *App) Provision(ctx caddy.Context) error {
	a.ctx = ctx
	a.logger = ctx.Logger()
	a.held = make(map[string]*pooledHub)
	a.served = make(map[string][]*hub.Settings)
	events, err := ctx.App("events")
	if err != nil {
		return err
	}
	a.events = events.(*caddyevents.App)
	if err := registerMetrics(ctx); err != nil {
		return err
	}
	for name, config := range a.Hubs {
		if !hubName.MatchString(name) {
			return fmt.Errorf("hub name %q: 1 to 32 of a-z, 0-9, - and _ are allowed", name)
		}
		if config == nil {
			a.Hubs[name] = new(HubConfig)
		}
		if err := a.Hubs[name].validate(); err != nil {
			return fmt.Errorf("hub %s: %w", name, err)
		}
	}
	if err := a.loadStores(ctx); err != nil {
		return err
	}
	for name := range a.Hubs {
		if _, err := a.hold(name); err != nil {
			return err
		}
	}
	return nil
}

func (c *HubConfig) validate() error {
	for name, n := range map[string]int64{
		"history": int64(c.History), "history_age": int64(c.HistoryAge),
		"history_size": c.HistorySize, "max_event_size": int64(c.MaxEventSize),
	} {
		if n < 0 {
			return fmt.Errorf("%s must not be negative", name)
		}
	}
	size, limit := int64(c.MaxEventSize), c.HistorySize
	orDefault(&size, hub.DefaultMaxEventSize)
	orDefault(&limit, hub.DefaultMaxBytes)
	if size > hub.MaxEventSizeLimit {
		return fmt.Errorf("max_event_size is %d bytes, at most %d (1 GiB) are allowed", size, hub.MaxEventSizeLimit)
	}
	if size > limit {
		return fmt.Errorf("max_event_size (%d bytes) is more than history_size (%d bytes): raise the one or lower the other", size, limit)
	}
	return nil
}

func (c *HubConfig) options() hub.Options {
	if c == nil {
		return hub.Options{}
	}
	return hub.Options{
		MaxEvents: c.History, MaxAge: time.Duration(c.HistoryAge),
		MaxBytes: c.HistorySize, MaxEventSize: c.MaxEventSize,
	}
}

// hold returns the hub, and keeps it open until Cleanup.
func (a *App) hold(name string) (*hub.Hub, error) {
	if h := a.held[name]; h != nil {
		return h.Hub, nil
	}
	pooled, _, err := hubs.LoadOrNew(name, func() (caddy.Destructor, error) {
		return &pooledHub{
			Hub:              hub.New(a.Hubs[name].options()),
			streamsRefused:   newCounters(streamRefusals),
			publishesRefused: newCounters(publishRefusals, notStored, inDoubt, canceled),
		}, nil
	})
	if err != nil {
		return nil, err
	}
	a.held[name] = pooled.(*pooledHub)
	return a.held[name].Hub, nil
}

// configured refuses hubs that a route may not serve.
func (a *App) configured(name string) error {
	if _, ok := a.Hubs[name]; !ok && name != defaultHub && name != "" {
		return fmt.Errorf("hub %q is not configured: add `sse %s` to the global options", name, name)
	}
	return nil
}

// serve is hold for a route that serves the hub's streams.
func (a *App) serve(name string, settings *hub.Settings) (*hub.Hub, error) {
	if err := a.configured(name); err != nil {
		return nil, err
	}
	a.served[name] = append(a.served[name], settings)
	return a.hold(name)
}

// late is called for each stream that a route has opened, as the config of the route
// may be over by now.
func (a *App) late(name string) {
	if !a.over.Load() {
		return
	}
	if a.failed.Load() {
		a.endRoutes(hub.Lifetime)
	}
	if next := running.Load(); next == nil || next == a || next.served[name] == nil {
		awaitRoute(name, a.held[name])
	}
}

// superseded reports whether this config has no say any more, or never had.
func (a *App) superseded() bool { return a.over.Load() || !a.inForce.Load() }

// Start puts the app in force, unless there is one in force already: then that
// happens when the other is stopped, which says that this config did not fail.
// What can fail is done here.
func (a *App) Start() error {
	if err := a.openStores(); err != nil {
		return err
	}
	a.warnOfHidden()
	a.warnOfUnguarded()
	if running.CompareAndSwap(nil, a) {
		return a.apply()
	}
	return nil
}

// Stop hands over to the app of the next config. An app that is not in force
// has nothing to hand over. Hubs that have lost their route with that may get it back.
func (a *App) Stop() error {
	active := caddy.ActiveContext()
	if active.Context == nil && caddy.Exiting() {
		return nil // there is no next config, and the servers may still serve
	}
	if a.over.Swap(true) || running.Load() != a {
		return nil
	}
	var next *App
	if app, err := active.AppIfConfigured("sse"); err == nil && app != a {
		next = app.(*App)
	}
	var err error
	if next != nil {
		running.Store(next)
		err = next.apply()
	}
	for name, h := range a.held {
		if next == nil || next.served[name] == nil {
			awaitRoute(name, h)
		}
	}
	return err
}

// apply puts this config into force: its options become those of its hubs.
func (a *App) apply() error {
	a.inForce.Store(true)
	reports.newest.Store(a)
	err := a.useStores()
	for name, h := range a.held {
		h.SetOptions(a.Hubs[name].options())
		if a.served[name] != nil {
			routeIsBack(name)
		} else {
			awaitRoute(name, h)
		}
	}
	return err
}

// Cleanup lets go of the hubs. One that nothing holds any more is closed.
func (a *App) Cleanup() error {
	err := a.Stop() // Caddy does not call it when a config fails after all was started
	if !a.inForce.Load() {
		// Who may have a stream is for the config in force to decide.
		a.failed.Store(true)
		a.endRoutes(hub.Lifetime)
	}
	if caddy.Exiting() {
		err = errors.Join(err, exitHubs())
	}
	err = errors.Join(err, a.closeStores())
	for name := range a.held {
		_, closing := hubs.Delete(name)
		err = errors.Join(err, closing)
	}
	running.CompareAndSwap(a, nil)
	return err
}

// endRoutes ends the streams that the routes of this config have opened.
func (a *App) endRoutes(reason hub.Reason) {
	for name, routes := range a.served {
		if h := a.held[name]; h != nil {
			h.EndOf(routes, reason)
		}
	}
}

// openHubs lists the open hubs by name.
func openHubs() map[string]*pooledHub {
	open := make(map[string]*pooledHub)
	hubs.Range(func(name, h any) bool {
		open[name.(string)] = h.(*pooledHub)
		return true
	})
	return open
}

// UnknownHub is the error of what is asked of a hub that there is not.
type UnknownHub struct {
	Name      string
	Available []string // in order
}

func (e *UnknownHub) Error() string {
	if len(e.Available) == 0 {
		return fmt.Sprintf("there is no hub %q: the config has none", e.Name)
	}
	return fmt.Sprintf("there is no hub %q; there is %s", e.Name, strings.Join(e.Available, ", "))
}

// findHub looks an open hub up. Its error is an *UnknownHub.
func findHub(name string) (found *pooledHub, err error) {
	var names []string
	hubs.Range(func(other, h any) bool {
		if other == name {
			found = h.(*pooledHub)
			return false
		}
		names = append(names, other.(string))
		return true
	})
	if found != nil {
		return found, nil
	}
	slices.Sort(names)
	return nil, &UnknownHub{name, names}
}

// Interface guards.
var (
	_ caddy.App          = (*App)(nil)
	_ caddy.Provisioner  = (*App)(nil)
	_ caddy.CleanerUpper = (*App)(nil)
)
