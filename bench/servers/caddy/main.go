// Command caddy is Caddy with this module, with a handler that only streams, and
// with a call to give freed memory back to the kernel.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/ea766355/caddy-sse"
)

func main() { caddycmd.Main() }
