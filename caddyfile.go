package caddysse

import (
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() {
	httpcaddyfile.RegisterGlobalOption("sse", parseGlobal)
	httpcaddyfile.RegisterHandlerDirective("sse", parseStream)
	httpcaddyfile.RegisterHandlerDirective("sse_api", parseHandler[API])
	httpcaddyfile.RegisterHandlerDirective("sse_cors", parseHandler[CORS])
	httpcaddyfile.RegisterDirective("sse_test", parseTestPage)
	// Caddy puts directives that serve content after those that may refuse a request:
	// abort, error and respond. The last call here puts its directive first.
	httpcaddyfile.RegisterDirectiveOrder("sse_test", httpcaddyfile.After, "respond")
	httpcaddyfile.RegisterDirectiveOrder("sse_api", httpcaddyfile.After, "respond")
	httpcaddyfile.RegisterDirectiveOrder("sse", httpcaddyfile.After, "respond")
	// Directives that authenticate must not see preflight requests.
	httpcaddyfile.RegisterDirectiveOrder("sse_cors", httpcaddyfile.After, "try_files")
}

// parseHandler is the directive of a handler that has UnmarshalCaddyfile.
func parseHandler[T any, P interface {
	*T
	caddyfile.Unmarshaler
	caddyhttp.MiddlewareHandler
}](h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	handler := P(new(T))
	return handler, handler.UnmarshalCaddyfile(h.Dispenser)
}

// parseStream parses the directive sse. It checks that the hub is configured, so that an
// error names the line.
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
	if err := app.checkConfigured(handler.Hub); err != nil {
		return nil, h.WrapErr(err)
	}
	return handler, nil
}

// parseGlobal parses the global option. It may be given once for each hub:
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
		return nil, d.WrapErr(errHubName(name))
	}
	if app.Hubs[name] != nil {
		return nil, d.Errf("hub %s is configured twice: put all its options into one block", name)
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
	return parseBlock(d, func(option string) error {
		switch option {
		case "history":
			if err := parseNumber(d, &c.History); err != nil {
				return err
			}
			if d.CountRemainingArgs() == 0 {
				return nil
			}
			return parseDuration(d, &c.HistoryAge)
		case "history_size":
			return parseSize(d, &c.HistorySize)
		case "max_event_size":
			return parseSize(d, &c.MaxEventSize)
		case "store":
			return parseStore(d, &c.StoreRaw)
		}
		return errOption(d, "the global option sse", hubOptions)
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
		return d.Errf("unexpected argument %q: a path must begin with /, and options belong into a block", d.Val())
	}
	return parseBlock(d, func(option string) error {
		switch option {
		case "hub":
			return parseText(d, &h.Hub)
		case "user":
			return parseText(d, &h.User)
		case "session":
			return parseText(d, &h.Session)
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
			return parseText(d, &h.Grants)
		case "heartbeat":
			return parseDuration(d, &h.Heartbeat)
		case "connection_timeout":
			return parseDuration(d, &h.ConnectionTimeout)
		case "max_lifetime":
			h.MaxLifetime = new(caddy.Duration)
			return parseDurationOrZero(d, h.MaxLifetime)
		case "expires":
			return parseText(d, &h.Expires)
		case "retry":
			h.RetryMin, h.RetryMax = new(caddy.Duration), new(caddy.Duration)
			if err := parseDurationOrZero(d, h.RetryMin); err != nil {
				return err
			}
			if err := parseDurationOrZero(d, h.RetryMax); err != nil {
				return err
			}
			if err := validateRetry(time.Duration(*h.RetryMin), time.Duration(*h.RetryMax)); err != nil {
				return d.WrapErr(err)
			}
			return nil
		case "takeover":
			return parseText(d, &h.Takeover)
		case "max_connections":
			return parseNumber(d, &h.MaxConnections)
		case "max_connections_per_user":
			return parseNumber(d, &h.MaxConnectionsPerUser)
		case "max_connections_per_ip":
			return parseNumber(d, &h.MaxConnectionsPerIP)
		}
		return errOption(d, "sse", streamOptions)
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
	return parseBlock(d, func(option string) error {
		return d.Errf("unknown option %q of sse_api, which has no options", option)
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
	return parseBlock(d, func(option string) error {
		if option != "headers" {
			return errOption(d, "sse_cors", []string{"headers"})
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

// parseTestPage makes a route of the directive. The directive takes a path, not a matcher,
// and serves that path and all paths below it.
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
	if err := p.normalizePath(); err != nil {
		return d.WrapErr(err)
	}
	return parseBlock(d, func(option string) error {
		switch option {
		case "stream":
			return parseText(d, &p.Stream)
		case "api":
			return parseText(d, &p.API)
		}
		return errOption(d, "sse_test", []string{"stream", "api"})
	})
}

// The names of all options, for errors.
var (
	hubOptions    = []string{"history", "history_size", "max_event_size", "store"}
	streamOptions = []string{
		"hub", "user", "session", "anonymous", "topics", "grants", "heartbeat", "connection_timeout", "max_lifetime",
		"expires", "retry", "takeover", "max_connections", "max_connections_per_user", "max_connections_per_ip",
	}
)

func errOption(d *caddyfile.Dispenser, directive string, available []string) error {
	return d.Errf("unknown option %q of %s (available: %s)", d.Val(), directive, strings.Join(available, ", "))
}

// parseBlock calls option for each line of the block. An option other than topics may be
// given once. The function option must read all arguments of its line.
func parseBlock(d *caddyfile.Dispenser, option func(string) error) error {
	seen := make(map[string]bool)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		name := d.Val()
		if seen[name] && name != "topics" {
			return d.Errf("option %s is given twice: give it once", name)
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

// parseStore parses the config of a store module.
func parseStore(d *caddyfile.Dispenser, to *json.RawMessage) error {
	if !d.NextArg() {
		return d.ArgErr()
	}
	kind := d.Val()
	if _, err := caddy.GetModule("sse.stores." + kind); err != nil {
		return d.Errf("unknown store %q (available: %s)%s", kind, strings.Join(storeKinds(), ", "), storeRemedies[kind])
	}
	module, err := caddyfile.UnmarshalModule(d, "sse.stores."+kind)
	if err != nil {
		return err
	}
	*to = caddyconfig.JSONModuleObject(module, "kind", kind, nil)
	return nil
}

// storeKinds lists the kinds of stores in this build of Caddy.
func storeKinds() (kinds []string) {
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

// Interface guards.
var (
	_ caddyfile.Unmarshaler = (*HubConfig)(nil)
	_ caddyfile.Unmarshaler = (*Handler)(nil)
	_ caddyfile.Unmarshaler = (*API)(nil)
	_ caddyfile.Unmarshaler = (*CORS)(nil)
	_ caddyfile.Unmarshaler = (*TestPage)(nil)
)
