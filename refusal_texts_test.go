package caddysse_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	caddysse "github.com/ea766355/caddy-sse"
	"github.com/ea766355/caddy-sse/hub"
)

// All refusals of the Caddyfile, the config, the stream, the API and the Go API stand in
// one file with their texts, so that they can be read in one place.
const refusalTexts = "testdata/refusals.txt"

var updateTexts = flag.Bool("update", false, "whether TestRefusalTexts writes "+refusalTexts)

// refusalList collects requests and the refusals that Caddy gives to them.
type refusalList struct{ strings.Builder }

func (l *refusalList) section(title string) { fmt.Fprintf(l, "\n## %s\n", title) }

func (l *refusalList) add(request, refusal string) {
	fmt.Fprintf(l, "\n%s\n    %s\n", shorten(oneLine(request)), shorten(oneLine(strings.TrimSpace(refusal))))
}

func oneLine(s string) string { return strings.ReplaceAll(s, "\n", "; ") }

// shorten cuts what the requests below repeat to exceed a limit.
func shorten(s string) string {
	for _, long := range repeated.FindAllString(s, -1) {
		s = strings.Replace(s, long, long[:8]+"...", 1)
	}
	return s
}

var repeated = regexp.MustCompile(`x{9,}|(?:t,){9,}|(?:topic=x&){9,}|(?:"x",){9,}|(?:\{"data":1\}; ){9,}`)

// TestRefusalTexts: each refusal has the text that the file has. Read the difference
// before you rewrite the file with -update.
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
		"sse {\n history_size 1KiB\n}", "sse {\n store redis\n}", "sse {\n store nats\n}",
	} {
		_, _, err := adapt("{\n" + option + "\n}\n:80 {\n respond hello\n}")
		l.refusedConfig(t, option, err)
	}
	l.section("Caddyfile: directives")
	for _, directive := range []string{
		"sse events", "sse {\n hub chat\n}", "sse {\n hartbeat 1s\n}", "sse {\n heartbeat 0s\n}", "sse {\n retry 5s 1s\n}", "sse {\n max_connections none\n}",
		"sse {\n topics\n}", "sse {\n topics a*\n}", "sse {\n topics " + strings.Repeat("x", 600) + "\n}",
		"sse_api {\n hub chat\n}", "sse_cors", "sse_cors * * https://a.example", "sse_cors /events a.example", "sse_cors /events https://a.*.example",
		"sse_cors /events https://A.example", "sse_cors /events https://*.com", "sse_cors /events https://a.example {\n headers X-*\n}",
		"sse_cors /events https://a.example {\n header X-A\n}", "sse_test sse-test", "sse_test /sse-test {\n apy /x\n}",
	} {
		_, _, err := adapt("{\n order sse_test before respond\n}\n:80 {\n" + directive + "\n}")
		l.refusedConfig(t, directive, err)
	}
}

func (l *refusalList) refusedConfig(t *testing.T, config string, err error) {
	if err == nil {
		t.Errorf("%s is not refused", config)
		return
	}
	l.add(config, err.Error())
}

