package hub

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"

	"github.com/ea766355/caddy-sse/bench/internal/load"
)

// centrifuge is the Go library of Centrifugo, with its SSE handler.
type centrifuge struct{ bin string }

func (h *centrifuge) Name() string { return "Centrifuge" }

func (h *centrifuge) Abilities() Abilities {
	return Abilities{Publish: true, TLS: true, H2: true, Users: true, Resume: true}
}

func (h *centrifuge) Prepare(ctx context.Context, w Workshop) (_ string, err error) {
	if h.bin, err = build(ctx, w, "centrifuge"); err != nil {
		return "", err
	}
	return version(ctx, w, "centrifuge", "github.com/centrifugal/centrifuge")
}

func (h *centrifuge) Start(ctx context.Context, s Site) (*Server, error) {
	addr, err := addresses(2)
	if err != nil {
		return nil, err
	}
	srv := &Server{H1: addr[0], API: addr[0], TLS: addr[1], settle: "http://" + addr[0] + "/settle"}
	return srv, srv.launch(ctx, s, h.bin, "-listen", srv.H1, "-tls", srv.TLS, "-cert", s.Cert, "-key", s.Key)
}

// Stream is a connect command. A position is a subscription with recovery.
func (h *centrifuge) Stream(user, position string) load.Request {
	connect := `{"id":1,"connect":{}}`
	if position != "" {
		connect = fmt.Sprintf(`{"id":1,"connect":{"subs":{"everyone":{"recover":true,%s}}}}`, position)
	}
	r := load.Request{Path: "/events?cf_connect=" + url.QueryEscape(connect)}
	if user != "" {
		r.Header = []string{"X-User", user}
	}
	return r
}

func (h *centrifuge) Publish(user string, data []byte) load.Request {
	path := "/publish"
	if user != "" {
		path += "?user=" + url.QueryEscape(user)
	}
	return load.Request{Path: path, Body: data}
}

func (h *centrifuge) Position(receipt []byte) (string, error) {
	var answer struct {
		Offset uint64 `json:"offset"`
		Epoch  string `json:"epoch"`
	}
	if err := json.Unmarshal(receipt, &answer); err != nil || answer.Epoch == "" {
		return "", fmt.Errorf("no position in the receipt %q", receipt)
	}
	return fmt.Sprintf(`"offset":%d,"epoch":%q`, answer.Offset, answer.Epoch), nil
}
