package caddysse

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/caddyserver/caddy/v2"

	"github.com/ea766355/caddy-sse/hub"
)

// Hub is a hub of the running config, for other modules of Caddy and for programs that
// embed it. It is looked up at each call, so it may be kept: it is right after reloads,
// those that fail too. The zero Hub is the default hub. Its methods may be called from
// any goroutine.
//
// Their errors say what those of the HTTP API say. They are an *[UnknownHub], a
// [*hub.BatchError], or wrap [hub.ErrNotStored] or, as an *[hub.Uncertain],
// [hub.ErrUncertain].
type Hub struct{ name string }

// HubNamed returns the hub with this name, which need not be open yet. The empty name
// is that of the default hub.
func HubNamed(name string) Hub { return Hub{name} }

// Hub returns the hub with this name, for the Provision of another module, which gets
// the app from [caddy.Context.App]. Its error is that the config has no such hub. The
// hub stays open as long as the config, even if no route serves it.
func (a *App) Hub(name string) (Hub, error) {
	name = cmp.Or(name, defaultHub)
	if err := a.configured(name); err != nil {
		return Hub{}, err
	}
	_, err := a.hold(name)
	return Hub{name}, err
}

// SessionHash is what stands for a session in targets, filters and listings: the first
// 16 bytes of the SHA-256 of its value, in hex.
func SessionHash(value string) string { return hashSession(value) }

// find looks the hub up.
func (h Hub) find() (*pooledHub, error) {
	pooled, err := findHub(cmp.Or(h.name, defaultHub))
	if err != nil && caddy.ActiveContext().Context == nil {
		return nil, fmt.Errorf("%w: no config of Caddy is running", hub.ErrNotStored)
	}
	return pooled, err
}

// Publish stores the events, all or none, 1,000 at most, and returns when they are as
// durable as the store makes them. Targets of the kind [hub.Session] are named by
// [SessionHash].
func (h Hub) Publish(ctx context.Context, events ...hub.Event) ([]hub.Receipt, error) {
	pooled, err := h.find()
	if err != nil {
		if _, ok := errors.AsType[*UnknownHub](err); ok {
			unknownHubs.Add(1)
		}
		return nil, err
	}
	err = checkBatch(events)
	var receipts []hub.Receipt
	if err == nil {
		receipts, err = pooled.Publish(ctx, events...)
	}
	if err != nil {
		refusedPublish(ctx, cmp.Or(h.name, defaultHub), failureOf(publishError(err, nil)))
	}
	return receipts, err
}

// checkBatch refuses what the HTTP API would not have handed to a hub.
func checkBatch(events []hub.Event) error {
	if len(events) == 0 {
		return &hub.BatchError{Err: fmt.Errorf("%w: there is none", hub.ErrInvalid)}
	}
	if len(events) > maxBatch {
		return &hub.BatchError{Index: maxBatch, Err: fmt.Errorf("%w: a batch has at most %d events", hub.ErrTooLarge, maxBatch)}
	}
	for i, event := range events {
		for _, target := range event.Targets {
			if target.Kind == hub.Session && !sessionHash.MatchString(target.Name) {
				return &hub.BatchError{Index: i, Err: fmt.Errorf("%w: the name of a session must be its SessionHash", hub.ErrInvalid)}
			}
		}
	}
	return nil
}

// Connections lists the open connections that the filter chooses, on all nodes, by
// ascending id: those after this id, and no more than limit, which is 1 to 1,000.
func (h Hub) Connections(ctx context.Context, filter hub.Filter, after string, limit int) (Page, error) {
	pooled, err := h.find()
	if err != nil {
		return Page{}, err
	}
	if limit < 1 || limit > maxPage {
		return Page{}, fmt.Errorf("limit is %d, it must be a number from 1 to %d", limit, maxPage)
	}
	return list(ctx, pooled, filter, after, limit), nil
}

// Disconnect ends the connections that the filter chooses, on all nodes, and returns
// how many, and the nodes that did not answer: they learn of it from the history. An
// empty filter is refused.
func (h Hub) Disconnect(ctx context.Context, filter hub.Filter) (n int, missing []string, err error) {
	pooled, err := h.find()
	if err != nil {
		return 0, nil, err
	}
	if len(filter.IDs)+len(filter.Users)+len(filter.Sessions)+len(filter.Topics) == 0 {
		return 0, nil, errors.New("the filter is empty: say which connections are to end")
	}
	return end(ctx, pooled, filter)
}
