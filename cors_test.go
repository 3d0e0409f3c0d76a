package caddysse_test

import (
	"strings"
	"testing"

	caddysse "github.com/ea766355/caddy-sse"
)

// TestCORS: what a browser is told, of preflights, streams and refusals.
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

// TestCORSOnAStream: the headers are there on a stream too, not only on a HEAD.
func TestCORSOnAStream(t *testing.T) {
	s := start(t, "", "sse_cors https://a.example\nsse /events {\n anonymous\n}")
	st := s.open("/events", "Origin", "https://a.example")
	if st.Header.Get("Access-Control-Allow-Origin") != "https://a.example" {
		t.Errorf("headers %v", st.Header)
	}
	checkStreamHeaders(t, st.Header)
}

func TestCORSValidate(t *testing.T) {
	for origins, wrong := range map[string]string{
		"": "at least one origin", "* https://a.example": "leave out the others", "a.example": "a scheme and a host",
		"https://a.example/": "a scheme and a host", "https://a.example/path": "a scheme and a host", "https://": "a scheme and a host",
		"https://*.example": "no wildcards", "https://A.example": "small letters", "https://a.example:443": "the scheme's own", "http://a.example:443": "", "https://a.example?": "a scheme and a host", "null": "a scheme and a host",
		"*": "", "https://a.example http://localhost:3000": "", "https://u@a.example": "a scheme and a host",
	} {
		err := (&caddysse.CORS{Origins: strings.Fields(origins)}).Validate()
		if wrong == "" && err != nil || wrong != "" && (err == nil || !strings.Contains(err.Error(), wrong)) {
			t.Errorf("%q: %v, want %q", origins, err, wrong)
		}
	}
}
