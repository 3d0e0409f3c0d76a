package caddysse

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2"

	"github.com/ea766355/caddy-sse/hub"
)

// Hub is the name of a hub of the running config. Other modules of Caddy, and programs that
// embed Caddy, publish and list connections with it. Each method looks the hub up, so a Hub
// stays valid over config reloads. The zero Hub is the default hub. The methods may be
// called from any goroutine.
//
// The errors of the methods have the texts of the HTTP API. They are an *[UnknownHub] or a
// [*hub.BatchError], or they wrap [hub.ErrNotStored], or they are an [*hub.Uncertain],
// which wraps [hub.ErrUncertain].
type Hub struct{ name string }

// HubNamed returns the hub with this name. The hub need not be open yet. The empty name
// stands for the default hub.
func HubNamed(name string) Hub { return Hub{name} }

// Hub returns the hub with this name, or an error if the config has no such hub. Another
// module calls it in its Provision, on the app that [caddy.Context.App] returns for "sse".
// The hub stays open as long as the config is loaded, even if no route serves it.
func (a *App) Hub(name string) (Hub, error) {
	name = cmp.Or(name, defaultHub)
	if err := a.checkConfigured(name); err != nil {
		return Hub{}, err
	}
	_, err := a.holdHub(name)
	return Hub{name}, err
}

// SessionHash returns the name of a session in targets, filters and listings: the first
// 16 bytes of the SHA-256 of the session's value, in hex.
func SessionHash(value string) string { return hashSession(value) }

// find returns the open hub of this name.
func (h Hub) find() (*pooledHub, error) {
	pooled, err := findHub(cmp.Or(h.name, defaultHub))
	if err != nil && caddy.ActiveContext().Context == nil {
		return nil, fmt.Errorf("%w: no config of Caddy is running; load one first", hub.ErrNotStored)
	}
	return pooled, err
}

// Publish stores all of the events or none, at most 1,000, and returns one receipt for each.
// It returns when the events are as durable as the hub's store makes them. The name of a
// target of the kind [hub.Session] must be a [SessionHash].
func (h Hub) Publish(ctx context.Context, events ...hub.Event) ([]hub.Receipt, error) {
	pooled, err := h.find()
	if err != nil {
		if _, ok := errors.AsType[*UnknownHub](err); ok {
			unknownHubs.Add(1)
		}
		return nil, err
	}
	events = slices.Clone(events) // publishing sets fields, and other goroutines may publish the same events
	err = checkBatch(events)
	var receipts []hub.Receipt
	if err == nil {
		receipts, err = pooled.publishTraced(ctx, events)
	}
	if err != nil {
		countRefusedPublish(ctx, cmp.Or(h.name, defaultHub), asAPIError(publishError(err, nil)))
	}
	return receipts, err
}

// checkBatch makes the checks that the HTTP API makes before it calls the hub.
func checkBatch(events []hub.Event) error {
	if len(events) == 0 {
		return &hub.BatchError{Err: fmt.Errorf("%w: the batch is empty", hub.ErrInvalid)}
	}
	if len(events) > maxBatch {
		return &hub.BatchError{Index: maxBatch, Err: fmt.Errorf("%w: the batch has %d events, at most %d are allowed: split it", hub.ErrTooLarge, len(events), maxBatch)}
	}
	for i, event := range events {
		for _, target := range event.Targets {
			if target.Kind == hub.Session && !sessionHash.MatchString(target.Name) {
				return &hub.BatchError{Index: i, Err: fmt.Errorf("%w: the name of a session target is not a hash: use SessionHash", hub.ErrInvalid)}
			}
		}
	}
	return nil
}

// Connections lists the open connections that match the filter, on all nodes, by ascending
// id. The page begins after the id after and has at most limit connections. Limit must be
// 1 to 1,000. An empty filter matches all connections.
func (h Hub) Connections(ctx context.Context, filter hub.Filter, after string, limit int) (ConnectionPage, error) {
	pooled, err := h.find()
	if err != nil {
		return ConnectionPage{}, err
	}
	if limit < 1 || limit > maxPage {
		return ConnectionPage{}, fmt.Errorf("invalid limit %d: it must be a number from 1 to %d", limit, maxPage)
	}
	if err := checkFilter(filter); err != nil {
		return ConnectionPage{}, err
	}
	return listOnAllNodes(ctx, pooled, filter, after, limit), nil
}

// Disconnect ends the connections that match the filter, on all nodes. It returns how many
// ended, and the names of the nodes that did not answer; those end their connections when
// they reach the command in the history. An empty filter is an error.
func (h Hub) Disconnect(ctx context.Context, filter hub.Filter) (n int, missing []string, err error) {
	pooled, err := h.find()
	if err != nil {
		return 0, nil, err
	}
	if len(filter.IDs)+len(filter.Users)+len(filter.Sessions)+len(filter.Topics) == 0 {
		return 0, nil, errors.New("the filter is empty: name at least one id, user, session or topic")
	}
	if err := checkFilter(filter); err != nil {
		return 0, nil, err
	}
	return disconnectOnAllNodes(ctx, pooled, filter)
}

// checkFilter rejects names that are not UTF-8. In a request to other nodes, and in a command,
// they would become U+FFFD, which may be another's name.
func checkFilter(filter hub.Filter) error {
	for _, list := range []struct {
		kind  string
		names []string
	}{{"id", filter.IDs}, {"user", filter.Users}, {"session", filter.Sessions}, {"topic", filter.Topics}} {
		for _, name := range list.names {
			if !utf8.ValidString(name) {
				return fmt.Errorf("%s %q of the filter is not valid UTF-8: give the name as the connection has it", list.kind, name)
			}
		}
	}
	return nil
}
