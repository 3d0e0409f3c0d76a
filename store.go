package caddysse

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/ea766355/caddy-sse/hub"
	_ "github.com/ea766355/caddy-sse/store/disk" // the store module that comes with the app
)

// StoreModule is what the modules in the namespace sse.stores are: a way to keep
// a hub's history.
type StoreModule interface {
	// Identity tells one history from another: no two hubs may have the same. As
	// long as it stays the same, the open store goes on over config reloads, unless
	// the module is Remote; when it changes, another is opened.
	Identity(hubName string) string

	// Open opens the store. It is called when the config starts, never to
	// validate one. Its error names what could not be opened, and the way out.
	Open(hubName string) (hub.Store, error)
}

// Remote is what a store module may be besides, if the history is elsewhere.
type Remote interface {
	// Connection tells one way to the history from another. It may hold secrets,
	// since it is only compared. When it changes over a config reload, another
	// store is opened and takes the place of the open one. If the history is the
	// same, streams go on without a gap.
	Connection() string
}

// Noter is what a store may be besides, if things may happen to it that an
// operator should know of.
type Noter interface {
	// Note is shown in the status. Empty: there is nothing to say.
	Note() string
}

// Writer is what a store may be besides, if it may be that it can be read and not
// written. The feed's Status tells of all else that keeps events from being stored.
type Writer interface {
	// Writable returns why nothing can be stored, and since when; nil: it can, as far
	// as is known. It must not block.
	Writable() (problem error, since time.Time)
}

// memory is the store of a hub that has none configured.
type memory struct{}

func (memory) Identity(string) string { return "memory" }

func (memory) Open(string) (hub.Store, error) { return hub.NewMemory(), nil }

// pooledHub is a hub in the pool.
type pooledHub struct {
	*hub.Hub
	store atomic.Pointer[usedStore] // nil before the first

	streamsRefused, publishesRefused counters // by the doors
	warnedOfHTTP3                    atomic.Bool
}

// usedStore is what is known about the store that a hub uses.
type usedStore struct {
	identity   string
	connection string // empty unless the module is Remote
	kind       string
	cluster    Cluster // nil: the store is this node's alone
	noter      Noter   // nil: it has nothing to say
	writer     Writer  // nil: it can be written when it can be reached
}

// use is the store that the hub uses, empty before the first.
func (h *pooledHub) use() usedStore {
	if s := h.store.Load(); s != nil {
		return *s
	}
	return usedStore{}
}

// Destruct is called when nothing holds the hub any more.
func (h *pooledHub) Destruct() error {
	h.end()
	return h.Close()
}

// end ends the streams of a hub that has no use any more. When the process is about
// to end, that is the reason, and not that nothing serves the hub.
func (h *pooledHub) end() {
	if caddy.Exiting() {
		h.Shutdown()
	} else {
		h.EndStreams()
	}
}

// loadStores loads the store modules, without opening anything.
func (a *App) loadStores(ctx caddy.Context) error {
	a.stores = make(map[string]StoreModule)
	users := make(map[string]string) // of stores, by identity
	for name, config := range a.Hubs {
		if config.StoreRaw == nil {
			continue
		}
		module, err := ctx.LoadModule(config, "StoreRaw")
		if err != nil {
			return fmt.Errorf("hub %s: loading its store: %w", name, err)
		}
		store, ok := module.(StoreModule)
		if !ok {
			return fmt.Errorf("hub %s: %T is not a store", name, module)
		}
		a.stores[name] = store
		id := store.Identity(name)
		if other, taken := users[id]; taken {
			return fmt.Errorf("hubs %s and %s have the same store %s: each needs its own", other, name, id)
		}
		users[id] = name
	}
	return nil
}

// store is the hub's store module.
func (a *App) store(name string) StoreModule {
	if s := a.stores[name]; s != nil {
		return s
	}
	return memory{}
}

// toUse is what there is to know about the hub's store before it is opened.
func (a *App) toUse(name string) usedStore {
	module := a.store(name)
	used := usedStore{identity: module.Identity(name), kind: "memory"}
	if m, ok := module.(caddy.Module); ok {
		used.kind = m.CaddyModule().ID.Name()
	}
	if m, ok := module.(Remote); ok {
		used.connection = m.Connection()
	}
	return used
}

// openStores opens those stores that are not open already.
func (a *App) openStores() error {
	a.opened = make(map[string]hub.Store)
	for name, h := range a.held {
		used, next := h.use(), a.toUse(name)
		if used.identity == next.identity && used.connection == next.connection {
			continue
		}
		store, err := a.store(name).Open(name)
		if err != nil {
			return errors.Join(fmt.Errorf("hub %s: %w", name, err), a.closeStores())
		}
		a.opened[name] = store
	}
	return nil
}

// closeStores closes what was opened and not put to use.
func (a *App) closeStores() (err error) {
	for _, store := range a.opened {
		err = errors.Join(err, store.Close())
	}
	a.opened = nil
	return err
}

// useStores puts to use what was opened.
func (a *App) useStores() (err error) {
	for name, store := range a.opened {
		h, used := a.held[name], a.toUse(name)
		if cluster, ok := store.(Cluster); ok {
			used.cluster = cluster
			err = errors.Join(err, cluster.Join(nodeName(), func(request []byte, room int) []byte {
				return answerNode(h.Hub, request, room)
			}))
		}
		used.noter, _ = store.(Noter)
		used.writer, _ = store.(Writer)
		h.store.Store(&used)
		err = errors.Join(err, h.Use(store))
	}
	a.opened = nil
	return err
}
