package caddysse_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
)

const advertised = "Alt-Svc"

// TestStreamOverHTTP1IsNotToldOfHTTP3: no response of sse over HTTP/1.1 and TLS advertises HTTP/3.
// All other responses of the server do.
func TestStreamOverHTTP1IsNotToldOfHTTP3(t *testing.T) {
	s := startTLS(t, "", `header /cleared Alt-Svc clear
		handle /events {
			sse {
				anonymous
				topics news
			}
		}
		handle /kept {
			sse {
				anonymous
				takeover off
			}
		}
		handle /full {
			sse {
				anonymous
				max_connections 1
			}
		}
		handle /named {
			sse
		}
		handle /cleared {
			sse
		}
		handle {
			respond "something else"
		}`)
	answers := []struct {
		name, method, path string
		status             int
	}{
		{"a stream that is taken over", "GET", "/events", 200},
		{"a stream that is not", "GET", "/kept", 200},
		{"a poll", "GET", "/events?poll=1", 200},
		{"rejected", "GET", "/full", 200},
		{"HEAD", "HEAD", "/events", 200},
		{"400", "GET", "/events?topics=news", 400},
		{"401", "GET", "/named", 401},
		{"403", "GET", "/events?topic=other", 403},
		{"405", "POST", "/events", 405},
	}
	open := openWith(t, http.DefaultClient, "http://"+s.http+"/events") // for /full to be full
	defer open.close()
	eachProtocol(t, s, func(t *testing.T, p protocol) {
		ask := func(method, path string) *http.Response {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			resp := request(ctx, t, p.client, method, p.url(s)+path, "", nil)
			resp.Body.Close()
			return resp
		}
		for _, a := range answers {
			resp := ask(a.method, a.path)
			if resp.StatusCode != a.status {
				t.Errorf("%s: status %d, want %d", a.name, resp.StatusCode, a.status)
			}
			if got := resp.Header.Get(advertised); (got != "") != (p.name == "h2") {
				t.Errorf("%s: Alt-Svc is %q", a.name, got)
			}
		}
		want := ""
		if p.secure && p.name != "h3" {
			want = "h3="
		}
		if got := ask("GET", "/").Header.Get(advertised); !strings.HasPrefix(got, want) || (got == "") != (want == "") {
			t.Errorf("another answer: Alt-Svc is %q, want %q", got, want)
		}
		if got := ask("GET", "/cleared").Header.Get(advertised); got != "clear" {
			t.Errorf("where the site says clear: Alt-Svc is %q", got)
		}
	})
}

// TestProtocolsAreToldApart: the list, the metrics and the first block have the protocol of a
// stream.
func TestProtocolsAreToldApart(t *testing.T) {
	s := startTLS(t, "", "sse /events {\n anonymous\n}")
	want := map[string]string{"h1": "h1", "h1 TLS": "h1", "h2": "h2", "h3": "h3"}
	eachProtocol(t, s, func(t *testing.T, p protocol) {
		s := s.in(t)
		st := openWith(t, p.client, p.url(s)+"/events")
		if !strings.Contains(st.connected.data, `"protocol":"`+want[p.name]+`"`) {
			t.Errorf("the first block is %s", st.connected.data)
		}
		if list := s.api("GET", "/sse/connections", "").body; !strings.Contains(list, `"protocol":"`+want[p.name]+`"`) {
			t.Errorf("the list is %s", list)
		}
		if metrics := s.api("GET", "/metrics", "").body; !strings.Contains(metrics, `caddy_sse_connections{hub="default",protocol="`+want[p.name]+`"} 1`) {
			t.Error("the metrics do not have it")
		}
		st.close()
		eventually(t, "the end", func() bool { return s.status("default").Connections == 0 })
	})
}

// TestWarnsOnceOfHTTP3: the log has one warning when a hub has a hundred streams and most of them
// use HTTP/3.
func TestWarnsOnceOfHTTP3(t *testing.T) {
	const message = "most streams use HTTP/3, where a stream needs several times the memory and CPU of a stream over HTTP/1.1: " +
		"serve them on a port of their own with the global option servers :8443 { protocols h1 }, or turn HTTP/3 off " +
		"with servers { protocols h1 h2 }; docs/http-versions.md says how"
	s := startTLS(t, "", "sse /events {\n anonymous\n}")
	all := protocols(t)
	h1, h3 := all[0], all[3]
	open := func(p protocol, n int) {
		for range n {
			openWith(t, p.client, p.url(s)+"/events")
		}
	}
	open(h1, 50)
	open(h3, 50)
	if lines := logs.with(t, message); len(lines) > 0 {
		t.Fatalf("it warns of one half: %v", lines)
	}
	open(h3, 1)
	lines := logs.with(t, message)
	if len(lines) != 1 || lines[0]["level"] != "warn" || lines[0]["hub"] != "default" || lines[0]["http3"] != 51.0 || lines[0]["streams"] != 101.0 {
		t.Fatalf("it warns %v", lines)
	}
	s.mustLoad(s.site("sse /events {\n anonymous\n heartbeat 5s\n}") + "https://localhost:" + port(s.https) +
		" {\n\ttls " + certificate + " " + certificate + "\nsse /events {\n anonymous\n}\n}\n")
	open(h3, 1)
	if lines := logs.with(t, message); len(lines) != 1 {
		t.Errorf("it warns again: %v", lines)
	}
}
