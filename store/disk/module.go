package disk

import (
	"path/filepath"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/ea766355/caddy-sse/hub"
)

func init() {
	caddy.RegisterModule(Disk{})
}

// Disk keeps a hub's history in a file. The history survives restarts and kill -9: a
// publish is answered when the event is synced to the disk. Only one process can have
// the file open.
type Disk struct {
	// The path of the file. The file and its directory are created if they do not
	// exist. Global placeholders are replaced. Default: sse/<hub>.db in Caddy's data
	// directory.
	Path string `json:"path,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (Disk) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "sse.stores.disk",
		New: func() caddy.Module { return new(Disk) },
	}
}

// Provision replaces placeholders in the path and makes it absolute.
func (d *Disk) Provision(caddy.Context) (err error) {
	if d.Path == "" {
		return nil
	}
	if d.Path, err = caddy.NewReplacer().ReplaceOrErr(d.Path, true, true); err != nil {
		return err
	}
	d.Path, err = filepath.Abs(d.Path)
	return err
}

// Identity returns the path of the hub's file.
func (d *Disk) Identity(hubName string) string {
	if d.Path != "" {
		return d.Path
	}
	return filepath.Join(caddy.AppDataDir(), "sse", hubName+".db")
}

// Open opens the hub's file.
func (d *Disk) Open(hubName string) (hub.Store, error) {
	return Open(d.Identity(hubName))
}

// UnmarshalCaddyfile reads the option:
//
//	store disk [<path>]
func (d *Disk) UnmarshalCaddyfile(t *caddyfile.Dispenser) error {
	t.Next()
	if t.NextArg() {
		d.Path = t.Val()
	}
	if t.NextArg() {
		return t.ArgErr()
	}
	if t.NextBlock(t.Nesting()) {
		return t.Errf("store disk has no options in a block, but got %q", t.Val())
	}
	return nil
}

// Interface guards.
var (
	_ caddy.Provisioner     = (*Disk)(nil)
	_ caddyfile.Unmarshaler = (*Disk)(nil)
)
