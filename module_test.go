package caddysse_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/launchdarkly/eventsource"
	"github.com/quic-go/quic-go/http3"
	r3labs "github.com/r3labs/sse/v2"
	gosse "github.com/tmaxmax/go-sse"
)

// protocol is one way to reach the server.
type protocol struct {
	name   string
	client *http.Client
	curl   []string
	secure bool
}

// protocols returns all protocols, with their own connections.
func protocols(t testing.TB) []protocol {
	insecure := func(alpn string) *tls.Config {
		return &tls.Config{InsecureSkipVerify: true, NextProtos: []string{alpn}}
	}
	h1 := &http.Transport{DisableKeepAlives: true}
	h1TLS := &http.Transport{TLSClientConfig: insecure("http/1.1"), DisableKeepAlives: true}
	h2 := &http.Transport{TLSClientConfig: insecure("h2"), ForceAttemptHTTP2: true}
	h3 := &http3.Transport{TLSClientConfig: insecure("h3")}
	t.Cleanup(func() {
		h2.CloseIdleConnections()
		h3.Close()
	})
	return []protocol{
		{"h1", &http.Client{Transport: h1}, []string{"--http1.1"}, false},
		{"h1 TLS", &http.Client{Transport: h1TLS}, []string{"--http1.1", "--insecure"}, true},
		{"h2", &http.Client{Transport: h2}, []string{"--http2", "--insecure"}, true},
		{"h3", &http.Client{Transport: h3}, nil, true}, // curl is rarely built with it
	}
}

func (p protocol) url(s *server) string {
	if p.secure {
		return "https://localhost:" + port(s.https)
	}
	return "http://" + s.http
}

// eachProtocol runs a test over each protocol, on the same server.
func eachProtocol(t *testing.T, s *server, test func(t *testing.T, p protocol)) {
	for _, p := range protocols(t) {
		t.Run(p.name, func(t *testing.T) { test(t, p) })
	}
}

// received is an event as a client library returns it.
type received struct{ event, data, id string }

// client runs the client of a library until ctx or its stream ends.
type client func(ctx context.Context, p protocol, url, position string, got chan<- received) error

var clients = map[string]client{
	"tmaxmax/go-sse": func(ctx context.Context, p protocol, url, position string, got chan<- received) error {
		req, err := http.NewRequestWithContext(ctx, "GET", url, nil)
		if err != nil {
			return err
		}
		if position != "" {
			req.Header.Set("Last-Event-ID", position)
		}
		c := (&gosse.Client{HTTPClient: p.client, Backoff: gosse.Backoff{MaxRetries: -1}}).NewConnection(req)
		c.SubscribeToAll(func(e gosse.Event) { got <- received{e.Type, e.Data, e.LastEventID} })
		return c.Connect()
	},
	"launchdarkly/eventsource": func(ctx context.Context, p protocol, url, position string, got chan<- received) error {
		req, err := http.NewRequestWithContext(ctx, "GET", url, nil)
		if err != nil {
			return err
		}
		st, err := eventsource.SubscribeWithRequestAndOptions(req,
			eventsource.StreamOptionHTTPClient(p.client), eventsource.StreamOptionLastEventID(position))
		if err != nil {
			return err
		}
		defer st.Close()
		for {
			select {
			case e := <-st.Events:
				got <- received{e.Event(), e.Data(), e.Id()}
			case <-ctx.Done():
				return nil
			}
		}
	},
	"r3labs/sse": func(ctx context.Context, p protocol, url, position string, got chan<- received) error {
		c := r3labs.NewClient(url)
		c.Connection = p.client
		c.ReconnectStrategy = never{}
		c.LastEventID.Store([]byte(position))
		return c.SubscribeRawWithContext(ctx, func(e *r3labs.Event) {
			got <- received{string(e.Event), string(e.Data), string(e.ID)}
		})
	},
	"curl": func(ctx context.Context, p protocol, url, position string, got chan<- received) error {
		args := append([]string{"--silent", "--no-buffer", url}, p.curl...)
		if position != "" {
			args = append(args, "--header", "Last-Event-ID: "+position)
		}
		cmd := exec.CommandContext(ctx, "curl", args...)
		out, err := cmd.StdoutPipe()
		if err != nil {
			return err
		}
		if err := cmd.Start(); err != nil {
			return err
		}
		var e received
		for lines := bufio.NewScanner(out); lines.Scan(); {
			switch name, value, _ := strings.Cut(lines.Text(), ": "); name {
			case "event":
				e.event = value
			case "data":
				e.data += value
			case "id":
				e.id = value
			case "":
				got <- e
				e = received{}
			}
		}
		return cmd.Wait()
	},
}

