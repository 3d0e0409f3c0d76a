package caddysse

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/dustin/go-humanize"
)

func init() {
	httpcaddyfile.RegisterGlobalOption("sse", parseGlobal)
	httpcaddyfile.RegisterHandlerDirective("sse", parseStream)
	httpcaddyfile.RegisterHandlerDirective("sse_api", parseHandler[API])
	httpcaddyfile.RegisterHandlerDirective("sse_cors", parseHandler[CORS])
	httpcaddyfile.RegisterDirective("sse_test", parseTestPage)
	// Like all that serves content in Caddy, after what may deny it: abort, error and
	// respond. Each is put before the one that was put there before it.
	httpcaddyfile.RegisterDirectiveOrder("sse_test", httpcaddyfile.After, "respond")
	httpcaddyfile.RegisterDirectiveOrder("sse_api", httpcaddyfile.After, "respond")
	httpcaddyfile.RegisterDirectiveOrder("sse", httpcaddyfile.After, "respond")
	// Before all that authenticates, which must not see preflight requests.
	httpcaddyfile.RegisterDirectiveOrder("sse_cors", httpcaddyfile.After, "try_files")
}

// parseHandler makes a directive of a handler that unmarshals itself.
func parseHandler[T any, P interface {
	*T
	caddyfile.Unmarshaler
	caddyhttp.MiddlewareHandler
}](h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	handler := P(new(T))
	return handler, handler.UnmarshalCaddyfile(h.Dispenser)
}

// parseStream makes sure that the hub is there, while the line is known.
func parseStream(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	handler := new(Handler)
	if err := handler.UnmarshalCaddyfile(h.Dispenser); err != nil {
		return nil, err
	}
	var app App
	if global, ok := h.Option("sse").(httpcaddyfile.App); ok {
		if err := json.Unmarshal(global.Value, &app); err != nil {
			return nil, err
		}
	}
	if err := app.configured(handler.Hub); err != nil {
		return nil, h.WrapErr(err)
	}
	return handler, nil
}

// parseGlobal parses the global option, which may be given once for each hub:
//
//	sse [<name>] {
//		history        <events> [<age>]
//		history_size   <size>
//		max_event_size <size>
//		store          <kind> ...
//	}
func parseGlobal(d *caddyfile.Dispenser, existing any) (any, error) {
	app := App{Hubs: make(map[string]*HubConfig)}
	if before, ok := existing.(httpcaddyfile.App); ok {
		if err := json.Unmarshal(before.Value, &app); err != nil {
			return nil, err
		}
	}
	d.Next()
	name := defaultHub
	if d.NextArg() {
		name = d.Val()
	}
	if !hubName.MatchString(name) {
		return nil, d.Errf("hub name %q: 1 to 32 of a-z, 0-9, - and _ are allowed", name)
	}
	if app.Hubs[name] != nil {
		return nil, d.Errf("hub %s is configured already", name)
	}
	if d.NextArg() {
		return nil, d.ArgErr()
	}
	config := new(HubConfig)
	if err := config.UnmarshalCaddyfile(d); err != nil {
		return nil, err
	}
	if err := config.validate(); err != nil {
		return nil, d.WrapErr(err)
	}
	app.Hubs[name] = config
	return httpcaddyfile.App{Name: "sse", Value: caddyconfig.JSON(&app, nil)}, nil
}

// UnmarshalCaddyfile reads the block of the global option.
func (c *HubConfig) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	return block(d, func(option string) error {
		switch option {
		case "history":
			if err := number(d, &c.History); err != nil {
				return err
			}
			if d.CountRemainingArgs() == 0 {
				return nil
			}
			return duration(d, &c.HistoryAge)
		case "history_size":
			return size(d, &c.HistorySize)
		case "max_event_size":
			return size(d, &c.MaxEventSize)
		case "store":
			return store(d, &c.StoreRaw)
		}
		return d.Errf("unrecognized option of sse: %s", option)
	})
}