// listConfigRefusals lists what a config as JSON can have wrong beside a Caddyfile.
func listConfigRefusals(t *testing.T, l *refusalList) {
	l.section("Config")
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, handler := range []string{
		`"heartbeat":-1`, `"max_lifetime":-1`, `"max_connections":-1`, `"takeover":"maybe"`, `"hub":"chat"`,
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

func listStreamRefusals(t *testing.T, l *refusalList) {
	const header = "{http.request.header."
	s := start(t, "", `
		sse /users {
			user `+header+`X-User}
			session `+header+`X-Session}
			topics news user/`+header+`X-Name}
			grants `+header+`X-Grants}
		}
		sse /expires {
			anonymous
			expires `+header+`X-Expires}
		}
		sse_test /page`)
	l.section("Streams")
	long := strings.Repeat("x", 600)
	for _, r := range []struct {
		method, path string
		headers      []string
	}{
		{"POST", "/users", nil},
		{"GET", "/users", nil},
		{"GET", "/users?topics=news", nil},
		{"GET", "/users?topic=%zz", nil},
		{"GET", "/users?poll=yes", nil},
		{"GET", "/users?topic=sport", []string{"X-User", "alice"}},
		{"GET", "/users?topic=", []string{"X-User", "alice"}},
		{"GET", "/users?topic=*", []string{"X-User", "alice"}},
		{"GET", "/users?topic=%ff", []string{"X-User", "alice"}},
		{"GET", "/users?topic=" + long, []string{"X-User", "alice"}},
		{"GET", "/users?" + strings.Repeat("topic=x&", 101), []string{"X-User", "alice"}},
		{"GET", "/users", []string{"X-User", long}},
		{"GET", "/users", []string{"X-User", "alice", "X-Session", long}},
		{"GET", "/users", []string{"X-User", "alice", "X-Name", long}},
		{"GET", "/users", []string{"X-User", "alice", "X-Grants", "[1]"}},
		{"GET", "/users", []string{"X-User", "alice", "X-Grants", "orders/*"}},
		{"GET", "/users", []string{"X-User", "alice", "X-Grants", strings.Repeat("t,", 1001)}},
		{"GET", "/expires", nil},
		{"GET", "/expires", []string{"X-Expires", "tomorrow"}},
		{"GET", "/expires", []string{"X-Expires", "1700000000"}},
		{"GET", "/expires", []string{"X-Expires", "1700000000000"}},
		{"POST", "/page/", nil},
		{"GET", "/page/assets", nil},
	} {
		l.refusedRequest(t, do(t, r.method, "http://"+s.http+r.path, "", r.headers...), r.method, r.path, strings.Join(r.headers, " "))
	}
}

func (l *refusalList) refusedRequest(t *testing.T, a answer, request ...string) {
	what := strings.TrimSpace(strings.Join(request, " "))
	if a.status < 400 {
		t.Errorf("%s: %d %s", what, a.status, a.body)
	}
	text := a.body
	if strings.HasPrefix(text, "{") {
		text = decode[struct{ Error string }](t, text).Error
	}
	l.add(what, fmt.Sprintf("%d %s", a.status, text))
}

func listAPIRefusals(t *testing.T, l *refusalList) {
	s := start(t, "sse {\n max_event_size 1KiB\n}", "sse_api /sse/*\nsse /events")
	l.section("API")
	const json, ndjson = "application/json", "application/x-ndjson"
	long := strings.Repeat("x", 600)
	for _, r := range [][4]string{
		{"GET", "/sse/nothing"},
		{"GET", "/sse/send"},
		{"POST", "/sse/send?hub=chta", `{"user":"alice","data":1}`},
		{"POST", "/sse/send?hbu=chat", `{"user":"alice","data":1}`},
		{"POST", "/sse/send?hub=%zz", `{"user":"alice","data":1}`},
		{"POST", "/sse/send", `user=alice`, "application/x-www-form-urlencoded"},
		{"POST", "/sse/send", "\ufeff{}"},
		{"POST", "/sse/send", "{\"user\":\"\xff\"}"},
		{"POST", "/sse/send", `[]`},
		{"POST", "/sse/send", `{"user":"alice"`},
		{"POST", "/sse/send", `{"user":alice}`},
		{"POST", "/sse/send", `{"user":"alice","data":1}{}`},
		{"POST", "/sse/send", `{"user":"alice","user":"bob","data":1}`},
		{"POST", "/sse/send", `{"user":"alice"}`},
		{"POST", "/sse/send", `{"user":"alice","data":1,"text":"1"}`},
		{"POST", "/sse/send", `{"data":1}`},
		{"POST", "/sse/send", `{"user":"alice","topic":"news","data":1}`},
		{"POST", "/sse/send", `{"uesr":"alice","data":1}`},
		{"POST", "/sse/send", `{"user":1,"data":1}`},
		{"POST", "/sse/send", `{"user":"","data":1}`},
		{"POST", "/sse/send", `{"user":[],"data":1}`},
		{"POST", "/sse/send", `{"user":[` + strings.Repeat(`"x",`, 1000) + `"x"],"data":1}`},
		{"POST", "/sse/send", `{"user":"` + long + `","data":1}`},
		{"POST", "/sse/send", `{"topic":"orders/*","data":1}`},
		{"POST", "/sse/send", `{"user":"alice","text":1}`},
		{"POST", "/sse/send", `{"user":"alice","text":"\ud800"}`},
		{"POST", "/sse/send", `{"user":"alice","data":1,"ttl":"soon"}`},
		{"POST", "/sse/send", `{"user":"alice","data":1,"slot":""}`},
		{"POST", "/sse/send", `{"user":"alice","data":1,"slot":"` + long + `"}`},
		{"POST", "/sse/send", `{"user":"alice","data":1,"key":"` + long + `"}`},
		{"POST", "/sse/send", `{"user":"alice","data":1,"type":"sse.mine"}`},
		{"POST", "/sse/send", `{"user":"alice","data":1,"type":"error"}`},
		{"POST", "/sse/send", `{"user":"alice","data":1,"type":"a\nb"}`},
		{"POST", "/sse/send", `{"user":"alice","text":"` + strings.Repeat("x", 1025) + `"}`},
		{"POST", "/sse/send", strings.Repeat("x", 8<<20+1)},
		{"POST", "/sse/broadcast", `{"user":"alice","data":1}`},
		{"POST", "/sse/broadcast", "\n", ndjson},
		{"POST", "/sse/broadcast", "{\"data\":1}\n{\"data\":}\n", ndjson},
		{"POST", "/sse/broadcast", "{\"data\":1}{\"data\":2}\n", ndjson},
		{"POST", "/sse/broadcast", "{\"data\":1}\n{\"data\":2,\"type\":\"open\"}\n", ndjson},
		{"POST", "/sse/broadcast", strings.Repeat("{\"data\":1}\n", 1001), ndjson},
		{"GET", "/sse/connections?limit=all"},
		{"GET", "/sse/connections?session=secret"},
		{"DELETE", "/sse/connections"},
		{"DELETE", "/sse/connections?all=true&user=alice"},
		{"DELETE", "/sse/connections/none"},
		{"PATCH", "/sse/connections/none", `{"add":["news"]}`},
		{"PATCH", "/sse/connections?user=alice", `{"add":["news"]}`, "text/plain"},
		{"PATCH", "/sse/connections?user=alice", `{"add":"news"}`},
		{"PATCH", "/sse/connections?user=alice", `{"add":["news"]}{}`},
		{"PATCH", "/sse/connections?user=alice", `{}`},
		{"PATCH", "/sse/connections?user=alice", `{"add":["orders/*"]}`},
		{"PATCH", "/sse/connections?user=alice", `{"add":["news"],"remove":["news"]}`},
		{"PATCH", "/sse/connections?user=alice", `{"add":[` + strings.Repeat(`"x",`, 1000) + `"x"]}`},
		{"GET", "/sse/events?data=yes"},
		{"GET", "/sse/events?topic=a*"},
		{"GET", "/sse/events?" + strings.Repeat("topic=x&", 101)},
		{"GET", "/sse/why"},
		{"GET", "/sse/why?user="},
		{"GET", "/sse/why?user=alice&user=bob"},
		{"GET", "/sse/why?user=" + long},
		{"GET", "/sse/why?user=%ff"},
		{"GET", "/sse/why?user=alice&id=7"},
		{"GET", "/sse/ready?hub=chta"},
	} {
		method, path, body, contentType := r[0], r[1], r[2], r[3]
		if contentType == "" {
			contentType = json
		}
		request := []string{method, path}
		if contentType != json {
			request = append(request, "("+contentType+")")
		}
		if quoted := strconv.QuoteToASCII(body); strings.Contains(quoted, `\u`) || strings.Contains(quoted, `\x`) {
			request = append(request, quoted)
		} else {
			request = append(request, body)
		}
		l.refusedRequest(t, s.api(method, path, body, contentType), request...)
	}
	url := "http://" + s.admin + "/sse/broadcast"
	l.refusedRequest(t, do(t, "POST", url, `{"data":1}`, "Content-Type", json, "Content-Encoding", "gzip"), "POST /sse/broadcast (gzip)")
	url = "http://" + s.http + "/sse/broadcast"
	l.refusedRequest(t, do(t, "POST", url, `{"data":1}`, "Content-Type", json, "Origin", "https://evil.example"), "POST /sse/broadcast (from the page of another origin)")
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
	} {
		l.refusedConfig(t, r.call, r.err)
	}
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	l.refusedConfig(t, "Publish without a config", publish(context.Background(), caddysse.HubNamed("none"), hub.Event{Targets: toAll}))
}

// unlisted are texts that the file cannot have, and why.
var unlisted = map[string]string{
	"no hubs yet, because Caddy is starting: try again": "there is a config while this test runs; see TestReady",
	"Caddy is shutting down":                            "the same",
	"the history is not open yet: ":                     "needs a store that does not open; see TestReady",
	"the history of hub ":                               "the same",
	" of a handler before sse cannot flush: keep that handler away from the path of sse":         "needs a handler of another module; see TestStreamThatCannotBe",
	" of a handler before sse buffers the response: keep that handler away from the path of sse": "the same",
	" of a handler before the API cannot flush: keep that handler away from /sse/events":         "the same",
	" is no store: it does not implement caddysse.StoreModule":                                   "needs another module",
	"reading the body: ":         "needs a client that leaves in the middle of a body",
	"the hub is closed":          "it is not shown to anybody",
	"} is no segment of a topic": "it is not shown to anybody: the pattern matches nothing",
}

// TestRefusalTextsAreComplete: each error that the files of this package make is in the
// file, or in unlisted.
func TestRefusalTextsAreComplete(t *testing.T) {
	listed, err := os.ReadFile(refusalTexts)
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	used := make(map[string]bool)
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		for _, text := range errorTexts(t, name) {
			if used[text] = true; unlisted[text] == "" && !strings.Contains(string(listed), text) {
				t.Errorf("%s: %s has no refusal with the text %q", name, refusalTexts, text)
			}
		}
	}
	for text := range unlisted {
		if !used[text] {
			t.Errorf("no error has the text %q", text)
		}
	}
}

