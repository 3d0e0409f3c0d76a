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
	"github.com/ea766355/caddy-sse/internal/runlog"
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
	held   map[string]*pooledHub      // by name: the hubs that this config keeps open
	served map[string][]*hub.Settings // by name of a hub: the settings of its routes

	inForce atomic.Bool // the config is or was in force
	stopped atomic.Bool // Stop was called
	failed  atomic.Bool // the config failed before it came into force

	stores map[string]StoreModule // by hub; a hub without a module has its history in memory
	opened map[string]hub.Store   // by hub; from Start until the stores are in use
}

// HubConfig sets the limits of a hub's history. Above a limit the oldest events are
// evicted, and clients that had not received them are told by sse.gap. A reload can
// change all of these options without ending a stream.
type HubConfig struct {
	// The most events that are retained. Default: 10000.
	History int `json:"history,omitempty"`

	// How long events are retained. Default: 24h.
	HistoryAge caddy.Duration `json:"history_age,omitempty"`

	// The most bytes of the heap that the history uses, within 15 %: encoded events, the
	// names of their targets, and the index. The process uses about 2.5 times as much,
	// since Go's garbage collector lets the heap grow to twice the live data.
	// Default: 67108864 (64 MiB).
	HistorySize int64 `json:"history_size,omitempty"`

	// The most bytes of an event's type and payload together, at most 1 GiB. A larger
	// event is refused with status 413. Default: 1048576 (1 MiB).
	MaxEventSize int `json:"max_event_size,omitempty"`

	// The store that keeps the history when the process ends. Default: none; the history
	// is in memory.
	StoreRaw json.RawMessage `json:"store,omitempty" caddy:"namespace=sse.stores inline_key=kind"`
}

const defaultHub = "default"

var hubName = regexp.MustCompile(`^[a-z0-9_-]{1,32}$`)

// hubs has the open hubs by name. A config keeps its hubs open from Provision to Cleanup.
// Caddy provisions the next config before it cleans the previous one up, so a hub
// outlives reloads.
var hubs = caddy.NewUsagePool()

// running is the app of the config in force. An app that has started is not in force
// until the previous one has stopped, because its config can still fail.
var running atomic.Pointer[App]

// CaddyModule returns the Caddy module information. The receiver is a pointer because
// Caddy's events call CaddyModule while the app may change.
func (*App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "sse",
		New: func() caddy.Module { return new(App) },
	}
}

// Provision opens the hubs. It does not change hubs that are open already.
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
			return errHubName(name)
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
		if _, err := a.holdHub(name); err != nil {
			return err
		}
	}
	return nil
}

func errHubName(name string) error {
	return fmt.Errorf("invalid hub name %q: it must be 1 to 32 of a-z, 0-9, - and _", name)
}

