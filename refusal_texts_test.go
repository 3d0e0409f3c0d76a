package caddysse_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	caddysse "github.com/ea766355/caddy-sse"
	"github.com/ea766355/caddy-sse/hub"
)

// This file has the texts of all refusals of the Caddyfile, the config, the stream, the API and
// the Go API, so that they can be read in one place.
const refusalTexts = "testdata/refusals.txt"

var updateTexts = flag.Bool("update", false, "whether TestRefusalTexts writes "+refusalTexts)

// refusalList collects requests and the refusals that Caddy gives to them.
type refusalList struct{ strings.Builder }

func (l *refusalList) section(title string) { fmt.Fprintf(l, "\n## %s\n", title) }

func (l *refusalList) add(request, refusal string) {
	fmt.Fprintf(l, "\n%s\n    %s\n", shorten(oneLine(request)), shorten(oneLine(strings.TrimSpace(refusal))))
}

func oneLine(s string) string { return strings.ReplaceAll(s, "\n", "; ") }

// shorten shortens the repeated parts of requests that exceed a limit.
func shorten(s string) string {
	for _, long := range repeated.FindAllString(s, -1) {
		s = strings.Replace(s, long, long[:8]+"...", 1)
	}
	return s
}

var repeated = regexp.MustCompile(`x{9,}|(?:t,){9,}|(?:topic=x&){9,}|(?:"x",){9,}|(?:\{"data":1\}; ){9,}`)

