package caddysse_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/caddyserver/caddy/v2"

	caddysse "github.com/ea766355/caddy-sse"
	"github.com/ea766355/caddy-sse/hub"
)

// A program that embeds Caddy publishes without HTTP.
func ExampleHubNamed() {
	config := []byte(`{"admin": {"disabled": true}, "logging": {"logs": {"default": {"level": "PANIC"}}}, "apps": {"sse": {"hubs": {"default": {}}}}}`)
	if err := caddy.Load(config, true); err != nil {
		fmt.Println(err)
		return
	}
	defer caddy.Stop()

	orders := caddysse.HubNamed("default")
	receipts, err := orders.Publish(context.Background(), hub.Event{
		Type:    "order_update",
		Data:    []byte(`{"orderId":"123","status":"shipped"}`),
		Targets: []hub.Target{{Kind: hub.User, Name: "alice"}},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("stored as number", receipts[0].Position.Seq, "for", receipts[0].Connections, "open connections")

	_, err = caddysse.HubNamed("oders").Publish(context.Background(), hub.Event{Data: []byte("x"), Targets: []hub.Target{{}}})
	if unknown, ok := errors.AsType[*caddysse.UnknownHub](err); ok {
		fmt.Println("available:", unknown.Available)
	}
	// Output:
	// stored as number 1 for 0 open connections
	// available: [default]
}

// A program that embeds Caddy lists the connections of a user page by page, and ends them.
func ExampleHub_Connections() {
	config := []byte(`{"admin": {"disabled": true}, "logging": {"logs": {"default": {"level": "PANIC"}}}, "apps": {"sse": {"hubs": {"default": {}}}}}`)
	if err := caddy.Load(config, true); err != nil {
		fmt.Println(err)
		return
	}
	defer caddy.Stop()

	ctx, h := context.Background(), caddysse.HubNamed("default")
	alice := hub.Filter{Users: []string{"alice"}}
	for after := ""; ; {
		page, err := h.Connections(ctx, alice, after, 100)
		if err != nil {
			fmt.Println(err)
			return
		}
		for _, c := range page.Connections {
			fmt.Println(c.ID, c.Protocol)
		}
		fmt.Println(len(page.Connections), "of", page.Count)
		if after = page.Next; after == "" {
			break
		}
	}
	n, missing, err := h.Disconnect(ctx, alice)
	fmt.Println(n, missing, err)
	// Output:
	// 0 of 0
	// 0 [] <nil>
}

// Back ends name a session by its hash, so that its value stays a secret.
func ExampleSessionHash() {
	fmt.Println(caddysse.SessionHash("secret"))
	// Output: 2bb80d537b1da3e38bd30361aa855686
}

// Notifier is a module that publishes.
type Notifier struct{ hub caddysse.Hub }

// CaddyModule returns the Caddy module information.
func (Notifier) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "example_notifier", New: func() caddy.Module { return new(Notifier) }}
}

// Provision finds the hub. A config without the hub fails to load.
func (n *Notifier) Provision(ctx caddy.Context) error {
	app, err := ctx.App("sse")
	if err != nil {
		return err
	}
	n.hub, err = app.(*caddysse.App).Hub("alerts")
	return err
}

// Notify publishes a text to everyone.
func (n *Notifier) Notify(ctx context.Context, text string) error {
	_, err := n.hub.Publish(ctx, hub.Event{Data: []byte(text), Targets: []hub.Target{{Kind: hub.All}}})
	return err
}

// Start has nothing to do.
func (*Notifier) Start() error { return nil }

// Stop has nothing to do.
func (*Notifier) Stop() error { return nil }

// Another module of Caddy gets a hub in its Provision.
func ExampleApp_Hub() {
	caddy.RegisterModule(Notifier{})
	load := func(hub string) error {
		config := `{"admin": {"disabled": true}, "logging": {"logs": {"default": {"level": "PANIC"}}}, "apps": {"example_notifier": {}, "sse": {"hubs": {"` + hub + `": {}}}}}`
		return caddy.Load([]byte(config), true)
	}
	defer caddy.Stop()
	fmt.Println(load("news"))
	fmt.Println(load("alerts"))
	// Output:
	// loading new config: loading example_notifier app module: provision example_notifier: hub "alerts" is not configured: add `sse alerts` to the global options
	// <nil>
}
