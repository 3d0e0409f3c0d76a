package caddysse_test

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestUnguardedAPI: a warning names each sse_api that is open to everybody when the config is
// loaded, and no other.
func TestUnguardedAPI(t *testing.T) {
	const api = "\nsse_api /sse/*\n"
	const below = "\nhandle_path /internal/* {\n sse_api\n}\n"
	basic := "basic_auth {\n alice " + secretHash + "\n}\n"
	forward := "forward_auth 127.0.0.1:1 {\n uri /auth\n copy_headers X-User\n}\n"
	for name, test := range map[string]struct {
		site string
		path string // that is warned of; empty: none
	}{
		"alone":                                  {api, "/sse/caddy-sse-probe"},
		"in a handle_path":                       {below, "/internal/caddy-sse-probe"},
		"with a stream":                          {api + "sse /events {\n anonymous\n}", "/sse/caddy-sse-probe"},
		"behind headers":                         {"encode\nheader X-A b\nsse_cors https://a.test" + api, "/sse/caddy-sse-probe"},
		"of a method":                            {"@post method POST\nsse_api @post", "/caddy-sse-probe"},
		"of a protocol":                          {"@plain {\n path /sse/*\n protocol http\n}\nsse_api @plain", "/sse/caddy-sse-probe"},
		"of not a path":                          {"@rest not path /public/*\nsse_api @rest", "/caddy-sse-probe"},
		"without a matcher":                      {"sse_api", "/caddy-sse-probe"},
		"for one call":                           {"sse_api /sse/send", "/sse/send"},
		"for two calls":                          {"@two path /sse/ready /sse/send\nsse_api @two", "/sse/send"},
		"beside a guarded stream":                {"basic_auth /events {\n alice " + secretHash + "\n}" + api, "/sse/caddy-sse-probe"},
		"beside what is denied":                  {"respond /private/* 403" + api, "/sse/caddy-sse-probe"},
		"beside a handle":                        {"handle /app/* {\n respond ok\n}\nhandle {\n sse_api\n}", "/caddy-sse-probe"},
		"a guard in another handle":              {"handle /admin/* {\n" + basic + "respond ok\n}\nhandle /sse/* {\n sse_api\n}", "/sse/caddy-sse-probe"},
		"before its guard":                       {"route {\n sse_api\n" + basic + "}", "/caddy-sse-probe"},
		"basic_auth":                             {basic + api, ""},
		"basic_auth of its path":                 {"basic_auth /internal/* {\n alice " + secretHash + "\n}" + below, ""},
		"basic_auth in its handle":               {"handle_path /internal/* {\n" + basic + "sse_api\n}", ""},
		"another authentication":                 {"test_auth" + api, ""},
		"forward_auth":                           {forward + api, ""},
		"forward_auth in its handle":             {"handle_path /internal/* {\n" + forward + "sse_api\n}", ""},
		"a back end that decides":                {"reverse_proxy 127.0.0.1:1 {\n @ok status 200\n handle_response @ok {\n sse_api\n}\n}", ""},
		"respond":                                {"@outside not remote_ip 10.0.0.0/8\nrespond @outside 403" + api, ""},
		"respond to a client_ip":                 {"@outside not client_ip private_ranges\nrespond @outside 403" + api, ""},
		"respond without a header":               {"@nokey not header X-Key secret\nrespond @nokey 403" + api, ""},
		"abort":                                  {"@outside not remote_ip 10.0.0.0/8\nabort @outside" + api, ""},
		"error":                                  {"@outside not remote_ip 10.0.0.0/8\nerror @outside 403" + api, ""},
		"error for all of its path":              {"error /sse/* 403" + api, ""},
		"a matcher of remote_ip":                 {"@inside {\n path /sse/*\n remote_ip 10.0.0.0/8\n}\nsse_api @inside", ""},
		"a matcher of client_ip":                 {"@inside client_ip 10.0.0.0/8\nsse_api @inside", ""},
		"a handle of remote_ip":                  {"@inside remote_ip 10.0.0.0/8\nhandle @inside {\n sse_api\n}", ""},
		"a matcher of a header":                  {"@key header X-Key secret\nsse_api @key", ""},
		"a matcher of a query":                   {"@key query key=secret\nsse_api @key", ""},
		"an expression":                          {"@key `{header.X-Key} == \"secret\"`\nsse_api @key", ""},
		"not a header":                           {"@key not header X-Public 1\nsse_api @key", ""},
		"a matcher of variables":                 {"@key vars {header.X-Key} secret\nsse_api @key", ""},
		"a handler that may be anything":         {"test_break" + api, ""},
		"a handle that hides it":                 {api + "handle {\n respond ok\n}", ""},
		"for nothing but whether it is ready":    {"sse_api /sse/ready", ""},
		"for all that begins like that":          {"sse_api /sse/ready*", ""},
		"for that and more":                      {"sse_api /sse/*y*", ""},
		"for all that begins like another call":  {"sse_api /sse/sen*", "/sse/sencaddy-sse-probe"},
		"for what is rewritten to that":          {"handle /ready {\n rewrite * /sse/ready\n sse_api\n}", ""},
		"bound to this machine":                  {"bind 127.0.0.1" + api, ""},
		"bound to this machine, by IPv6 as well": {"bind 127.0.0.1 [::1]" + api, ""},
	} {
		t.Run(name, func(t *testing.T) { checkUnguarded(t, test.site, "", test.path) })
	}
}

