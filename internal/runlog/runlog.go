// Package runlog has the loggers of the config in force, for code that outlives the config
// that started it.
//
// [caddy.Log] is not enough: it writes to the default log alone, and a config can exclude a
// logger from that log, for example because another log includes it.
package runlog

import (
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"
)

var current atomic.Pointer[caddy.Context]

// Swap makes [Logger] use the logs of the config that has this context, and returns the
// context before. Nil stands for the default log.
func Swap(ctx *caddy.Context) (previous *caddy.Context) { return current.Swap(ctx) }

// Drop makes [Logger] use the default log, if it uses the logs of the config that has this
// context. The config has ended.
func Drop(ctx *caddy.Context) { current.CompareAndSwap(ctx, nil) }

// Logger returns a logger with the name of the module. It writes to each log of the config
// in force that includes this name. Call Logger for each line and do not keep the result,
// which belongs to one config.
func Logger(module caddy.Module) *zap.Logger {
	if ctx := current.Load(); ctx != nil {
		return ctx.Logger(module)
	}
	return caddy.Log().Named(string(module.CaddyModule().ID))
}
