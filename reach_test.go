package caddysse_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestHiddenStreams: a warning names each stream that no request can reach when the config is
// loaded, and no other stream.
func TestHiddenStreams(t *testing.T) {
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "index.html"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	const sse = "\nsse /events {\n anonymous\n}\n"
	const handled = "\nhandle /events {\n sse {\n anonymous\n}\n}\n"
	files := "root " + root + "\ntry_files {path} /index.html\nfile_server\n"
	forward := "forward_auth /events 127.0.0.1:1 {\n uri /auth\n copy_headers X-User\n}\n"
	for name, test := range map[string]struct{ site, cause string }{
		// The handler that answers instead of the stream; empty if the stream is or may be
		// reached.
		"alone":                           {sse, ""},
		"before a reverse_proxy":          {"encode\n" + forward + sse + "reverse_proxy 127.0.0.1:1", ""},
		"before php_fastcgi":              {"root " + root + sse + "php_fastcgi 127.0.0.1:1\nfile_server", ""},
		"a catch-all handle":              {sse + "handle {\n respond ok\n}", "respond"},
		"a catch-all handle with a proxy": {forward + sse + "handle {\n reverse_proxy 127.0.0.1:1\n}", "reverse_proxy"},
		"a handle of its own":             {handled + "handle {\n respond ok\n}", ""},
		"a handle of another path":        {sse + "handle /api/* {\n respond ok\n}", ""},
		"handles that leave nothing":      {sse + "handle /api/* {\n respond ok\n}\nhandle {\n file_server\n}", "file_server"},
		"a handle that has what answers":  {sse + "handle {\n respond /api/* ok\n}", ""},
		"a handle of all paths":           {sse + "handle /* {\n respond ok\n}", "respond"},
		"a handle of a longer prefix":     {"sse /api/events {\n anonymous\n}\nhandle /api/* {\n respond ok\n}", "respond"},
		"in a handle_path":                {"handle_path /api/* {" + sse + "}\nhandle {\n respond ok\n}", ""},
		"a handle_path of all":            {sse + "handle_path /* {\n respond ok\n}", "respond"},
		"a handle of a method":            {sse + "@post method POST\nhandle @post {\n respond ok\n}", ""},
		"a handle of GET":                 {sse + "@get method GET\nhandle @get {\n respond ok\n}", "respond"},
		"a handle of a header":            {sse + "@json header Accept application/json\nhandle @json {\n respond ok\n}", ""},
		"a handle of other paths":         {sse + "@rest not path /events\nhandle @rest {\n respond ok\n}", ""},
		"a handle of not a header":        {sse + "@rest not header Accept *event-stream*\nhandle @rest {\n respond ok\n}", ""},
		"a handle of two matchers":        {sse + "@rest {\n method GET\n header Accept text/html\n}\nhandle @rest {\n respond ok\n}", ""},
		"a catch-all route":               {sse + "route {\n respond ok\n}", "respond"},
		"a route that goes on":            {sse + "route {\n header X-A b\n}", ""},
		"last in a route":                 {"route {\n reverse_proxy 127.0.0.1:1" + sse + "}", "reverse_proxy"},
		"first in a route":                {"route {" + sse + "reverse_proxy 127.0.0.1:1\n}", ""},
		"a proxy that may go on":          {"route {\n reverse_proxy 127.0.0.1:1 {\n @ok status 200\n handle_response @ok {\n header X-A b\n}\n}" + sse + "}", ""},
		"a respond for all":               {sse + "respond ok", "respond"},
		"a respond for some":              {sse + "@outside not remote_ip 10.0.0.0/8\nrespond @outside 403", ""},
		"early hints":                     {"route {\n respond 103" + sse + "}", ""},
		"an error for all":                {sse + "error 503", "error"},
		"a file_server that goes on":      {"route {\n file_server {\n pass_thru\n}" + sse + "}", ""},
		"try_files":                       {files + sse, "file_server"},
		"try_files in its own handle":     {handled + "handle {\n" + files + "}", ""},
		"try_files around a handle":       {handled + files, "file_server"},
		"try_files of what is not there":  {"root " + root + "\ntry_files {path} /app.html\nfile_server" + sse, ""},
		"try_files of what it is for":     {"root " + root + "\ntry_files /{header.X-A}.html /index.html\nfile_server" + sse, ""},
		"try_files with a status":         {"root " + root + "\ntry_files {path} =404\nfile_server" + sse, "try_files"},
		"try_files in an unknown root":    {"root " + root + "/{header.X-A}\ntry_files {path} /index.html\nfile_server" + sse, ""},
		"a rewrite":                       {"rewrite /app{uri}" + sse + "respond /app/* ok", "respond"},
		"a rewrite to nothing":            {"rewrite /app{uri}" + sse, "nothing"},
		"a rewrite to what it matches":    {"rewrite /old /events" + sse, ""},
		"a rewrite by a header":           {"rewrite {header.X-Path}" + sse, ""},
		"a rewrite by a map":              {"map {path} {to} {\n default /events\n}\nrewrite {to}" + sse, ""},
		"a map":                           {"map {path} {to} {\n default /events\n}" + sse + "handle {\n respond ok\n}", "respond"},
		"a redir for all":                 {"redir https://example.com" + sse, "respond"},
		"php_fastcgi in a route":          {"root " + root + "\nroute {\n php_fastcgi 127.0.0.1:1\n file_server" + sse + "}", "reverse_proxy"},
		"a rewrite of others":             {"@rest not path /events\nrewrite @rest /index.html" + sse + files, "file_server"},
		"a strip_prefix":                  {"uri strip_prefix /api" + sse, ""},
		"a stream of every path":          {"sse {\n anonymous\n}\n" + files, ""},
		"one of two paths":                {"@both path /events /more\nsse @both {\n anonymous\n}\nhandle /more {\n respond ok\n}", ""},
		"of two paths each":               {"@both path /events /more\nsse @both {\n anonymous\n}\nhandle {\n respond ok\n}", "respond"},
		"all below a path":                {"sse /events/* {\n anonymous\n}\nhandle /events/* {\n respond ok\n}", "respond"},
		"an exact path below":             {"sse /events/* {\n anonymous\n}\nhandle /events/x {\n respond ok\n}", ""},
		"behind a sse":                    {"route {" + sse + "sse /events {\n anonymous\n}\n}", "sse"},
		"handle_response":                 {"reverse_proxy 127.0.0.1:1 {\n @ok status 200\n handle_response @ok {\n sse {\n anonymous\n}\n}\n}", ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := prepare(t, "")
			logs.reset()
			s.mustLoad(s.site(test.site))
			var warnings []string
			for line := range strings.Lines(logs.tail(1 << 20)) {
				if strings.Contains(line, "no request reaches this stream") {
					warnings = append(warnings, line)
				}
			}
			if test.cause == "" && len(warnings) > 0 {
				t.Errorf("it is warned of: %s", warnings)
			}
			if test.cause != "" && (len(warnings) != 1 || !strings.Contains(warnings[0], fmt.Sprintf(`"answered_by":%q`, test.cause))) {
				t.Errorf("the log says %q, want one warning that names %s", warnings, test.cause)
			}
			// These cases are handlers of Caddy. If another sse answers, there is no warning.
			if test.cause != "" && test.cause != "sse" && strings.Contains(test.site, "/events {") {
				resp, err := http.DefaultTransport.RoundTrip(httptest.NewRequest("GET", "http://"+s.http+"/events", nil))
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
				if resp.Header.Get("Content-Type") == "text/event-stream" {
					t.Errorf("it is reached: %s", resp.Status)
				}
			}
		})
	}
}

