package caddysse

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/ea766355/caddy-sse/testpage"
)

func init() {
	caddy.RegisterModule(TestPage{})
}

// TestPage serves a page that shows a stream live and sends test messages
// through sse_api. It reads and sends as whoever looks at it, so it needs the
// authentication that the stream has.
type TestPage struct {
	// The path of the page; everything below it belongs to the page too.
	// Default: none; it must be given.
	Path string `json:"path,omitempty"`

	// The path of the stream that it shows. Default: /events.
	Stream string `json:"stream,omitempty"`

	// The address of the API by which it sends, up to and with /sse, such as
	// /internal/sse where sse_api is mounted at /internal. Default: none, the
	// page cannot send.
	API string `json:"api,omitempty"`

	files  http.Handler
	config []byte
}

// CaddyModule returns the Caddy module information.
func (TestPage) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.sse_test",
		New: func() caddy.Module { return new(TestPage) },
	}
}

// Provision prepares what is served.
func (p *TestPage) Provision(caddy.Context) error {
	orDefault(&p.Stream, "/events")
	p.Path = strings.TrimSuffix(p.Path, "/")
	if !strings.HasPrefix(p.Path, "/") {
		return fmt.Errorf("path %q: it must begin with / and have something behind it", p.Path)
	}
	dist, err := fs.Sub(testpage.Files, "dist")
	if err != nil {
		return err
	}
	p.files = http.StripPrefix(p.Path, http.FileServerFS(dist))
	p.config, err = json.Marshal(struct {
		Stream string `json:"stream"`
		API    string `json:"api,omitempty"`
	}{p.Stream, p.API})
	return err
}

// contentPolicy allows the page what it has: its own files, and requests to its
// own site.
const contentPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; " +
	"img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// ServeHTTP serves the page's files, and the config that they read.
func (p *TestPage) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	name, below := strings.CutPrefix(r.URL.Path, p.Path)
	if name == "" && below {
		// The page names its files relative to itself. So does this, as a handler
		// before it may have taken a prefix off the path.
		w.Header().Set("Location", path.Base(p.Path)+"/")
		w.WriteHeader(http.StatusTemporaryRedirect)
		return nil
	}
	if !below || name[0] != '/' {
		return next.ServeHTTP(w, r)
	}
	header := w.Header()
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		header.Set("Allow", "GET, HEAD")
		return refuse(w, r, http.StatusMethodNotAllowed, errors.New("method not allowed: use GET"))
	}
	if path.Clean(name) == "/assets" { // which would list them
		return refuse(w, r, http.StatusNotFound, errors.New("there is no such file"))
	}
	header.Set("Content-Security-Policy", contentPolicy)
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Referrer-Policy", "no-referrer")
	switch {
	case strings.HasPrefix(name, "/assets/"): // their names change with their content
		header.Set("Cache-Control", "max-age=31536000, immutable")
	default:
		header.Set("Cache-Control", "no-cache")
	}
	if name == "/config.json" {
		header.Set("Content-Type", typeJSON)
		_, err := w.Write(p.config)
		return err
	}
	p.files.ServeHTTP(w, r)
	return nil
}

// Interface guards.
var (
	_ caddy.Provisioner           = (*TestPage)(nil)
	_ caddyhttp.MiddlewareHandler = (*TestPage)(nil)
)
