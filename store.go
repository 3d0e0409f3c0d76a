package caddysse

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/ea766355/caddy-sse/hub"
	"github.com/ea766355/caddy-sse/internal/runlog"
	_ "github.com/ea766355/caddy-sse/store/disk" // the store module that comes with the app
)

func init() {
	caddy.RegisterModule(memory{})
}

// StoreModule is implemented by the Caddy modules in the namespace sse.stores. Such a
// module opens the stores that keep the histories of hubs.
type StoreModule interface {
	// Identity returns a string that is the same for the same history, and different
	// for each hub of a config. While it does not change, the open store stays in use
	// over config reloads, unless the module is a [Remote]. When it changes, another
	// store is opened.
	Identity(hubName string) string

	// Open opens the store. It is called when the config starts, never to validate a
	// config. Its error says what could not be opened and what to do about it.
	Open(hubName string) (hub.Store, error)
}

// Remote is an optional interface of a [StoreModule] whose history is on another machine.
type Remote interface {
	// Connection returns the settings of the connection to the history as a string. It
	// may hold secrets, since it is only compared. When it changes over a config reload,
	// another store is opened and replaces the open one. If the history is the same,
	// streams go on without a gap.
	Connection() string
}

// Noter is an optional interface of a [hub.Store] that has something to tell operators,
// such as a damaged file that was quarantined.
type Noter interface {
	// Note returns a text for the status, or "".
	Note() string
}

// WriteChecker is an optional interface of a [hub.Store] that may be readable and not
// writable at the same time, such as one on a full disk.
type WriteChecker interface {
	// Writable returns why events cannot be stored, and since when. The error is nil if
	// nothing is known that prevents it. Writable must not block.
	Writable() (since time.Time, problem error)
}

// memory is the store module of a hub without a configured store.
type memory struct{}

// CaddyModule returns the Caddy module information.
func (memory) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "sse.stores.memory",
		New: func() caddy.Module { return new(memory) },
	}
}

func (memory) Identity(hubName string) string { return "memory of " + hubName }

func (memory) Open(string) (hub.Store, error) { return hub.NewMemory(), nil }

// UnmarshalCaddyfile reads the option:
//
//	store memory
func (memory) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if d.NextArg() {
		return d.ArgErr()
	}
	if d.NextBlock(d.Nesting()) {
		return d.Errf("store memory has no options, but got %q", d.Val())
	}
	return nil
}

// pooledHub is a hub in the pool.
type pooledHub struct {
	*hub.Hub
	name  string
	store atomic.Pointer[storeInfo] // nil before the first store

	streamsRefused, publishesRefused counters // by handlers and the API, before the hub is asked
	warnedOfHTTP3                    atomic.Bool
}

// storeInfo describes the store that a hub uses.
type storeInfo struct {
	identity   string
	connection string // empty unless the module is a Remote
	kind       string
	cluster    Cluster      // nil: only this node uses the store
	noter      Noter        // nil: the store has no notes
	writer     WriteChecker // nil: the store is writable when it is reachable
}

// storeInUse describes the store that the hub uses. The result is empty before the first
// store.
func (h *pooledHub) storeInUse() storeInfo {
	if s := h.store.Load(); s != nil {
		return *s
	}
	return storeInfo{}
}

// Destruct closes the hub. The pool calls it when no config holds the hub any more.
func (h *pooledHub) Destruct() error {
	h.endAllStreams()
	return h.Close()
}

// endAllStreams ends the streams of a hub that no route serves. If the process exits,
// clients are told that reason instead.
func (h *pooledHub) endAllStreams() {
	if caddy.Exiting() {
		h.Shutdown()
	} else {
		h.EndStreams()
	}
}

// loadStores loads the store modules. It opens no store.
func (a *App) loadStores(ctx caddy.Context) error {
	a.stores = make(map[string]StoreModule)
	users := make(map[string]string) // names of hubs by the identity of their store
	for name, config := range a.Hubs {
		if config.StoreRaw == nil {
			continue
		}
		module, err := ctx.LoadModule(config, "StoreRaw")
		if err != nil {
			return fmt.Errorf("hub %s: loading the store: %w", name, err)
		}
		store, ok := module.(StoreModule)
		if !ok {
			return fmt.Errorf("hub %s: the module %T is no store: it does not implement caddysse.StoreModule", name, module)
		}
		a.stores[name] = store
		id := store.Identity(name)
		if other, taken := users[id]; taken {
			other, name := min(other, name), max(other, name)
			return fmt.Errorf("hubs %s and %s have the same store %s: give each hub a store of its own", other, name, id)
		}
		users[id] = name
	}
	return nil
}

// storeModule returns the hub's store module.
func (a *App) storeModule(name string) StoreModule {
	if s := a.stores[name]; s != nil {
		return s
	}
	return memory{}
}

// describeStore describes the hub's configured store before it is opened.
func (a *App) describeStore(name string) storeInfo {
	module := a.storeModule(name)
	info := storeInfo{identity: module.Identity(name)}
	if m, ok := module.(caddy.Module); ok {
		info.kind = m.CaddyModule().ID.Name()
	}
	if m, ok := module.(Remote); ok {
		info.connection = m.Connection()
	}
	return info
}

// openStores opens the stores that are not open yet.
func (a *App) openStores() error {
	// What opening a store logs, such as a damaged file, belongs to the logs of this config.
	previous := runlog.Swap(&a.ctx)
	defer runlog.Swap(previous)
	a.opened = make(map[string]hub.Store)
	for name, h := range a.held {
		used, next := h.storeInUse(), a.describeStore(name)
		if used.identity == next.identity && used.connection == next.connection {
			continue
		}
		store, err := a.storeModule(name).Open(name)
		if err != nil {
			return errors.Join(fmt.Errorf("hub %s: %w", name, err), a.closeStores())
		}
		a.opened[name] = store
	}
	return nil
}

// closeStores closes the stores that were opened and are not in use.
func (a *App) closeStores() (err error) {
	for _, store := range a.opened {
		err = errors.Join(err, store.Close())
	}
	a.opened = nil
	return err
}

// useStores hands the opened stores over to their hubs.
func (a *App) useStores() (err error) {
	for name, store := range a.opened {
		h, info := a.held[name], a.describeStore(name)
		if cluster, ok := store.(Cluster); ok {
			info.cluster = cluster
			err = errors.Join(err, cluster.Join(nodeName(), func(request []byte, room int) []byte {
				if h.store.Load() != &info {
					return nil // else two stores would count its connections while one takes the other's place
				}
				return answerNode(h.Hub, request, room)
			}))
		}
		info.noter, _ = store.(Noter)
		info.writer, _ = store.(WriteChecker)
		h.store.Store(&info)
		err = errors.Join(err, h.Use(store))
	}
	a.opened = nil
	return err
}
