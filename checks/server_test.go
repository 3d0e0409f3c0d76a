package checks

import (
	"bufio"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/ea766355/caddy-sse"
	"github.com/ea766355/caddy-sse/e2e"
	"github.com/ea766355/caddy-sse/hub"
)

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "caddy-sse-checks")
	if err != nil {
		panic(err)
	}
	// The go commands of a test use the existing caches.
	for _, name := range []string{"GOMODCACHE", "GOCACHE"} {
		if out, err := exec.Command("go", "env", name).Output(); err == nil {
			os.Setenv(name, strings.TrimSpace(string(out)))
		}
	}
	for _, name := range []string{"XDG_CONFIG_HOME", "XDG_DATA_HOME", "HOME"} {
		os.Setenv(name, dir)
	}
	caddy.RegisterModule(new(outOfReach))
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// outOfReach is a store that has lost its connection: it can serve streams but store nothing.
type outOfReach struct {
	// Mode is "doubt" if it is uncertain whether an event was stored, and "closed" if the history cannot be read
	// either.
	Mode string `json:"mode,omitempty"`
}

func (*outOfReach) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "sse.stores.contract", New: func() caddy.Module { return new(outOfReach) }}
}

func (o *outOfReach) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if d.NextArg() {
		o.Mode = d.Val()
	}
	for d.NextBlock(0) { // store nats has a block
		d.RemainingArgs()
	}
	return nil
}

func (o *outOfReach) Identity(hubName string) string { return "contract " + hubName }

func (o *outOfReach) Open(string) (hub.Store, error) {
	return &lostStore{Memory: hub.NewMemory(), mode: o.Mode}, nil
}

type lostStore struct {
	*hub.Memory
	mode string
}

var errAway = errors.New("the store is out of reach")

func (s *lostStore) Append(_ context.Context, entries []hub.Entry) ([]hub.Stored, error) {
	if s.mode == "doubt" {
		for i := range entries {
			entries[i].Key = cmp.Or(entries[i].Key, rand.Text())
		}
		return nil, fmt.Errorf("%w: %w", hub.ErrUncertain, errAway)
	}
	return nil, fmt.Errorf("%w: %w", hub.ErrNotStored, errAway)
}

func (s *lostStore) Shared() bool { return true }

func (s *lostStore) Note() string { return "it was last seen yesterday" }

func (s *lostStore) Tail(ctx context.Context, feed hub.Feed) {
	s.Memory.Tail(ctx, &lostFeed{feed, s.mode})
}

// lostFeed reports the loss of the store as soon as the history is open.
type lostFeed struct {
	hub.Feed
	mode string
}

func (f *lostFeed) Status(problem error, behind uint64) {
	if f.mode == "closed" {
		f.Feed.Status(errAway, 0)
		return
	}
	f.Feed.Status(problem, behind)
	if f.mode == "" && problem == nil && behind == 0 {
		f.Feed.Status(errAway, 0)
	}
}

// server is a Caddy in this process.
type server struct {
	admin, site string // addresses
}

// startCaddy starts a Caddy with hubs in the states of the examples: "away", "doubt" and "closed" have lost
// their stores, and "small" accepts only small events.
func startCaddy(t *testing.T) server {
	t.Helper()
	s := server{freeAddr(t), freeAddr(t)}
	var streams strings.Builder
	for _, name := range []string{"default", "away", "doubt", "small"} {
		fmt.Fprintf(&streams, "sse /events/%s {\n hub %[1]s\n user {http.request.header.X-User}\n session {http.request.cookie.sid}\n topics news\n grants room/1\n}\n", name)
	}
	config := fmt.Sprintf(`{
	admin %s
	persist_config off
	auto_https off
	log default {
		level ERROR
	}
	sse
	sse away {
		store contract
	}
	sse doubt {
		store contract doubt
	}
	sse closed {
		store contract closed
	}
	sse small {
		max_event_size 8B
	}
}
http://%s {
	%s
	handle_path /internal/* {
		sse_api
	}
}
`, s.admin, s.site, streams.String())
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(config), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		t.Fatal(err)
	}
	if err := caddy.Load(adapted, true); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func freeAddr(t *testing.T) string {
	t.Helper()
	return fmt.Sprintf("127.0.0.1:%d", e2e.FreePort(t))
}

// open opens a stream of alice and returns the id of its connection.
func (s server) open(t *testing.T, hubName string) (id string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.site+"/events/"+hubName, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-User", "alice")
	req.Header.Set("Cookie", "sid=123")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		var connected struct{ ConnectionID string }
		if err := json.Unmarshal([]byte(data), &connected); err != nil || connected.ConnectionID == "" {
			t.Fatalf("%s: the stream begins with %s", hubName, data)
		}
		return connected.ConnectionID
	}
	t.Fatalf("%s: no stream: %s, %v", hubName, resp.Status, lines.Err())
	return ""
}

// wait waits until a hub has n connections.
func (s server) wait(t *testing.T, hubName string, n int) {
	t.Helper()
	e2e.Wait(t, e2e.Patience, fmt.Sprintf("%d connections", n), func() error {
		resp, err := http.Get("http://" + s.admin + "/sse/connections?hub=" + hubName)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		var page struct{ Count int }
		err = json.NewDecoder(resp.Body).Decode(&page)
		if err == nil && page.Count != n {
			err = fmt.Errorf("hub %s has %d", hubName, page.Count)
		}
		return err
	})
}