// TestHiddenByPaths: a warning names each stream and each sse_api whose path a route around it excludes,
// if nothing between the two may change the path.
func TestHiddenByPaths(t *testing.T) {
	const sse = "\nsse /events {\n anonymous\n}\n"
	const proxy = "reverse_proxy 127.0.0.1:1\n"
	const forward = "forward_auth /events 127.0.0.1:1 {\n uri /auth\n copy_headers X-User\n}\n"
	for name, test := range map[string]struct{ site, around string }{
		"in a handle":                       {"handle /api/* {" + sse + "}", "/api/*"},
		"beside others":                     {"handle /api/* {\nroot /srv\n" + forward + sse + proxy + "}\nhandle {\n respond ok\n}", "/api/*"},
		"in a route":                        {"route /api/* {" + sse + "}", "/api/*"},
		"in a handle of two paths":          {"@two path /api/* /v1/*\nhandle @two {" + sse + "}", "/api/* /v1/*"},
		"in a handle in a handle":           {"handle /api/* {\nhandle /api/v1/* {" + sse + "}\n}", "/api/*"},
		"in a handle in a handle_path":      {"handle_path /api/* {\nhandle /v1/* {" + sse + "}\n}", "/v1/*"},
		"all below a path":                  {"handle /api/* {\n sse /events/* {\n anonymous\n}\n}", "/api/*"},
		"an sse_api":                        {"handle /internal/* {\n sse_api /sse/*\n}", "/internal/*"},
		"in a handle_path":                  {"handle_path /api/* {" + sse + "}", ""},
		"an sse_api in a handle_path":       {"handle_path /internal/* {\n sse_api /sse/*\n}", ""},
		"in a handle with a strip_prefix":   {"handle /api/* {\n uri strip_prefix /api" + sse + "}", ""},
		"in a handle with a rewrite":        {"handle /api/* {\n rewrite /api/live /events" + sse + "}", ""},
		"with the prefix":                   {"handle /api/* {\n sse /api/events {\n anonymous\n}\n}", ""},
		"with the prefix in another case":   {"handle /API/* {\n sse /api/events {\n anonymous\n}\n}", ""},
		"in a handle of one of two paths":   {"@two path /api/* /events\nhandle @two {" + sse + "}", ""},
		"in a handle of an unknown path":    {"@some path /{header.X-A}/*\nhandle @some {" + sse + "}", ""},
		"in a handle of a longer path":      {"handle /events/x {\n sse /events/* {\n anonymous\n}\n}", ""},
		"in a handle of a suffix":           {"@json path *.json\nhandle @json {\n sse /events/* {\n anonymous\n}\n}", ""},
		"in a handle of another suffix":     {"@json path *.json\nhandle @json {" + sse + "}", "*.json"},
		"behind a handler that is unknown":  {"handle /api/* {\nroute {\n test_break" + sse + "}\n}", ""},
		"before a handler that may rewrite": {"handle /api/* {\n" + sse + "php_fastcgi 127.0.0.1:1\n}", ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := prepare(t, "")
			logs.reset()
			s.mustLoad(s.site(test.site))
			subject := "stream"
			if strings.Contains(test.site, "sse_api") {
				subject = "sse_api"
			}
			var around []string
			for line := range strings.Lines(logs.tail(1 << 20)) {
				if strings.Contains(line, "no request reaches this "+subject+": its path does not match the path of the route around it") {
					around = append(around, decode[struct{ Around string }](t, line).Around)
				}
			}
			if got := strings.Join(around, "; "); got != test.around {
				t.Errorf("path of the route around it: got %q, want %q", got, test.around)
			}
		})
	}
}

