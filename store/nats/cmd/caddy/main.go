// Command caddy is Caddy with caddy-sse and its store on NATS.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/ea766355/caddy-sse"
	_ "github.com/ea766355/caddy-sse/store/nats"
)

func main() {
	caddycmd.Main()
}