// errorTexts returns the longest constant part of each error that the file makes.
func errorTexts(t *testing.T, name string) (found []string) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	makers := []string{"apiErrorf", "errors.New", "fmt.Errorf", "d.Errf"}
	ast.Inspect(file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		name := ""
		switch f := call.Fun.(type) {
		case *ast.Ident:
			name = f.Name
		case *ast.SelectorExpr:
			if pkg, ok := f.X.(*ast.Ident); ok {
				name = pkg.Name + "." + f.Sel.Name
			}
		}
		if !slices.Contains(makers, name) {
			return true
		}
		for _, arg := range call.Args {
			if text := constant(arg); text != "" {
				if part := longestPart(text); len(part) > 3 {
					found = append(found, part)
				}
				break
			}
		}
		return true
	})
	return found
}

// constant returns the value of a string literal or of a sum of them.
func constant(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.BasicLit:
		if s, err := strconv.Unquote(e.Value); err == nil && e.Kind == token.STRING {
			return s
		}
	case *ast.BinaryExpr:
		return constant(e.X) + constant(e.Y)
	}
	return ""
}

var verb = regexp.MustCompile(`%[.\d\[\]]*[a-zA-Z]`)

func longestPart(format string) string {
	parts := verb.Split(format, -1)
	return slices.MaxFunc(parts, func(a, b string) int { return len(a) - len(b) })
}
