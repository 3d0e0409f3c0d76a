package recipes

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/ea766355/caddy-sse/e2e"
)

// TestProxies: behind each proxy events arrive, and the limit per address counts visitors, no
// matter which addresses they claim.
func TestProxies(t *testing.T) {
	page := recipes(t, "proxies.md")
	app := newLoginApp(t)
	behind, port := e2e.FreePort(t), make(map[string]int)
	for _, name := range []string{"nginx", "haproxy", "caddy", "cloudflare"} {
		port[name] = e2e.FreePort(t)
	}
	// local replaces the ports of the page and the networks of others.
	local := func(name string, pairs ...string) string { return replace(t, take(t, page, name), pairs...) }
	here := fmt.Sprintf("127.0.0.1:%d", behind)
	nginx := local("nginx", "localhost:8080", here, "listen 80;", fmt.Sprintf("listen 127.0.0.1:%d;", port["nginx"]))
	nginxMain := take(t, page, "nginx_main")
	haproxy := local("haproxy", "localhost:8080", here, "bind :80\n", fmt.Sprintf("bind 127.0.0.1:%d\n", port["haproxy"]))
	var text strings.Builder
	text.WriteString(local("caddy", "localhost:8080", here, "http:// {", fmt.Sprintf("http://:%d {", port["caddy"])))
	var globals []string
	// The options apply to one address each, since all sites of this test are in one server.
	for name, pairs := range map[string][]string{
		"behind":     {"localhost:3000", app.addr(), ":8080", fmt.Sprintf(":%d", behind), "servers {", "servers " + here + " {"},
		"cloudflare": {"173.245.48.0/20 103.21.244.0/22", "127.0.0.1", "per_ip 50", "per_ip 2", ":8081", fmt.Sprintf(":%d", port["cloudflare"]), "servers {", fmt.Sprintf("servers 127.0.0.1:%d {", port["cloudflare"])},
	} {
		options, sites := splitGlobals(t, local(name, pairs...))
		globals = append(globals, options)
		text.WriteString(sites)
	}
	private := e2e.FreePort(t)
	text.WriteString(local("private", ":8080", fmt.Sprintf(":%d", private)))
	wantAllTaken(t, page)

	server := serve(t, strings.Join(globals, "\n"), text.String())
	dir := t.TempDir()
	launch(t, port["nginx"], "nginx", "-p", dir, "-e", "stderr", "-c", write(t, dir, "nginx.conf", `daemon off;
master_process off;
pid nginx.pid;
`+nginxMain+`http {
	access_log off;
	client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
`+nginx+"}\n"))
	launch(t, port["haproxy"], "haproxy", "-db", "-f", write(t, dir, "haproxy.cfg", haproxy))

	for _, name := range []string{"nginx", "haproxy", "caddy"} {
		t.Run(name, func(t *testing.T) {
			b := server
			b.t = t
			v := visitor{t: t, base: fmt.Sprintf("http://example.com:%d", port[name]), cookie: "session=of-alice", from: "127.0.0.2"}
			anonymous := v
			anonymous.cookie = ""
			anonymous.refused("/events", http.StatusUnauthorized)
			if _, body := v.answer("/"); body != "/ from the app" {
				t.Errorf("another path of the site: got %q, want %q", body, "/ from the app")
			}
			if _, body := v.answer("/ready"); body != "{\"ready\":true}\n" {
				t.Errorf("/ready: got %q, want that the node is ready", body)
			}
			other := v
			other.from = "127.0.0.3"
			streams := []*stream{v.open("/events", "alice"), v.open("/events", "alice"), other.open("/events", "alice")}
			for _, claimed := range []string{"", "203.0.113.9", "127.0.0.1", "203.0.113.9, 127.0.0.1"} {
				var header []string
				if claimed != "" {
					header = []string{"X-Forwarded-For", claimed}
				}
				if _, body := v.answer("/events", header...); !strings.Contains(body, "event: sse.rejected") {
					t.Errorf("a third stream of one address, which claims to be %q: got %s, want sse.rejected", claimed, body)
				}
			}
			list, err := b.connections("alice")
			if err != nil || len(list) != 3 || list[0].Remote != "127.0.0.2" || list[2].Remote != "127.0.0.3" {
				t.Errorf("connections: got %v, %v, want 3 with the addresses of the visitors", list, err)
			}
			b.send(`"topic":"room/1"`, "hello")
			for _, s := range streams {
				s.expect("", "hello")
				s.close()
			}
			b.wait(0)
		})
	}
	t.Run("cloudflare", func(t *testing.T) {
		b := server
		b.t = t
		v := visitor{t: t, base: fmt.Sprintf("http://example.com:%d", port["cloudflare"])}
		one, other := []string{"CF-Connecting-IP", "203.0.113.1"}, []string{"CF-Connecting-IP", "203.0.113.2"}
		streams := []*stream{v.open("/events", "", one...), v.open("/events", "", one...), v.open("/events", "", other...)}
		if _, body := v.answer("/events", one...); !strings.Contains(body, "event: sse.rejected") {
			t.Errorf("a third stream of one address: got %s, want sse.rejected", body)
		}
		for _, s := range streams {
			s.close()
		}
		b.wait(0)
	})
	t.Run("private", func(t *testing.T) {
		resp, err := http.Get(fmt.Sprintf("http://localhost:%d/events", private))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if got := resp.Header.Values("Cache-Control"); len(got) != 1 || got[0] != "private, no-cache, no-transform" {
			t.Errorf("Cache-Control of a stream: got %q, want private, no-cache, no-transform", got)
		}
	})
}