// TestHiddenAPIs: a warning names each sse_api that no request can reach when the config is loaded,
// and no other.
func TestHiddenAPIs(t *testing.T) {
	const api = "\nsse_api /sse/*\n"
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "index.html"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct{ site, cause string }{
		"alone":                         {api, ""},
		"beside a reverse_proxy":        {api + "reverse_proxy 127.0.0.1:1", ""},
		"a catch-all handle":            {api + "handle {\n file_server\n}", "file_server"},
		"a catch-all handle of GET":     {api + "@get method GET\nhandle @get {\n file_server\n}", ""},
		"a handle of its path":          {api + "handle /sse/* {\n respond ok\n}", "respond"},
		"a handle of one call":          {api + "handle /sse/status {\n respond ok\n}", ""},
		"behind basic_auth":             {"basic_auth {\n alice " + secretHash + "\n}" + api + "handle {\n file_server\n}", "file_server"},
		"in a handle_path":              {"handle_path /internal/* {\n sse_api\n}\nhandle {\n respond ok\n}", ""},
		"in a handle of its own":        {"handle /sse/* {\n sse_api\n}\nhandle {\n respond ok\n}", ""},
		"try_files":                     {"root " + root + "\ntry_files {path} /index.html" + api + "file_server", "file_server"},
		"behind what may answer others": {"@outside not remote_ip 10.0.0.0/8\nrespond @outside 403" + api, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := prepare(t, "")
			logs.reset()
			s.mustLoad(s.site(test.site))
			var causes []string
			for line := range strings.Lines(logs.tail(1 << 20)) {
				if strings.Contains(line, "no request reaches this sse_api") {
					causes = append(causes, decode[struct {
						By string `json:"answered_by"`
					}](t, line).By)
				}
			}
			if got := strings.Join(causes, "; "); got != test.cause {
				t.Errorf("handler that answers in place of the sse_api: got %q, want %q", got, test.cause)
			}
		})
	}
}

// TestHiddenStreamsOfHosts: a handler of another host hides no stream.
func TestHiddenStreamsOfHosts(t *testing.T) {
	for name, test := range map[string]struct {
		sites  string // $ stands for :port
		hidden int
	}{
		"a site beside":               {"http://a.test$ {\n sse /events\n}\nhttp://b.test$ {\n respond b\n}", 0},
		"both":                        {"http://a.test$ {\n sse /events\n respond a\n}\nhttp://b.test$ {\n sse /events\n respond b\n}", 2},
		"for one of two hosts":        {"http://a.test$, http://b.test$ {\n @a host a.test\n respond @a a\n sse /events\n}", 0},
		"for the host that is meant":  {"http://a.test$ {\n @a host a.test\n respond @a a\n sse /events\n}", 1},
		"for all but one host":        {"http://$ {\n @rest not host a.test\n respond @rest a\n sse /events\n}", 0},
		"in the handle of a host":     {"http://*.test$ {\n @a host a.test\n handle @a {\n  sse /events\n }\n handle {\n  respond b\n }\n}", 0},
		"beside the handle of a host": {"http://*.test$ {\n @a host a.test\n handle @a {\n  respond a\n }\n sse /events\n}", 0},
	} {
		t.Run(name, func(t *testing.T) {
			s := prepare(t, "")
			logs.reset()
			s.mustLoad(strings.ReplaceAll(test.sites, "$", ":"+port(s.http)))
			if n := strings.Count(logs.tail(1<<20), "no request reaches this stream"); n != test.hidden {
				t.Errorf("the log warns of %d streams, want %d", n, test.hidden)
			}
		})
	}
}
