package caddysse_test

import (
	"encoding/json"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

// validate provisions a config as "caddy validate" does.
func validate(t *testing.T, config string) error {
	t.Helper()
	var c caddy.Config
	if err := caddy.StrictUnmarshalJSON([]byte(config), &c); err != nil {
		return err
	}
	c.Logging = &caddy.Logging{Logs: map[string]*caddy.CustomLog{
		"default": {BaseLog: caddy.BaseLog{WriterRaw: json.RawMessage(`{"output":"test"}`)}},
	}}
	return caddy.Validate(&c)
}

// mentions reports whether the text of an error contains wrong. If wrong is empty, it reports
// whether there is no error.
func mentions(err error, wrong string) bool {
	if wrong == "" || err == nil {
		return wrong == "" && err == nil
	}
	return strings.Contains(err.Error(), wrong)
}

// sameJSON reports whether two JSON texts have the same value.
func sameJSON(t *testing.T, got, want string) {
	t.Helper()
	if !reflect.DeepEqual(decode[any](t, got), decode[any](t, want)) {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// TestCaddyfileDirectives: each form of a directive adapts to its JSON.
func TestCaddyfileDirectives(t *testing.T) {
	tests := []struct{ directive, handler string }{
		{"sse", `{"handler":"sse"}`},
		{"sse /events", `{"handler":"sse"}`},
		{"sse {\n}", `{"handler":"sse"}`},
		{`sse /events {
			hub chat
			user {http.reverse_proxy.header.Remote-User}
			session {http.request.cookie.session}
			anonymous
			topics news public/*
			topics user/{http.auth.user.id}/*
			heartbeat 10s
			connection_timeout 1m30s
			max_lifetime 1d
			expires {http.auth.user.exp}
			retry 500ms 2s
			max_connections 10000
			max_connections_per_user 10
			max_connections_per_ip 50
		}`, `{"handler":"sse","hub":"chat","user":"{http.reverse_proxy.header.Remote-User}",
			"session":"{http.request.cookie.session}","anonymous":true,
			"topics":["news","public/*","user/{http.auth.user.id}/*"],
			"heartbeat":10000000000,"connection_timeout":90000000000,"max_lifetime":86400000000000,
			"expires":"{http.auth.user.exp}","retry_min":500000000,"retry_max":2000000000,
			"max_connections":10000,"max_connections_per_user":10,"max_connections_per_ip":50}`},
		{"sse {\n max_lifetime 0\n}", `{"handler":"sse","max_lifetime":0}`},
		{"sse_api", `{"handler":"sse_api"}`},
		{"sse_api /internal/*", `{"handler":"sse_api"}`},
		{"sse_cors https://a.example", `{"handler":"sse_cors","origins":["https://a.example"]}`},
		{"sse_cors /events https://a.example http://localhost:3000", `{"handler":"sse_cors","origins":["https://a.example","http://localhost:3000"]}`},
		{"sse_cors * *", `{"handler":"sse_cors","origins":["*"]}`},
	}
	for _, test := range tests {
		adapted, _, err := adapt("{\n sse chat\n}\n:80 {\n" + test.directive + "\n}")
		if err != nil {
			t.Errorf("%s: %v", test.directive, err)
			continue
		}
		config := decode[struct {
			Apps struct {
				HTTP struct {
					Servers map[string]struct {
						Routes []struct{ Handle []json.RawMessage }
					}
				}
			}
		}](t, string(adapted))
		sameJSON(t, string(config.Apps.HTTP.Servers["srv0"].Routes[0].Handle[0]), test.handler)
		if err := validate(t, string(adapted)); err != nil {
			t.Errorf("%s: %v", test.directive, err)
		}
	}
}

// TestCaddyfileGlobal: the global option adapts to its JSON, for one hub and for several.
func TestCaddyfileGlobal(t *testing.T) {
	tests := []struct{ option, app string }{
		{"sse", `{"hubs":{"default":{}}}`},
		{"sse {\n}", `{"hubs":{"default":{}}}`},
		{"sse chat", `{"hubs":{"chat":{}}}`},
		{"sse {\n history 5000\n}", `{"hubs":{"default":{"history":5000}}}`},
		{"sse {\n history 10000 24h\n history_size 64MiB\n max_event_size 1MiB\n store memory\n}", `{"hubs":{"default":
			{"history":10000,"history_age":86400000000000,"history_size":67108864,"max_event_size":1048576,"store":{"kind":"memory"}}}}`},
		{"sse {\n history 1 1d\n}\nsse a-b_0 {\n max_event_size 5kb\n}\nsse chat", `{"hubs":{"default":{"history":1,"history_age":86400000000000},
			"a-b_0":{"max_event_size":5000},"chat":{}}}`},
	}
	for _, test := range tests {
		adapted, _, err := adapt("{\n" + test.option + "\n}\n:80 {\n respond hello\n}")
		if err != nil {
			t.Errorf("%s: %v", test.option, err)
			continue
		}
		sameJSON(t, string(decode[struct{ Apps map[string]json.RawMessage }](t, string(adapted)).Apps["sse"]), test.app)
		if err := validate(t, string(adapted)); err != nil {
			t.Errorf("%s: %v", test.option, err)
		}
	}
}

// TestCaddyfileErrors: each error names the file, the line and the remedy.
func TestCaddyfileErrors(t *testing.T) {
	option := func(line string) string { return ":80 {\n\tsse /events {\n\t\t" + line + "\n\t}\n}" }
	global := func(line string) string { return "{\n\tsse {\n\t\t" + line + "\n\t}\n}" }
	tests := []struct{ config, wrong string }{
		{option("colour red"), `unknown option "colour" of sse (available: hub, user,`},
		{option("heartbeat soon"), `"soon": it must be a duration`},
		{option("heartbeat -5s"), `"-5s": it must be a duration`},
		{option("heartbeat 15"), `"15": it must be a duration`},
		{option("heartbeat"), "Caddyfile:3"},
		{option("heartbeat 1s 2s"), "Caddyfile:3"},
		{option("heartbeat 1s\n\t\theartbeat 2s"), "option heartbeat is given twice: give it once, at Caddyfile:4"},
		{option("anonymous yes"), "Caddyfile:3"},
		{option("topics"), "Caddyfile:3"},
		{option("retry 1s"), "Caddyfile:3"},
		{option("retry 1s 2s 3s"), "Caddyfile:3"},
		{option("hub"), "Caddyfile:3"},
		{option("hub a b"), "Caddyfile:3"},
		{option(`hub ""`), "option hub is empty: give it a value, or leave the option out for the default, at Caddyfile:3"},
		{option(`hub {env.HUB}`), `invalid hub name "{env.HUB}": it must be 1 to 32 of a-z`},
		{option(`expires "{$NO_SUCH_VARIABLE}"`), "option expires is empty"},
		{option("user"), "Caddyfile:3"},
		{option("max_connections many"), `"many": it must be a positive integer`},
		{option("max_connections 0"), `"0": it must be a positive integer`},
		{option("max_connections -1"), `"-1": it must be a positive integer`},
		{option("max_connections_per_ip 1.5"), `"1.5": it must be a positive integer`},
		{":80 {\n\tsse events\n}", "a path must begin with /"},
		{":80 {\n\tsse /events extra\n}", "unexpected argument"},
		{":80 {\n\tsse_api extra\n}", "Caddyfile:2"},
		{":80 {\n\tsse_api {\n\t\thub x\n\t}\n}", `unknown option "hub" of sse_api, which has no options, at Caddyfile:3`},
		{":80 {\n\tsse_test /\n}", `invalid path "/": it must begin with /, must not be / itself`},
		{":80 {\n\tsse_cors\n}", "no origin given"},
		{":80 {\n\tsse_cors a.example\n}", "a scheme and a host"},
		{":80 {\n\tsse_cors /events * https://a.example\n}", "leave the others out"},
		{":80 {\n\tsse_cors https://a.example {\n\t\tx\n\t}\n}", `unknown option "x" of sse_cors (available: headers), at Caddyfile:3`},
		{global("histroy 1"), `unknown option "histroy" of the global option sse (available: history, history_size, max_event_size, store), at Caddyfile:3`},
		{global("history"), "Caddyfile:3"},
		{global("store memory {\n\t\t\thistory 5\n\t\t}"), `store memory has no options, but got "history"`},
		{global("store disk /x {\n\t\t\thistory 5\n\t\t}"), `store disk has no options in a block, but got "history"`},
		{global("history lots"), `"lots": it must be a positive integer`},
		{global("history 0"), `"0": it must be a positive integer`},
		{global("history 1 0s"), `"0s": it must be more than 0`},
		{global("history 1 999us"), `"999us": it must be at least 1ms`},
		{global("history 1 soon"), `"soon": it must be a duration`},
		{global("history 1 1h 2h"), "Caddyfile:3"},
		{global("history_size lots"), `invalid size "lots"`},
		{global("history_size 0"), `invalid size "0"`},
		{global("history_size 99999TB"), `invalid size "99999TB"`},
		{global("max_event_size 1MiB\n\t\thistory_size 1KiB"), "more than history_size"},
		{global("history 1\n\t\thistory 2"), "option history is given twice: give it once, at Caddyfile:4"},
		{global("store nonsense"), `unknown store "nonsense" (available: disk, late_disk, memory, test), at Caddyfile:3`},
		{global("store nats"), "--with github.com/ea766355/caddy-sse/store/nats"},
		{global("history_size 4GiB\n\t\tmax_event_size 2GiB"), "at most 1073741824 (1 GiB)"},
		{"{\n\tsse Chat\n}", "1 to 32 of a-z"},
		{"{\n\tsse " + strings.Repeat("x", 33) + "\n}", "1 to 32 of a-z"},
		{"{\n\tsse a b\n}", "Caddyfile:2"},
		{"{\n\tsse chat\n\tsse chat\n}", "hub chat is configured twice: put all its options into one block, at Caddyfile:3"},
		{"{\n\tsse\n\tsse default\n}", "hub default is configured twice: put all its options into one block, at Caddyfile:3"},
	}
	for _, test := range tests {
		_, _, err := adapt(test.config)
		if !mentions(err, test.wrong) || !mentions(err, "Caddyfile:") {
			t.Errorf("%s\n%v, want %q", test.config, err, test.wrong)
		}
	}
}

// TestCaddyfileContradictions: contradicting options are refused when the config is loaded, with
// file and line.
func TestCaddyfileContradictions(t *testing.T) {
	for line, wrong := range map[string]string{
		"retry 5s 1s":                        "above the upper bound",
		"heartbeat 0":                        "must be more than 0",
		"connection_timeout 0":               "must be more than 0",
		"max_lifetime 3600ns":                "must be at least 1ms",
		"retry 0 15ns":                       "must be at least 1ms",
		"topics a*":                          "whole segment",
		`topics ""`:                          "must not be empty",
		"topics " + strings.Repeat("x", 513): "has 513 bytes: at most 512 are allowed",
		"hub nope":                           "add `sse nope` to the global options",
	} {
		adapted, _, err := adapt(":80 {\n\tsse /events {\n\t\t" + line + "\n\t}\n}")
		if err == nil {
			err = validate(t, string(adapted))
		}
		if !mentions(err, wrong) || !mentions(err, "Caddyfile:") {
			t.Errorf("%s: %v, want %q", line, err, wrong)
		}
	}
}

// TestCaddyfileOrder: the directives come after all that may deny a request, and before all that
// serve content. Preflight requests come before authentication.
func TestCaddyfileOrder(t *testing.T) {
	const directives = "file_server\nreverse_proxy localhost:1\nmetrics /metrics\nsse_test /sse-test\nsse_api\nsse\nrespond @x hello\nerror @x 403\nabort @x\n" +
		"handle @x {\n push\n}\nbasic_auth {\n alice " + secretHash + "\n}\nencode\nsse_cors https://a.example\nheader X a\nrewrite /x"
	adapted, _, err := adapt(":80 {\n@x path /x\n" + directives + "\n}")
	if err != nil {
		t.Fatal(err)
	}
	order := []string{
		`"handler":"rewrite"`, `"handler":"sse_cors"`, `"handler":"authentication"`, `"handler":"encode"`, `"handler":"push"`, `"abort":true`,
		`"handler":"error"`, `"body":"hello"`, `"handler":"sse"`, `"handler":"sse_api"`, `"handler":"sse_test"`, `"handler":"metrics"`,
		`"handler":"reverse_proxy"`, `"handler":"file_server"`,
	}
	last := 0
	for _, handler := range order {
		at := strings.Index(string(adapted), handler)
		if at < last {
			t.Errorf("%s is at %d, what should come before it at %d in %s", handler, at, last, adapted)
		}
		last = at
	}
	s := start(t, "", "reverse_proxy localhost:1\nfile_server\nsse /events {\n anonymous\n}\nsse_api /sse/*")
	s.open("/events")
	if a := do(t, "GET", "http://"+s.http+"/sse/status", ""); !strings.Contains(a.body, `"hubs"`) {
		t.Errorf("status: %s", a.body)
	}
}

// TestCaddyfileExample: the Caddyfile in this folder works as its comments say.
func TestCaddyfileExample(t *testing.T) {
	config, err := os.ReadFile("Caddyfile.example")
	if err != nil {
		t.Fatal(err)
	}
	adapted, warnings, err := adapt(string(config))
	if err != nil || len(warnings) > 0 {
		t.Fatalf("%v %v", err, warnings)
	}
	if err := validate(t, string(adapted)); err != nil {
		t.Fatal(err)
	}
}