// TestRefusalTexts: each refusal has the text in the file. Read the difference before you rewrite
// the file with -update.
func TestRefusalTexts(t *testing.T) {
	var l refusalList
	l.WriteString("# What this module refuses, and the text of each refusal\n\nThis file is written by: go test -run TestRefusalTexts -update .\n")
	listCaddyfileRefusals(t, &l)
	listConfigRefusals(t, &l)
	listStreamRefusals(t, &l)
	listAPIRefusals(t, &l)
	listGoRefusals(t, &l)
	if *updateTexts {
		if err := os.WriteFile(refusalTexts, []byte(l.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(refusalTexts)
	if err != nil {
		t.Fatal(err)
	}
	got, wanted := strings.Split(l.String(), "\n"), strings.Split(string(want), "\n")
	for i := range max(len(got), len(wanted)) {
		if i >= len(got) || i >= len(wanted) || got[i] != wanted[i] {
			t.Fatalf("line %d of %s differs:\ngot  %s\nwant %s", i+1, refusalTexts,
				strings.Join(got[min(i, len(got)):min(i+1, len(got))], ""), strings.Join(wanted[min(i, len(wanted)):min(i+1, len(wanted))], ""))
		}
	}
}

func listCaddyfileRefusals(t *testing.T, l *refusalList) {
	l.section("Caddyfile: the global option")
	for _, option := range []string{
		"sse A", "sse\nsse", "sse a b", "sse {\n histroy 1\n}", "sse {\n history 1\n history 2\n}", "sse {\n history\n}", "sse {\n history 0\n}",
		"sse {\n history 1 0s\n}", "sse {\n history 1 soon\n}", "sse {\n history_size much\n}", "sse {\n max_event_size 2GiB\n}",
		"sse {\n history_size 1KiB\n}", "sse {\n store redis\n}", "sse {\n store nats\n}", "sse {\n store memory {\n  history 5\n }\n}",
	} {
		_, _, err := adapt("{\n" + option + "\n}\n:80 {\n respond hello\n}")
		l.refusedConfig(t, option, err)
	}
	l.section("Caddyfile: directives")
	for _, directive := range []string{
		"sse events", "sse {\n hub chat\n}", "sse {\n hub \"\"\n}", "sse {\n hartbeat 1s\n}", "sse {\n heartbeat 0s\n}", "sse {\n heartbeat 15us\n}", "sse {\n retry 5s 1s\n}", "sse {\n max_connections none\n}",
		"sse {\n topics\n}", "sse {\n topics a*\n}", "sse {\n topics " + strings.Repeat("x", 600) + "\n}",
		"sse_api {\n hub chat\n}", "sse_cors", "sse_cors * * https://a.example", "sse_cors /events a.example", "sse_cors /events https://a.*.example",
		"sse_cors /events https://A.example", "sse_cors /events https://*.com", "sse_cors /events https://bücher.example", "sse_cors /events https://a.example:0443", "sse_cors /events https://a.example {\n headers X-*\n}",
		"sse_cors /events https://a.example {\n header X-A\n}", "sse_test sse-test", "sse_test /sse-test {\n apy /x\n}",
	} {
		_, _, err := adapt("{\n order sse_test before respond\n}\n:80 {\n" + directive + "\n}")
		l.refusedConfig(t, directive, err)
	}
}

func (l *refusalList) refusedConfig(t *testing.T, config string, err error) {
	if err == nil {
		t.Errorf("%s: got accepted, want refused", config)
		return
	}
	l.add(config, err.Error())
}

// listConfigRefusals lists the refusals of a config in JSON that a Caddyfile cannot cause.
func listConfigRefusals(t *testing.T, l *refusalList) {
	l.section("Config")
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, handler := range []string{
		`"heartbeat":-1`, `"heartbeat":15`, `"max_lifetime":-1`, `"max_connections":-1`, `"takeover":"maybe"`, `"hub":"chat"`,
	} {
		err := validate(t, `{"apps":{"http":{"servers":{"srv0":{"routes":[{"handle":[{"handler":"sse",`+handler+`}]}]}}}}}`)
		l.refusedConfig(t, `{"handler":"sse",`+handler+"}", err)
	}
	for _, hubs := range []string{
		`{"A":{}}`, `{"default":{"history":-1}}`, `{"default":{"store":{"kind":"redis"}}}`,
		`{"a":{"store":{"kind":"disk","path":"/tmp/one"}},"b":{"store":{"kind":"disk","path":"/tmp/one"}}}`,
	} {
		l.refusedConfig(t, `"hubs":`+hubs, validate(t, `{"apps":{"sse":{"hubs":`+hubs+`}}}`))
	}
	s := prepare(t, "sse {\n store disk "+file+"/history.db\n}")
	err := s.load(":0 {\n respond hello\n}")
	if err != nil {
		err = errors.New(strings.ReplaceAll(err.Error(), dir, "DIR"))
	}
	l.refusedConfig(t, "sse { store disk DIR/file/history.db }, where file is no directory", err)
}

func listGoRefusals(t *testing.T, l *refusalList) {
	start(t, "sse", "respond hello")
	l.section("Go")
	ctx, toAll := t.Context(), []hub.Target{{Kind: hub.All}}
	publish := func(ctx context.Context, h caddysse.Hub, events ...hub.Event) error {
		_, err := h.Publish(ctx, events...)
		return err
	}
	h := caddysse.HubNamed("")
	_, limit := h.Connections(ctx, hub.Filter{}, "", 0)
	_, _, filter := h.Disconnect(ctx, hub.Filter{})
	_, _, invalid := h.Disconnect(ctx, hub.Filter{Users: []string{"\xff"}})
	for _, r := range []struct {
		call string
		err  error
	}{
		{"Publish to an unknown hub", publish(ctx, caddysse.HubNamed("chta"), hub.Event{Targets: toAll})},
		{"Publish of no event", publish(ctx, h)},
		{"Publish of 1,001 events", publish(ctx, h, make([]hub.Event, 1001)...)},
		{"Publish to a session by its value", publish(ctx, h, hub.Event{Targets: []hub.Target{{Kind: hub.Session, Name: "secret"}}})},
		{"Publish to nobody", publish(ctx, h, hub.Event{})},
		{"Connections with limit 0", limit},
		{"Disconnect with an empty filter", filter},
		{"Disconnect with a name that is not UTF-8", invalid},
	} {
		l.refusedConfig(t, r.call, r.err)
	}
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	l.refusedConfig(t, "Publish without a config", publish(context.Background(), caddysse.HubNamed("none"), hub.Event{Targets: toAll}))
}