// never makes r3labs/sse not reconnect.
type never struct{}

func (never) NextBackOff() time.Duration { return -1 }
func (never) Reset()                     {}

// run starts the client. The caller must call stop.
func (c client) run(t *testing.T, p protocol, url, position string) (got chan received, stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	got = make(chan received, 100)
	done := make(chan error, 1)
	go func() { done <- c(ctx, p, url, position, got) }()
	return got, func() {
		select {
		case err := <-done:
			t.Errorf("the client ended by itself: %v", err)
		default:
			defer func() { <-done }()
		}
		cancel()
	}
}

// take waits for a published event, or for the control event with the name.
func take(t *testing.T, got <-chan received, event string) received {
	t.Helper()
	timeout := time.After(waitLimit)
	for {
		select {
		case e := <-got:
			if e.event == event || !strings.HasPrefix(e.event, "sse.") && e.data != "" {
				return e
			}
		case <-timeout:
			t.Fatal("the client got nothing")
		}
	}
}

// TestPromise1RealClients: with each protocol and client library, each event arrives once and in
// order, also over a reconnect.
func TestPromise1RealClients(t *testing.T) {
	s := startTLS(t, "", bothWays(""))
	test := func(path string) func(*testing.T, protocol) {
		return func(t *testing.T, p protocol) {
			for name, c := range clients {
				if name != "curl" || p.curl != nil {
					t.Run(name, func(t *testing.T) { sendAndResume(t, s.in(t), p, c, p.url(s)+path) })
				}
			}
		}
	}
	eachProtocol(t, s, test("/events"))
	t.Run("not taken over", func(t *testing.T) { eachProtocol(t, s, test("/kept")) })
}

func sendAndResume(t *testing.T, s *server, p protocol, c client, url string) {
	got, stop := c.run(t, p, url, "")
	take(t, got, "sse.connected")
	s.send(`{"type":"order","data":{"id": 1, "text": "ü"}}`)
	s.send(`{"text":"verbatim"}`)
	first, second := take(t, got, ""), take(t, got, "")
	stop()
	if first.event != "order" || first.data != `{"id":1,"text":"ü"}` {
		t.Errorf("got %q", first)
	}
	if (second.event != "" && second.event != "message") || second.data != "verbatim" || second.id == first.id {
		t.Errorf("got %q after %q", second, first)
	}

	s.send(`{"data":"missed"}`)
	got, stop = c.run(t, p, url, second.id)
	defer stop()
	if e := take(t, got, ""); e.data != `"missed"` {
		t.Errorf("resumed with %q", e)
	}
	s.send(`{"data":"live"}`)
	if e := take(t, got, ""); e.data != `"live"` {
		t.Errorf("after what was missed came %q", e)
	}
}

// TestPromise1Position: a stream continues after its position.
func TestPromise1Position(t *testing.T) {
	s := startTLS(t, "", "sse /events {\n anonymous\n}")
	one, two := s.send(`{"text":"1"}`).ID, s.send(`{"text":"2"}`).ID
	s.send(`{"text":"3"}`)
	all, rest := []string{"1", "2", "3"}, []string{"3"}
	tests := []struct {
		name, query, header string
		want                []string
		resumed             bool
	}{
		{"none: the head", "", "", nil, false},
		{"header", "", two, rest, true},
		{"last_event_id", "?last_event_id=" + two, "", rest, true},
		{"lastEventId", "?lastEventId=" + two, "", rest, true},
		{"the header wins", "?last_event_id=" + one, two, rest, true},
		{"an empty query says nothing", "?last_event_id=&lastEventId=" + two, "", rest, true},
		{"earliest", "", "earliest", all, false},
		{"earliest in the query", "?last_event_id=earliest", "", all, false},
		{"the page's head", "?last_event_id=" + s.status("default").Head, "", nil, true},
	}
	eachProtocol(t, s, func(t *testing.T, p protocol) {
		for _, test := range tests {
			t.Run(test.name, func(t *testing.T) {
				s := s.in(t)
				st := openWith(t, p.client, p.url(s)+"/events"+test.query, "Last-Event-ID", test.header)
				connected := decode[struct{ Resumed bool }](t, st.connected.data)
				if connected.Resumed != test.resumed {
					t.Errorf("resumed is %t in %s", connected.Resumed, st.connected.data)
				}
				// An event for a connection ends with the connection, so the next test does not
				// get it.
				last := s.send(`{"connection":"` + st.id + `","text":"live"}`)
				st.expect(append(slices.Clone(test.want), "live")...)
				if !strings.HasPrefix(last.ID, strings.Split(one, "-")[0]+"-") {
					t.Errorf("id %s is of another epoch than %s", last.ID, one)
				}
			})
		}
	})
}