// UnmarshalCaddyfile reads the directive:
//
//	sse [<matcher>] {
//		hub                      <name>
//		user                     <value>
//		session                  <value>
//		anonymous
//		topics                   <pattern...>
//		grants                   <value>
//		heartbeat                <duration>
//		connection_timeout       <duration>
//		max_lifetime             <duration>
//		expires                  <value>
//		retry                    <min> <max>
//		takeover                 on|off
//		max_connections          <number>
//		max_connections_per_user <number>
//		max_connections_per_ip   <number>
//	}
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if d.NextArg() {
		return d.Errf("unexpected argument %q: a path to match begins with /, everything else goes into a block", d.Val())
	}
	return block(d, func(option string) error {
		switch option {
		case "hub":
			return text(d, &h.Hub)
		case "user":
			return text(d, &h.User)
		case "session":
			return text(d, &h.Session)
		case "anonymous":
			h.Anonymous = true
			return nil
		case "topics":
			topics := d.RemainingArgs()
			if len(topics) == 0 {
				return d.ArgErr()
			}
			for _, topic := range topics {
				if err := validateTopic(topic); err != nil {
					return d.WrapErr(err)
				}
			}
			h.Topics = append(h.Topics, topics...)
			return nil
		case "grants":
			return text(d, &h.Grants)
		case "heartbeat":
			return duration(d, &h.Heartbeat)
		case "connection_timeout":
			return duration(d, &h.ConnectionTimeout)
		case "max_lifetime":
			h.MaxLifetime = new(caddy.Duration)
			return durationOrZero(d, h.MaxLifetime)
		case "expires":
			return text(d, &h.Expires)
		case "retry":
			h.RetryMin, h.RetryMax = new(caddy.Duration), new(caddy.Duration)
			if err := durationOrZero(d, h.RetryMin); err != nil {
				return err
			}
			if err := durationOrZero(d, h.RetryMax); err != nil {
				return err
			}
			if err := validateRetry(time.Duration(*h.RetryMin), time.Duration(*h.RetryMax)); err != nil {
				return d.WrapErr(err)
			}
			return nil
		case "takeover":
			return text(d, &h.Takeover)
		case "max_connections":
			return number(d, &h.MaxConnections)
		case "max_connections_per_user":
			return number(d, &h.MaxConnectionsPerUser)
		case "max_connections_per_ip":
			return number(d, &h.MaxConnectionsPerIP)
		}
		return d.Errf("unrecognized option of sse: %s", option)
	})
}

// UnmarshalCaddyfile reads the directive:
//
//	sse_api [<matcher>]
func (*API) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if d.NextArg() {
		return d.ArgErr()
	}
	return block(d, func(option string) error {
		return d.Errf("unrecognized option of sse_api: %s", option)
	})
}

// UnmarshalCaddyfile reads the directive:
//
//	sse_cors [<matcher>] <origin...> {
//		headers <name...>
//	}
func (c *CORS) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	c.Origins = d.RemainingArgs()
	if err := c.Validate(); err != nil {
		return d.WrapErr(err)
	}
	return block(d, func(option string) error {
		if option != "headers" {
			return d.Errf("unrecognized option of sse_cors: %s", option)
		}
		if c.Headers = d.RemainingArgs(); len(c.Headers) == 0 {
			return d.ArgErr()
		}
		if err := c.Validate(); err != nil {
			return d.WrapErr(err)
		}
		return nil
	})
}

// parseTestPage makes a route of the directive, which takes a path and not a
// matcher: it serves the path and what is below.
func parseTestPage(h httpcaddyfile.Helper) ([]httpcaddyfile.ConfigValue, error) {
	page := new(TestPage)
	if err := page.UnmarshalCaddyfile(h.Dispenser); err != nil {
		return nil, err
	}
	return h.NewRoute(caddy.ModuleMap{
		"path": h.JSON(caddyhttp.MatchPath{page.Path, page.Path + "/*"}),
	}, page), nil
}

