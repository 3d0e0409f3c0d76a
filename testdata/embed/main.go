// Command embed embeds Caddy, with a module of its own that publishes to a hub. It is a
// Go module of its own when a test builds it.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"

	"github.com/caddyserver/caddy/v2"

	caddysse "github.com/ea766355/caddy-sse"
	"github.com/ea766355/caddy-sse/hub"
)

func init() { caddy.RegisterModule(notifier{}) }

// notifier is an app that publishes to the hub "alerts".
type notifier struct{ hub caddysse.Hub }

// newest is the notifier of the config that was loaded last.
var newest *notifier

func (notifier) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "notifier", New: func() caddy.Module { return new(notifier) }}
}

func (n *notifier) Provision(ctx caddy.Context) error {
	app, err := ctx.App("sse")
	if err != nil {
		return err
	}
	n.hub, err = app.(*caddysse.App).Hub("alerts")
	newest = n
	return err
}

func (*notifier) Start() error { return nil }
func (*notifier) Stop() error  { return nil }

func load(hubs string) error {
	const config = `{"admin": {"disabled": true}, "logging": {"logs": {"default": {"level": "PANIC"}}}, "apps": {"notifier": {}, "sse": {"hubs": %s}}}`
	return caddy.Load(fmt.Appendf(nil, config, hubs), true)
}

// publish publishes to everybody, and checks the number of the event.
func publish(h caddysse.Hub, seq uint64) {
	receipts, err := h.Publish(context.Background(), hub.Event{Data: []byte("x"), Targets: []hub.Target{{Kind: hub.All}}})
	if err != nil {
		log.Fatal(err)
	}
	if receipts[0].Position.Seq != seq {
		log.Fatalf("event %d has the position %s", seq, receipts[0].Position)
	}
}

func main() {
	_, err := caddysse.HubNamed("alerts").Publish(context.Background(), hub.Event{Data: []byte("x"), Targets: []hub.Target{{Kind: hub.All}}})
	if !errors.Is(err, hub.ErrNotStored) {
		log.Fatalf("without a config: %v", err)
	}
	if err := load(`{"other": {}}`); err == nil {
		log.Fatal("a config without the hub was accepted")
	}
	if err := load(`{"alerts": {}}`); err != nil {
		log.Fatal(err)
	}
	first := newest.hub
	publish(first, 1)
	if err := load(`{"alerts": {"history": 5}, "other": {}}`); err != nil {
		log.Fatal(err)
	}
	publish(first, 2) // of the config before
	publish(newest.hub, 3)
	publish(caddysse.HubNamed("alerts"), 4)
	publish(caddysse.HubNamed("other"), 1)

	page, err := newest.hub.Connections(context.Background(), hub.Filter{}, "", 10)
	if err != nil || page.Count != 0 {
		log.Fatalf("%+v: %v", page, err)
	}
	if _, _, err := newest.hub.Disconnect(context.Background(), hub.Filter{Users: []string{"alice"}}); err != nil {
		log.Fatal(err)
	}
	if err := caddy.Stop(); err != nil {
		log.Fatal(err)
	}
	fmt.Println("all is well")
}
