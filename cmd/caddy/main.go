// Command caddy is Caddy with this module and its standard ones.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/ea766355/caddy-sse"
)

func main() {
	caddycmd.Main()
}