func (c *HubConfig) validate() error {
	for name, n := range map[string]int64{
		"history": int64(c.History), "history_size": c.HistorySize, "max_event_size": int64(c.MaxEventSize),
	} {
		if n < 0 {
			return fmt.Errorf("%s is %d: it must not be negative; leave it out for the default", name, n)
		}
	}
	if err := validateDuration("history_age", time.Duration(c.HistoryAge)); err != nil {
		return err
	}
	size, limit := int64(c.MaxEventSize), c.HistorySize
	orDefault(&size, hub.DefaultMaxEventSize)
	orDefault(&limit, hub.DefaultMaxBytes)
	if size > hub.MaxEventSizeLimit {
		return fmt.Errorf("max_event_size is %d bytes: at most %d (1 GiB) are allowed", size, hub.MaxEventSizeLimit)
	}
	if size > limit {
		return fmt.Errorf("max_event_size (%d bytes) is more than history_size (%d bytes): lower max_event_size or raise history_size", size, limit)
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

// holdHub returns the hub and keeps it open until Cleanup.
func (a *App) holdHub(name string) (*hub.Hub, error) {
	if h := a.held[name]; h != nil {
		return h.Hub, nil
	}
	pooled, _, err := hubs.LoadOrNew(name, func() (caddy.Destructor, error) {
		h := &pooledHub{
			Hub:              hub.New(a.Hubs[name].options()),
			name:             name,
			streamsRefused:   newCounters(streamRefusals),
			publishesRefused: newCounters(publishRefusals, notStored, storeUncertain, canceled),
		}
		h.ReportDeliveries(h.traceDelivery)
		return h, nil
	})
	if err != nil {
		return nil, err
	}
	a.held[name] = pooled.(*pooledHub)
	return a.held[name].Hub, nil
}

// checkConfigured returns an error if the config has no hub of this name. The default hub
// needs no config.
func (a *App) checkConfigured(name string) error {
	if _, ok := a.Hubs[name]; !ok && name != defaultHub && name != "" {
		if !hubName.MatchString(name) {
			return errHubName(name)
		}
		return fmt.Errorf("hub %q is not configured: add `sse %[1]s` to the global options", name)
	}
	return nil
}

// holdForRoute is holdHub for a route that serves the hub's streams with these settings.
func (a *App) holdForRoute(name string, settings *hub.Settings) (*hub.Hub, error) {
	if err := a.checkConfigured(name); err != nil {
		return nil, err
	}
	a.served[name] = append(a.served[name], settings)
	return a.holdHub(name)
}

// handleLateStream is called for each stream that a route has opened. It starts the grace
// period of the hub, or ends the stream, if the config of the route has stopped meanwhile.
func (a *App) handleLateStream(name string) {
	if caddy.Exiting() && a.isReplaced() { // the server waits for the stream
		a.endRouteStreams(hub.Shutdown)
	}
	if !a.stopped.Load() {
		return
	}
	if a.failed.Load() {
		a.endRouteStreams(hub.Lifetime)
	}
	if next := running.Load(); next == nil || next == a || next.served[name] == nil {
		startGrace(name, a.held[name])
	}
}

// isSuperseded reports whether this config is not in force any more, or never was.
func (a *App) isSuperseded() bool { return a.isReplaced() || !a.inForce.Load() }

// isReplaced reports whether this config has stopped, or another config is active, for which
// Caddy stops this one.
func (a *App) isReplaced() bool {
	active := caddy.ActiveContext()
	return a.stopped.Load() || active.Context != nil && appOf(active) != a
}

// appOf returns the app of a config, or nil if the config has none.
func appOf(ctx caddy.Context) *App {
	if app, err := ctx.AppIfConfigured("sse"); err == nil {
		return app.(*App)
	}
	return nil
}

// Start opens the stores, which can fail, and puts the app in force. If another app is in
// force, this app comes into force when Caddy stops the other one: then Caddy has started
// all of the new config without an error.
func (a *App) Start() error {
	if err := a.openStores(); err != nil {
		return err
	}
	a.warnOfHidden()
	a.warnOfAPIs()
	if running.CompareAndSwap(nil, a) {
		return a.apply()
	}
	return nil
}

// Stop puts the app of the next config in force, if this one is in force. For hubs that
// the next config does not serve it starts the grace period.
func (a *App) Stop() error {
	active := caddy.ActiveContext()
	if active.Context == nil && caddy.Exiting() {
		return nil // there is no next config, and the servers may still answer requests
	}
	if a.stopped.Swap(true) || running.Load() != a {
		return nil
	}
	next := appOf(active)
	if next == a {
		next = nil
	}
	var err error
	if next != nil {
		running.Store(next)
		err = next.apply()
	}
	for name, h := range a.held {
		if next == nil || next.served[name] == nil {
			startGrace(name, h)
		}
	}
	return err
}

// apply puts this config in force: its hubs get its stores and its options.
func (a *App) apply() error {
	a.inForce.Store(true)
	graces.over.Go(a.watchExit)
	reports.newestApp.Store(a)
	runlog.Swap(&a.ctx)
	err := a.useStores()
	for name, h := range a.held {
		h.SetOptions(a.Hubs[name].options())
		if a.served[name] != nil {
			cancelGrace(name)
		} else {
			startGrace(name, h)
		}
	}
	return err
}

// Cleanup releases the hubs. A hub that no config holds any more is closed.
func (a *App) Cleanup() error {
	err := a.Stop() // Caddy does not call Stop when a config fails after all apps have started
	if !a.inForce.Load() {
		// Only the config in force decides who may have a stream.
		a.failed.Store(true)
		a.endRouteStreams(hub.Lifetime)
	}
	if caddy.Exiting() && !a.isSuperseded() {
		err = errors.Join(err, closeHubsAtExit())
	}
	err = errors.Join(err, a.closeStores())
	for name := range a.held {
		_, closing := hubs.Delete(name)
		err = errors.Join(err, closing)
	}
	running.CompareAndSwap(a, nil)
	runlog.Drop(&a.ctx)
	return err
}

// endRouteStreams ends the streams that the routes of this config have opened.
func (a *App) endRouteStreams(reason hub.Reason) {
	for name, routes := range a.served {
		if h := a.held[name]; h != nil {
			h.EndOf(routes, reason)
		}
	}
}

// openHubs returns the open hubs by name.
func openHubs() map[string]*pooledHub {
	open := make(map[string]*pooledHub)
	hubs.Range(func(name, h any) bool {
		open[name.(string)] = h.(*pooledHub)
		return true
	})
	return open
}

// UnknownHub is the error of a call that names a hub that does not exist.
type UnknownHub struct {
	Name      string
	Available []string // names of the open hubs, sorted
}

func (e *UnknownHub) Error() string {
	if len(e.Available) == 0 {
		return fmt.Sprintf("unknown hub %q (the config has no hub): add `sse` to the global options", e.Name)
	}
	return fmt.Sprintf("unknown hub %q (available: %s)", e.Name, strings.Join(e.Available, ", "))
}

// findHub returns the open hub of this name. Its error is an [*UnknownHub].
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
