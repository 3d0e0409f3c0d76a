package hub

import (
	"context"

	"github.com/ea766355/caddy-sse/bench/internal/load"
)

// raw is a loop of write(2). It is the lower bound of all.
type raw struct{ bin string }

func (h *raw) Name() string { return "raw write(2) loop" }

func (h *raw) Abilities() Abilities { return Abilities{Publish: true} }

func (h *raw) Prepare(ctx context.Context, w Workshop) (version string, err error) {
	h.bin, err = build(ctx, w, "raw")
	return "one write(2) an event and connection, in Go", err
}

func (h *raw) Start(ctx context.Context, s Site) (*Server, error) {
	addr, err := addresses(1)
	if err != nil {
		return nil, err
	}
	srv := &Server{H1: addr[0], API: addr[0]}
	return srv, srv.launch(ctx, s, h.bin, "-listen", srv.H1)
}

func (h *raw) Stream(string, string) load.Request { return load.Request{Path: "/"} }

func (h *raw) Publish(_ string, data []byte) load.Request {
	return load.Request{Path: "/", Body: data}
}

func (h *raw) Position([]byte) (string, error) { return "", errNone }
