package caddysse

import (
	"strconv"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/dustin/go-humanize"
)

// parseText parses a text that is not empty. An empty text is a mistake, such as a variable
// of the environment that is not set: it would mean the default, such as another hub.
func parseText(d *caddyfile.Dispenser, to *string) error {
	option := d.Val()
	if !d.AllArgs(to) {
		return d.ArgErr()
	}
	if *to == "" {
		return d.Errf("option %s is empty: give it a value, or leave the option out for the default", option)
	}
	return nil
}

func parseNumber(d *caddyfile.Dispenser, to *int) error {
	if !d.NextArg() {
		return d.ArgErr()
	}
	n, err := strconv.Atoi(d.Val())
	if err != nil || n < 1 {
		return d.Errf("invalid number %q: it must be a positive integer", d.Val())
	}
	*to = n
	return nil
}

// parseDuration parses a duration above 0. The value 0 would mean the default.
func parseDuration(d *caddyfile.Dispenser, to *caddy.Duration) error {
	if err := parseDurationOrZero(d, to); err != nil {
		return err
	}
	if *to == 0 {
		return d.Errf("invalid duration %q: it must be more than 0; leave the option out for the default", d.Val())
	}
	return nil
}

func parseDurationOrZero(d *caddyfile.Dispenser, to *caddy.Duration) error {
	if !d.NextArg() {
		return d.ArgErr()
	}
	parsed, err := caddy.ParseDuration(d.Val())
	if err != nil || parsed < 0 {
		return d.Errf("invalid duration %q: it must be a duration such as 15s or 24h", d.Val())
	}
	if parsed > 0 && parsed < minDuration {
		return d.Errf("invalid duration %q: it must be at least %s", d.Val(), minDuration)
	}
	*to = caddy.Duration(parsed)
	return nil
}

func parseSize[T int | int64](d *caddyfile.Dispenser, to *T) error {
	if !d.NextArg() {
		return d.ArgErr()
	}
	n, err := humanize.ParseBytes(d.Val())
	if err != nil || n < 1 || n > 1<<40 {
		return d.Errf("invalid size %q: it must be 1 byte to 1 TiB, such as 64MiB", d.Val())
	}
	*to = T(n)
	return nil
}