// TestUnguardedMethods: the warning lists the methods that are open to everybody.
func TestUnguardedMethods(t *testing.T) {
	const login, api = " {\n alice " + secretHash + "\n}\n", "sse_api /sse/*\n"
	for name, test := range map[string]struct{ site, methods string }{
		"no guard":                    {api, "GET POST PATCH DELETE"},
		"a guard of POST":             {"@write method POST\nbasic_auth @write" + login + api, "GET PATCH DELETE"},
		"in a handle_path":            {"handle_path /internal/* {\n@write method POST\nbasic_auth @write" + login + "sse_api\n}", "GET PATCH DELETE"},
		"a guard of GET":              {"@read method GET\nbasic_auth @read" + login + api, "POST PATCH DELETE"},
		"a guard of all but GET":      {"@write not method GET\nbasic_auth @write" + login + api, "GET"},
		"a respond to writes":         {"@write method POST PATCH DELETE\nrespond @write 403\n" + api, "GET"},
		"guards of all methods":       {"@write method POST PATCH DELETE\nbasic_auth @write" + login + "@read method GET\nbasic_auth @read" + login + api, ""},
		"a handle of GET":             {"@read method GET\nhandle @read {\n sse_api\n}", "GET"},
		"a guard of another path":     {"@write {\n method POST\n path /other/*\n}\nbasic_auth @write" + login + api, "GET POST PATCH DELETE"},
		"a call with another method":  {"@write method POST\nbasic_auth @write" + login + "sse_api /sse/send", ""},
		"a call with this method":     {"@write method POST\nbasic_auth @write" + login + "sse_api /sse/users", "GET"},
		"a call below":                {"@write method POST\nbasic_auth @write" + login + "sse_api /sse/connections/*", "PATCH DELETE"},
		"calls that begin alike":      {"@write method POST\nbasic_auth @write" + login + "sse_api /sse/s*", "GET"},
		"calls that only write":       {"@write method POST\nbasic_auth @write" + login + "sse_api /sse/b*", ""},
		"a guard that may be of POST": {"@write {\n method POST\n header X-Key *\n}\nbasic_auth @write" + login + api, "GET PATCH DELETE"},
	} {
		t.Run(name, func(t *testing.T) {
			s := prepare(t, "")
			logs.reset()
			s.mustLoad(s.site(test.site))
			var methods []string
			for line := range strings.Lines(logs.tail(1 << 20)) {
				if strings.Contains(line, "sse_api is open to everybody") {
					methods = append(methods, strings.Join(decode[struct{ Methods []string }](t, line).Methods, " "))
				}
			}
			if got := strings.Join(methods, "; "); got != test.methods {
				t.Errorf("open methods: got %q, want %q", got, test.methods)
			}
		})
	}
}

func checkUnguarded(t *testing.T, site, sites, path string) {
	t.Helper()
	s := prepare(t, "")
	logs.reset()
	if sites == "" {
		sites = s.site(site)
	}
	s.mustLoad(strings.NewReplacer("PORT", port(s.http), "TLS", port(s.https)).Replace(sites))
	var warnings []string
	for line := range strings.Lines(logs.tail(1 << 20)) {
		if strings.Contains(line, "sse_api is open to everybody") {
			warnings = append(warnings, line)
		}
	}
	switch {
	case path == "" && len(warnings) > 0:
		t.Errorf("it is warned of: %s", warnings)
	case path != "" && (len(warnings) != 1 || !strings.Contains(warnings[0], `"path":"`+path+`"`) || !strings.Contains(warnings[0], `"level":"warn"`)):
		t.Errorf("the log says %q, want one warning that names %s", warnings, path)
	}
}

// TestUnguardedAPIOfServers: the address of a server and its client certificates decide whether an
// sse_api is open to everybody.
func TestUnguardedAPIOfServers(t *testing.T) {
	const api = " {\n sse_api /sse/*\n}\n"
	certified := func(mode string) string {
		return "https://localhost:TLS {\n tls " + certificate + " " + certificate + " {\n client_auth {\n mode " + mode +
			"\n trust_pool file " + certificate + "\n}\n}\n sse_api /sse/*\n}\n"
	}
	const path = "/sse/caddy-sse-probe"
	for name, test := range map[string]struct{ sites, path string }{
		"one of two hosts":             {"http://a.test:PORT, http://b.test:PORT" + api, path},
		"a host with a wildcard":       {"http://*.a.test:PORT" + api + "http://b.test:PORT {\n respond b\n}\n", path},
		"a host in the environment":    {"http://{env.NO_SUCH_HOST}:PORT" + api, path},
		"beside a guarded site":        {"http://a.test:PORT" + api + "http://b.test:PORT {\n basic_auth {\n alice " + secretHash + "\n}\n sse_api /sse/*\n}\n", path},
		"a unix socket":                {"http:// {\n bind unix/" + filepath.Join(t.TempDir(), "sock") + "\n sse_api /sse/*\n}\n", ""},
		"a unix socket and a port":     {"http://:PORT {\n bind unix/" + filepath.Join(t.TempDir(), "sock") + " 0.0.0.0\n sse_api /sse/*\n}\n", path},
		"localhost":                    {"http://:PORT {\n bind localhost\n sse_api /sse/*\n}\n", ""},
		"clients with certificates":    {certified("require_and_verify"), ""},
		"clients that may have one":    {certified("verify_if_given"), path},
		"TLS":                          {"https://localhost:TLS {\n tls " + certificate + " " + certificate + "\n sse_api /sse/*\n}\n", path},
		"a site that is not the first": {"http://a.test:PORT {\n respond a\n}\nhttp://b.test:PORT" + api, path},
	} {
		t.Run(name, func(t *testing.T) { checkUnguarded(t, "", test.sites, test.path) })
	}
}