// UnmarshalCaddyfile reads the directive:
//
//	sse_test <path> {
//		stream <path>
//		api    <path>
//	}
func (p *TestPage) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if !d.AllArgs(&p.Path) {
		return d.ArgErr()
	}
	p.Path = strings.TrimSuffix(p.Path, "/")
	if !strings.HasPrefix(p.Path, "/") {
		return d.Errf("%q must be a path below /, such as /sse-test", p.Path)
	}
	return block(d, func(option string) error {
		switch option {
		case "stream":
			return text(d, &p.Stream)
		case "api":
			return text(d, &p.API)
		}
		return d.Errf("unrecognized option of sse_test: %s", option)
	})
}

// block calls option for each line of the block. An option may be given once,
// except topics, and must take all of its arguments.
func block(d *caddyfile.Dispenser, option func(string) error) error {
	seen := make(map[string]bool)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		name := d.Val()
		if seen[name] && name != "topics" {
			return d.Errf("%s is given twice", name)
		}
		seen[name] = true
		if err := option(name); err != nil {
			return err
		}
		if d.NextArg() {
			return d.ArgErr()
		}
	}
	return nil
}

// store reads a module of the namespace sse.stores; memory is no module.
func store(d *caddyfile.Dispenser, to *json.RawMessage) error {
	if !d.NextArg() {
		return d.ArgErr()
	}
	kind := d.Val()
	if kind == "memory" {
		return nil
	}
	if _, err := caddy.GetModule("sse.stores." + kind); err != nil {
		return d.Errf("unknown store %q (this build has: %s)%s", kind, strings.Join(storeKinds(), ", "), storeRemedies[kind])
	}
	module, err := caddyfile.UnmarshalModule(d, "sse.stores."+kind)
	if err != nil {
		return err
	}
	*to = caddyconfig.JSONModuleObject(module, "kind", kind, nil)
	return nil
}

// storeKinds are those that this build of Caddy has.
func storeKinds() []string {
	kinds := []string{"memory"}
	for _, module := range caddy.GetModules("sse.stores") {
		kinds = append(kinds, module.ID.Name())
	}
	slices.Sort(kinds)
	return kinds
}

// storeRemedies say how to get a store that is a Go module of its own.
var storeRemedies = map[string]string{
	"nats": ": build Caddy with xcaddy build --with github.com/ea766355/caddy-sse --with github.com/ea766355/caddy-sse/store/nats",
}

func text(d *caddyfile.Dispenser, to *string) error {
	if !d.AllArgs(to) {
		return d.ArgErr()
	}
	return nil
}

func number(d *caddyfile.Dispenser, to *int) error {
	if !d.NextArg() {
		return d.ArgErr()
	}
	n, err := strconv.Atoi(d.Val())
	if err != nil || n < 1 {
		return d.Errf("%q must be a number from 1 on", d.Val())
	}
	*to = n
	return nil
}

// duration reads one that must not be 0, which would mean the default.
func duration(d *caddyfile.Dispenser, to *caddy.Duration) error {
	if err := durationOrZero(d, to); err != nil {
		return err
	}
	if *to == 0 {
		return d.Errf("%q must be more than 0", d.Val())
	}
	return nil
}

func durationOrZero(d *caddyfile.Dispenser, to *caddy.Duration) error {
	if !d.NextArg() {
		return d.ArgErr()
	}
	parsed, err := caddy.ParseDuration(d.Val())
	if err != nil || parsed < 0 {
		return d.Errf("%q must be a duration, such as 15s or 24h", d.Val())
	}
	*to = caddy.Duration(parsed)
	return nil
}

func size[T int | int64](d *caddyfile.Dispenser, to *T) error {
	if !d.NextArg() {
		return d.ArgErr()
	}
	n, err := humanize.ParseBytes(d.Val())
	if err != nil || n < 1 || n > 1<<40 {
		return d.Errf("%q must be a size, such as 64MiB", d.Val())
	}
	*to = T(n)
	return nil
}

// Interface guards.
var (
	_ caddyfile.Unmarshaler = (*HubConfig)(nil)
	_ caddyfile.Unmarshaler = (*Handler)(nil)
	_ caddyfile.Unmarshaler = (*API)(nil)
	_ caddyfile.Unmarshaler = (*CORS)(nil)
	_ caddyfile.Unmarshaler = (*TestPage)(nil)
)
