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

// TestPage serves a page that shows a stream live and sends test messages through sse_api.
// The page connects and sends with the login of its visitor, so it needs the same
// authentication as the stream.
type TestPage struct {
	// The path of the page. All paths below it belong to the page, too. It must be given.
	// Default: none.
	Path string `json:"path,omitempty"`

	// The path of the stream that the page shows. Default: /events.
	Stream string `json:"stream,omitempty"`

	// The address of the API that the page sends to, including /sse, such as /internal/sse
	// if sse_api is mounted at /internal. Default: none; the page cannot send.
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

// Provision sets the defaults and prepares the files.
func (p *TestPage) Provision(caddy.Context) error {
	orDefault(&p.Stream, "/events")
	if err := p.normalizePath(); err != nil {
		return err
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

// normalizePath removes the slash at the end of the path. It returns an error if no request
// would have the path.
func (p *TestPage) normalizePath() error {
	path := strings.TrimSuffix(p.Path, "/")
	const special = "*?#%{}" // in patterns, placeholders and URLs
	if !strings.HasPrefix(path, "/") || strings.ContainsAny(path, special) {
		return fmt.Errorf("invalid path %q: it must begin with /, must not be / itself, and must not contain any of %s; for example /sse-test", p.Path, special)
	}
	p.Path = path
	return nil
}

// contentPolicy allows the page its own files and requests to its own site.
const contentPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; " +
	"img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// ServeHTTP serves the files of the page and the config that the page reads.
func (p *TestPage) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	name, below := strings.CutPrefix(r.URL.Path, p.Path)
	if name == "" && below {
		// The target is relative, like the addresses on the page: a handler before this
		// one may have removed a prefix from the path.
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
		return refuse(w, r, http.StatusMethodNotAllowed, errNotGET)
	}
	if path.Clean(name) == "/assets" { // the file server would list the directory
		return refuse(w, r, http.StatusNotFound, errors.New("file not found"))
	}
	header.Set("Content-Security-Policy", contentPolicy)
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Referrer-Policy", "no-referrer")
	switch {
	case strings.HasPrefix(path.Clean(name), "/assets/"): // a file with other content has another name
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
