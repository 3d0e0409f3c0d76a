package recipes

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/ea766355/caddy-sse/e2e"
)

// altSvcClient is a client for HTTP/1.1, HTTP/2 and HTTP/3. It obeys Alt-Svc and 421 like
// browsers. [RFC 7838 2.4, 3; RFC 9110 15.5.20]
type altSvcClient struct {
	t          *testing.T
	tcp        *visitor
	quic       *http3.Transport
	knownHTTP3 map[string]bool // origins that have advertised HTTP/3
	cookie     string
}

func newAltSvcClient(t *testing.T) *altSvcClient {
	f := &altSvcClient{t: t, tcp: &visitor{t: t}, knownHTTP3: make(map[string]bool)}
	f.quic = &http3.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // a certificate of the test's Caddy
		Dial: func(ctx context.Context, addr string, config *tls.Config, options *quic.Config) (*quic.Conn, error) {
			_, port, err := net.SplitHostPort(addr)
			if err != nil {
				return nil, err
			}
			return quic.DialAddr(ctx, "127.0.0.1:"+port, config, options)
		},
	}
	t.Cleanup(func() { f.quic.Close() })
	return f
}

// request makes a request like a page of this origin.
func (f *altSvcClient) request(method, address, origin string) *http.Response {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*e2e.Patience)
	f.t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, method, address, nil)
	if err != nil {
		f.t.Fatal(err)
	}
	req.Header.Set("Origin", origin)
	if method == http.MethodOptions {
		req.Header.Set("Access-Control-Request-Method", http.MethodGet)
	}
	if f.cookie != "" {
		req.Header.Set("Cookie", f.cookie)
	}
	host := req.URL.Host
	var resp *http.Response
	if f.knownHTTP3[host] {
		resp, err = f.quic.RoundTrip(req)
		if err != nil { // the server no longer supports HTTP/3
			resp = nil
			delete(f.knownHTTP3, host)
		}
	}
	if resp != nil && resp.StatusCode == http.StatusMisdirectedRequest {
		f.readAltSvc(host, resp)
		resp.Body.Close()
		resp = nil
	}
	if resp == nil {
		if resp, err = f.tcp.client().Do(req); err != nil {
			f.t.Fatal(err)
		}
	}
	f.t.Cleanup(func() { resp.Body.Close() })
	f.readAltSvc(host, resp)
	return resp
}

func (f *altSvcClient) readAltSvc(host string, resp *http.Response) {
	switch advertised := resp.Header.Get("Alt-Svc"); {
	case advertised == "clear":
		delete(f.knownHTTP3, host)
	case strings.HasPrefix(advertised, `h3=":`+resp.Request.URL.Port()+`"`):
		f.knownHTTP3[host] = true
	}
}

// TestHTTPVersions: each Caddyfile of the page keeps a client that obeys Alt-Svc on its version,
// after any other requests, and even if the client remembers HTTP/3. Without the lines of the
// page, the same client switches to another version.
func TestHTTPVersions(t *testing.T) {
	page := recipes(t, "http-versions.md")
	app := newLoginApp(t)
	port, host, server := take(t, page, "port"), take(t, page, "host"), take(t, page, "server")
	for _, name := range []string{"native", "client"} {
		take(t, page, name) // e2e/browser tests them
	}
	wantAllTaken(t, page)
	without := func(text string, lines ...string) string {
		for _, line := range lines {
			if !strings.Contains(text, "\t"+line+"\n") {
				t.Fatalf("got no line %s in this text, want it:\n%s", line, text)
			}
			text = strings.Replace(text, "\t"+line+"\n", "", 1)
		}
		return text
	}
	for _, test := range []struct {
		name, text, host, origin string
		want                     string // the protocol of streams
	}{
		{"another port", port, "example.com", "https://example.com", "h1"},
		{"a host of its own", host, "events.example.com", "https://app.example.com", "h1"},
		{"no HTTP/3", server, "example.com", "https://example.com", "h2"},
		{"another port that speaks all", without(port, "\tprotocols h1"), "example.com", "https://example.com", "h3"},
		{"a host with alpn alone", without(host, "header Alt-Svc clear", "respond @newer 421"), "events.example.com", "https://app.example.com", "h3"},
		{"a host without the 421", without(host, "respond @newer 421"), "events.example.com", "https://app.example.com", "h1, but h3 if remembered"},
		{"all versions", without(server, "\tprotocols h1 h2"), "example.com", "https://example.com", "h3"},
	} {
		t.Run(test.name, func(t *testing.T) {
			pages, events := e2e.FreePort(t), 0
			text := localize(test.text, app.addr(), pages, "")
			if strings.Contains(text, ":8443") {
				events = e2e.FreePort(t)
				text = strings.NewReplacer("servers :8443", fmt.Sprintf("servers 127.0.0.1:%d", events),
					"example.com:8443 {", fmt.Sprintf("https://example.com:%d {", events)).Replace(text)
			} else {
				events = pages
				// The other sites of the test keep all versions.
				text = strings.Replace(text, "servers {", fmt.Sprintf("servers 127.0.0.1:%d {", events), 1)
			}
			globals := ""
			if global.MatchString(text) {
				globals, text = splitGlobals(t, text)
			}
			b := serve(t, globals, text)
			base := fmt.Sprintf("https://%s:%d", test.host, events)
			stream := func(f *altSvcClient) string {
				t.Helper()
				f.cookie = "session=of-alice"
				resp := f.request(http.MethodGet, base+"/events", test.origin)
				if resp.StatusCode != http.StatusOK {
					body, _ := io.ReadAll(resp.Body)
					t.Fatalf("response: got %s %s, want a stream", resp.Status, body)
				}
				b.wait(1)
				list, err := b.connections("alice")
				if err != nil || len(list) != 1 {
					t.Fatalf("connections of alice: got %v, %v, want one", list, err)
				}
				var connected struct{ Protocol string }
				s := newStream(t, resp)
				if _, data := s.next(); json.Unmarshal([]byte(data), &connected) != nil || connected.Protocol != list[0].Protocol {
					t.Errorf("protocol in the stream: got %s, want that of the server, %s", data, list[0].Protocol)
				}
				s.close()
				b.wait(0)
				return list[0].Protocol
			}
			live, remembered := test.want, test.want
			if test.want == "h1, but h3 if remembered" {
				live, remembered = "h1", "h3"
			}

			f := newAltSvcClient(t)
			for range 3 {
				f.cookie = ""
				for _, other := range []struct{ method, path string }{
					{http.MethodGet, "/nothing"},
					{http.MethodOptions, "/events"},
					{http.MethodGet, "/events"}, // 401
					{http.MethodHead, "/events"},
				} {
					f.request(other.method, base+other.path, test.origin).Body.Close()
				}
				if got := stream(f); got != live {
					t.Errorf("protocol of a stream: got %s, want %s", got, live)
				}
			}
			u, err := url.Parse(base)
			if err != nil {
				t.Fatal(err)
			}
			f = newAltSvcClient(t)
			f.knownHTTP3[u.Host] = true
			if got := stream(f); got != remembered {
				t.Errorf("protocol of a stream if HTTP/3 is remembered: got %s, want %s", got, remembered)
			}
			f.cookie = ""
			if resp := f.request(http.MethodGet, base+"/events", test.origin); resp.StatusCode != http.StatusUnauthorized {
				t.Errorf("response without a cookie: got %s, want 401", resp.Status)
			}
		})
	}
}
