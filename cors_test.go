package caddysse_test

import (
	"strings"
	"testing"

	caddysse "github.com/ea766355/caddy-sse"
)

// TestCORS: preflight requests, streams and refusals have the CORS headers.
func TestCORS(t *testing.T) {
	const site = "\nbasic_auth {\n alice " + secretHash + "\n}\nsse /events"
	const app, other = "https://app.example.com", "https://other.example.com:8443"
	login := []string{"Authorization", "Basic YWxpY2U6c2VjcmV0"}
	preflight := []string{"Access-Control-Request-Method", "GET", "Access-Control-Request-Headers", "last-event-id"}
	tests := []struct {
		name, cors, method, origin string
		headers                    []string
		status                     int
		allow, credentials, vary   string
	}{
		{"preflight", "sse_cors " + app, "OPTIONS", app, preflight, 204, app, "true", "Origin"},
		{"preflight with a path", "sse_cors /events " + app, "OPTIONS", app, preflight, 204, app, "true", "Origin"},
		{"preflight of the second", "sse_cors " + app + " " + other, "OPTIONS", other, preflight, 204, other, "true", "Origin"},
		{"preflight of all", "sse_cors /events *", "OPTIONS", app, preflight, 204, "*", "", ""},
		{"preflight, unlisted", "sse_cors " + app, "OPTIONS", other, preflight, 403, "", "", "Origin"},
		{"preflight, no origin", "sse_cors " + app, "OPTIONS", "null", preflight, 403, "", "", "Origin"},
		{"OPTIONS that is none", "sse_cors " + app, "OPTIONS", app, login, 405, app, "true", "Origin"},
		{"401", "sse_cors " + app, "HEAD", app, nil, 401, app, "true", "Origin"},
		{"401 of all", "sse_cors /events *", "HEAD", app, nil, 401, "*", "", ""},
		{"401, unlisted", "sse_cors " + app, "HEAD", other, nil, 401, "", "", "Origin"},
		{"stream", "sse_cors " + app, "HEAD", app, login, 200, app, "true", "Origin"},
		{"stream, all", "sse_cors /events *", "HEAD", app, login, 200, "*", "", ""},
		{"stream, unlisted", "sse_cors " + app, "HEAD", other, login, 200, "", "", "Origin"},
		{"stream, of a longer name", "sse_cors " + app, "HEAD", app + ".evil.example", login, 200, "", "", "Origin"},
		{"stream of the same origin", "sse_cors " + app, "HEAD", "", login, 200, "", "", "Origin"},
		{"another path", "sse_cors /other " + app, "HEAD", app, login, 200, "", "", ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := start(t, "", test.cors+site)
			headers := test.headers
			if test.origin != "" {
				headers = append([]string{"Origin", test.origin}, headers...)
			}
			a := do(t, test.method, "http://"+s.http+"/events", "", headers...)
			if a.status != test.status {
				t.Errorf("status %d, want %d: %s", a.status, test.status, a.body)
			}
			want := map[string]string{
				"Access-Control-Allow-Origin":      test.allow,
				"Access-Control-Allow-Credentials": test.credentials,
				"Vary":                             test.vary,
			}
			if test.allow != "" {
				want["Access-Control-Expose-Headers"] = "Retry-After"
			}
			if test.status == 204 {
				want["Access-Control-Allow-Headers"] = "Last-Event-ID, Authorization"
				want["Access-Control-Allow-Methods"] = "GET"
			}
			for name, value := range want {
				if got := strings.Join(a.header.Values(name), ", "); got != value {
					t.Errorf("%s: %q, want %q", name, got, value)
				}
			}
		})
	}
}

// TestCORSOnAStream: a stream has the headers, not only the response to HEAD.
func TestCORSOnAStream(t *testing.T) {
	s := start(t, "", "sse_cors https://a.example\nsse /events {\n anonymous\n}")
	st := s.open("/events", "Origin", "https://a.example")
	if st.Header.Get("Access-Control-Allow-Origin") != "https://a.example" {
		t.Errorf("headers %v", st.Header)
	}
	checkStreamHeaders(t, st.Header)
}

