// Command caddy is Caddy with this module, a handler that only streams, and an endpoint that returns free
// memory to the kernel.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/ea766355/caddy-sse"
)

func main() { caddycmd.Main() }
