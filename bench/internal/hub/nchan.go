package hub

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"text/template"

	"github.com/ea766355/caddy-sse/bench/internal/load"
)

// nchanModule is the path in Debian's libnginx-mod-nchan.
const nchanModule = "/usr/lib/nginx/modules/ngx_nchan_module.so"

//go:embed nginx.conf
var nginxConf string

var nginxTemplate = template.Must(template.New("nginx.conf").Parse(nginxConf))

// nchan is nginx with the Nchan module and one worker.
type nchan struct{ bin string }

func (h *nchan) Name() string { return "Nchan" }

func (h *nchan) Abilities() Abilities {
	return Abilities{Publish: true, TLS: true, H2: true, Users: true, Resume: true}
}

func (h *nchan) Prepare(ctx context.Context, _ Workshop) (string, error) {
	bin, err := exec.LookPath("nginx")
	if err != nil {
		return "", errors.New("nginx is not installed (Debian: apt-get install nginx libnginx-mod-nchan)")
	}
	h.bin = bin
	if _, err := os.Stat(nchanModule); err != nil {
		return "", errors.New("the Nchan module is not installed (Debian: apt-get install libnginx-mod-nchan)")
	}
	version, err := exec.CommandContext(ctx, bin, "-v").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("nginx -v: %w", err)
	}
	_, nginx, _ := strings.Cut(strings.TrimSpace(string(version)), "nginx version: ")
	pkg, err := exec.CommandContext(ctx, "dpkg-query", "-W", "-f", "${Version}", "libnginx-mod-nchan").Output()
	if err != nil {
		pkg = []byte("of unknown version")
	}
	return fmt.Sprintf("libnginx-mod-nchan %s, %s", pkg, nginx), nil
}

func (h *nchan) Start(ctx context.Context, s Site) (*Server, error) {
	addr, err := addresses(2)
	if err != nil {
		return nil, err
	}
	srv := &Server{H1: addr[0], API: addr[0], TLS: addr[1]}
	conf := filepath.Join(s.Dir, "nginx.conf")
	f, err := os.Create(conf)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := nginxTemplate.Execute(f, map[string]any{"Site": s, "Server": srv, "Module": nchanModule}); err != nil {
		return nil, err
	}
	return srv, srv.launch(ctx, s, h.bin, "-p", s.Dir, "-c", conf, "-e", "stderr")
}

func (h *nchan) Stream(user, position string) load.Request {
	r := load.Request{Path: "/events?channel=" + nchanChannel(user)}
	if position != "" {
		r.Header = []string{"Last-Event-ID", position}
	}
	return r
}

func (h *nchan) Publish(user string, data []byte) load.Request {
	return load.Request{
		Path:   "/publish?channel=" + nchanChannel(user),
		Header: []string{"Content-Type", "application/json", "Accept", "application/json", "X-EventSource-Event", "b"},
		Body:   data,
	}
}

func nchanChannel(user string) string {
	if user == "" {
		return "everyone"
	}
	return "user-" + url.QueryEscape(user)
}

func (h *nchan) Position(receipt []byte) (string, error) {
	var answer struct {
		LastMessageID string `json:"last_message_id"`
	}
	if err := json.Unmarshal(receipt, &answer); err != nil || answer.LastMessageID == "" {
		return "", fmt.Errorf("no last_message_id in the receipt %q", receipt)
	}
	return answer.LastMessageID, nil
}