// TestStreamAnswer: the response has its headers and its first block, over each protocol.
func TestStreamAnswer(t *testing.T) {
	s := startTLS(t, "", `test_auth /events
		sse /events {
			heartbeat 12s
			retry 2s 3s
		}`)
	head := s.send(`{"text":"before"}`).ID
	eachProtocol(t, s, func(t *testing.T, p protocol) {
		st := openWith(t, p.client, p.url(s)+"/events", "X-User", "alice")
		checkStreamHeaders(t, st.Header)
		if st.TransferEncoding == nil && st.ContentLength != -1 {
			t.Errorf("Content-Length %d", st.ContentLength)
		}
		b := st.connected
		var retry int
		if fmt.Sscan(b.retry, &retry); retry < 2000 || retry > 3000 {
			t.Errorf("retry: %s", b.retry)
		}
		want := fmt.Sprintf(`{"connectionId":%q,"user":"alice","heartbeat":12000,"protocol":%q,"resumed":false}`, st.id, p.name[:2])
		if b.event != "sse.connected" || b.data != want || b.id != head {
			t.Errorf("first block %+v, want data %s and id %s", b, want, head)
		}

		req, err := http.NewRequest("HEAD", p.url(s)+"/events", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-User", "alice")
		resp, err := p.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if resp.StatusCode != http.StatusOK || len(body) > 0 || err != nil {
			t.Errorf("HEAD: %d %q %v", resp.StatusCode, body, err)
		}
		checkStreamHeaders(t, resp.Header)
	})
}

// TestHEADThatARouteMakesGET: a client that sends HEAD gets no stream, even if a route changes the
// method.
func TestHEADThatARouteMakesGET(t *testing.T) {
	s := startTLS(t, "", "method GET\n"+bothWays(""))
	eachProtocol(t, s, func(t *testing.T, p protocol) {
		s := s.in(t)
		for _, path := range []string{"/events", "/kept"} {
			resp := request(t.Context(), t, p.client, "HEAD", p.url(s)+path, "", nil)
			checkStreamHeaders(t, resp.Header)
			resp.Body.Close()
		}
		if opened := logs.with(t, "stream opened"); len(opened) > 0 {
			t.Errorf("streams: got %v, want none", opened)
		}
	})
}

func checkStreamHeaders(t *testing.T, header http.Header) {
	t.Helper()
	for name, want := range map[string]string{
		"Content-Type":      "text/event-stream",
		"Cache-Control":     "no-cache, no-transform",
		"X-Accel-Buffering": "no",
		"Content-Encoding":  "",
	} {
		if got := header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

func TestStreamOtherMethods(t *testing.T) {
	s := start(t, "", "sse /events {\n anonymous\n}")
	for _, method := range []string{"POST", "PUT", "DELETE", "OPTIONS", "PATCH", "QUERY"} {
		a := do(t, method, "http://"+s.http+"/events", "")
		if a.status != http.StatusMethodNotAllowed || a.header.Get("Allow") != "GET, HEAD" || !strings.Contains(a.body, "GET") {
			t.Errorf("%s: %d, Allow %q, %q", method, a.status, a.header.Get("Allow"), a.body)
		}
	}
	if s.status("default").Connections != 0 {
		t.Error("there is a connection")
	}
}

// TestStreamEnds: the server notices that a client has left, over each protocol.
func TestStreamEnds(t *testing.T) {
	s := startTLS(t, "", "sse /events {\n anonymous\n}")
	eachProtocol(t, s, func(t *testing.T, p protocol) {
		st := openWith(t, p.client, p.url(s)+"/events")
		if n := s.status("default").Connections; n != 1 {
			t.Fatalf("%d connections", n)
		}
		st.cancel()
		eventually(t, "the connection to be gone", func() bool { return s.status("default").Connections == 0 })
	})
}
