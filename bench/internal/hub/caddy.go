package hub

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"text/template"

	"github.com/ea766355/caddy-sse/bench/internal/load"
)

//go:embed Caddyfile
var caddyfile string

var caddyTemplate = template.Must(template.New("Caddyfile").Funcs(template.FuncMap{"port": port}).Parse(caddyfile))

// startCaddy starts the bench's Caddy with a route for the streams.
func startCaddy(ctx context.Context, bin string, s Site, route string) (*Server, error) {
	addr, err := addresses(3)
	if err != nil {
		return nil, err
	}
	srv := &Server{
		H1: addr[0], TLS: addr[1], API: addr[2],
		settle:  "http://" + addr[2] + "/bench/settle",
		profile: "http://" + addr[2] + "/debug/pprof/profile",
	}
	conf := filepath.Join(s.Dir, "Caddyfile")
	f, err := os.Create(conf)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := caddyTemplate.Execute(f, map[string]any{"Site": s, "Server": srv, "Route": route}); err != nil {
		return nil, err
	}
	return srv, srv.launch(ctx, s, bin, "run", "--config", conf, "--adapter", "caddyfile")
}

// module is this module, with or without taking connections over.
type module struct {
	name     string
	takeover bool
	bin      string
}

func (h *module) Name() string { return h.name }

func (h *module) Abilities() Abilities {
	// Streams over HTTP/2 are never taken over. Over HTTP/3 the row without is left out to save time.
	return Abilities{Publish: true, TLS: true, H2: h.takeover, H3: h.takeover, Users: true, Resume: true, Keep: h.takeover}
}

func (h *module) Prepare(ctx context.Context, w Workshop) (_ string, err error) {
	if h.bin, err = build(ctx, w, "caddy"); err != nil {
		return "", err
	}
	caddy, err := version(ctx, w, "caddy", "github.com/caddyserver/caddy/v2")
	return "this working tree, " + caddy, err
}

func (h *module) Start(ctx context.Context, s Site) (*Server, error) {
	identity := "anonymous"
	if s.Users {
		identity = "user {http.request.header.X-User}"
	}
	takeover := ""
	if !h.takeover {
		takeover = "takeover off"
	}
	return startCaddy(ctx, h.bin, s, fmt.Sprintf("sse /events {\n%s\nheartbeat %s\n%s\n}", identity, Heartbeat, takeover))
}

func (h *module) Stream(user, position string) load.Request {
	r := load.Request{Path: "/events"}
	if user != "" {
		r.Header = append(r.Header, "X-User", user)
	}
	if position != "" {
		r.Header = append(r.Header, "Last-Event-ID", position)
	}
	return r
}

func (h *module) Publish(user string, data []byte) load.Request {
	r := load.Request{Path: "/sse/broadcast", Header: []string{"Content-Type", "application/json"}}
	if user == "" {
		r.Body = fmt.Appendf(nil, `{"type":"b","data":%s}`, data)
		return r
	}
	r.Path = "/sse/send"
	r.Body = fmt.Appendf(nil, `{"user":%q,"type":"b","data":%s}`, user, data)
	return r
}

func (h *module) Position(receipt []byte) (string, error) {
	var answer struct {
		ID string `json:"id"`
	}
	if err := json.Unmarshal(receipt, &answer); err != nil || answer.ID == "" {
		return "", fmt.Errorf("no id in the receipt %q", receipt)
	}
	return answer.ID, nil
}

// empty is a Caddy handler that only streams. It is the lower bound of the normal path.
type empty struct{ bin string }

func (h *empty) Name() string { return "empty Caddy handler" }

func (h *empty) Abilities() Abilities { return Abilities{Publish: true, TLS: true, H2: true, H3: true} }

func (h *empty) Prepare(ctx context.Context, w Workshop) (_ string, err error) {
	if h.bin, err = build(ctx, w, "caddy"); err != nil {
		return "", err
	}
	return version(ctx, w, "caddy", "github.com/caddyserver/caddy/v2")
}

func (h *empty) Start(ctx context.Context, s Site) (*Server, error) {
	srv, err := startCaddy(ctx, h.bin, s, "bench_empty /events")
	if err == nil {
		srv.API = srv.H1
	}
	return srv, err
}

func (h *empty) Stream(string, string) load.Request { return load.Request{Path: "/events"} }

func (h *empty) Publish(_ string, data []byte) load.Request {
	return load.Request{Path: "/events", Body: data}
}

func (h *empty) Position([]byte) (string, error) { return "", errNone }