// TestCORSOfSubdomains: a * matches exactly one label.
func TestCORSOfSubdomains(t *testing.T) {
	s := start(t, "", "sse_cors https://*.example.com http://*.localhost:3000 https://exact.example.org\nsse /events {\n anonymous\n}")
	for origin, listed := range map[string]bool{
		"https://a.example.com": true, "https://xn--bcher-kva.example.com": true, "https://a-b_1.example.com": true,
		"http://a.localhost:3000": true, "https://exact.example.org": true,

		"https://example.com": false, "https://.example.com": false, "https://a.b.example.com": false, "https://evilexample.com": false,
		"https://a.example.com.evil.example": false, "https://a.example.community": false, "https://evil.example/.example.com": false,
		"https://evil.example#.example.com": false, "https://evil.example?x.example.com": false, "https://evil.example:x.example.com": false,
		"https://u@a.example.com": false, "https://%61.example.com": false, "https:///.example.com": false, "https://a b.example.com": false,
		"http://a.example.com": false, "https://a.example.com:8443": false, "https://a.example.com:443": false, "https://a.example.com.": false,
		"HTTPS://a.example.com": false, "https://A.example.com": false, "https://a.EXAMPLE.com": false,
		"https://*.example.com": false, "*": false, "null": false, "https://b.example.org": false,
		"https://a.localhost:3000": false, "http://a.localhost": false, "http://a.localhost:30000": false,
		"https://a.example.com https://b.example.com": false, "https://a.example.com, https://evil.example": false,
	} {
		a := do(t, "OPTIONS", "http://"+s.http+"/events", "", "Origin", origin, "Access-Control-Request-Method", "GET")
		status, allow, credentials := 403, "", ""
		if listed {
			status, allow, credentials = 204, origin, "true"
		}
		if a.status != status || a.header.Get("Access-Control-Allow-Origin") != allow || a.header.Get("Access-Control-Allow-Credentials") != credentials ||
			a.header.Get("Vary") != "Origin" {
			t.Errorf("%s: %d %v", origin, a.status, a.header)
		}
	}
}

// TestCORSHeaders: the option adds headers to those that are always allowed.
func TestCORSHeaders(t *testing.T) {
	s := start(t, "", "sse_cors https://a.example {\n headers X-Tenant Cache-Control\n}\nsse /events {\n anonymous\n}")
	a := do(t, "OPTIONS", "http://"+s.http+"/events", "", "Origin", "https://a.example",
		"Access-Control-Request-Method", "GET", "Access-Control-Request-Headers", "x-tenant")
	if got := a.header.Get("Access-Control-Allow-Headers"); a.status != 204 || got != "Last-Event-ID, Authorization, X-Tenant, Cache-Control" {
		t.Errorf("%d, Access-Control-Allow-Headers: %q", a.status, got)
	}
	for headers, wrong := range map[string]string{
		"headers": "wrong argument count", "headers *": "without wildcards", "headers X-A,X-B": "the name of a header", "headers X-A:": "the name of a header",
		"headers X-A\nheaders X-B": "given twice", "header X-A": "unknown option",
	} {
		err := s.load(s.site("sse_cors https://a.example {\n" + headers + "\n}\nsse /events"))
		if err == nil || !strings.Contains(err.Error(), wrong) {
			t.Errorf("%q: %v, want %q", headers, err, wrong)
		}
	}
}

func TestCORSValidate(t *testing.T) {
	for origins, wrong := range map[string]string{
		"": "no origin given", "* https://a.example": "leave the others out", "a.example": "a scheme and a host",
		"https://a.example/": "a scheme and a host", "https://a.example/path": "a scheme and a host", "https://": "a scheme and a host",
		"https://*.example": "anybody can register a name below example", "https://A.example": "lower case", "https://a.example:443": "default port", "http://a.example:443": "", "https://a.example?": "a scheme and a host", "null": "a scheme and a host",
		"https://*.example.com": "", "https://*.a.example.com:8443": "", "http://*.localhost:3000": "", "https://a.example https://*.example.com": "",
		"https://*.com": "anybody", "https://*.": "anybody", "https://*": "first label", "https://a.*.example.com": "first label", "https://*a.example.com": "first label",
		"https://*.*.example.com": "first label", "*.example.com": "a scheme and a host", "https://*.example.com/": "a scheme and a host", "https://*.Example.com": "lower case",
		"https://*.example.com:443": "default port", "*://a.example.com": "a scheme and a host",
		"https://bücher.example": "Punycode", "https://*.bücher.example": "Punycode", "https://xn--bcher-kva.example": "",
		"https://a.example:": "port", "https://a.example:0443": "port", "https://a.example:65536": "port", "https://a.example:8443": "", "http://[::1]:3000": "", "http://[::1]": "",
		"*": "", "https://a.example http://localhost:3000": "", "https://u@a.example": "a scheme and a host",
	} {
		err := (&caddysse.CORS{Origins: strings.Fields(origins)}).Validate()
		if wrong == "" && err != nil || wrong != "" && (err == nil || !strings.Contains(err.Error(), wrong)) {
			t.Errorf("%q: %v, want %q", origins, err, wrong)
		}
	}
}
