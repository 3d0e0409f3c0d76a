package caddysse_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestStreamTopics: a client gets the topics that it requests and may have.
func TestStreamTopics(t *testing.T) {
	s := start(t, "", `test_auth
		sse /events {
			topics news public/* a/*/c
			topics user/{http.auth.user.id}/* tenant/{http.request.header.X-Tenant}
		}`)
	topics := []string{
		"news", "public/a", "public/a/b", "public", "a/b/c", "a/b/d", "a/b/c/d", "user/alice/mail",
		"user/alice", "user/bob/mail", "user/*/mail", "tenant/one", "tenant/", "tenant/*", "newsx",
	}
	tests := []struct {
		name, user, tenant string
		asked              []string
		want               []string
	}{
		{"all", "alice", "one", nil, []string{"news", "public/a", "public/a/b", "a/b/c", "user/alice/mail", "tenant/one"}},
		{"an empty placeholder", "alice", "", nil, []string{"news", "public/a", "public/a/b", "a/b/c", "user/alice/mail"}},
		{"a wildcard as a value", "*", "*", nil, []string{"news", "public/a", "public/a/b", "a/b/c"}},
		{"a slash as a value", "alice/mail", "one/two", nil, []string{"news", "public/a", "public/a/b", "a/b/c"}},
		{"a part of a wildcard", "a*e", "one", nil, []string{"news", "public/a", "public/a/b", "a/b/c", "tenant/one"}},
		{"asked for one", "alice", "", []string{"public/a"}, []string{"public/a"}},
		{"asked for some", "alice", "one", []string{"tenant/one", "a/b/c", "a/b/c"}, []string{"a/b/c", "tenant/one"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := s.in(t)
			var query strings.Builder
			query.WriteString("?")
			for _, topic := range test.asked {
				query.WriteString("&topic=" + topic)
			}
			st := s.open("/events"+query.String(), "X-User", test.user, "X-Tenant", test.tenant)
			for _, topic := range topics {
				if strings.Contains(topic, "*") {
					continue
				}
				s.send(fmt.Sprintf(`{"topic":%q,"text":%q}`, topic, topic))
			}
			s.send(`{"text":"the end"}`)
			st.expect(append(slices.Clone(test.want), "the end")...)
		})
	}
	for _, query := range []string{"topic=user/bob/mail", "topic=a/b/d", "topic=news&topic=secret"} {
		a := s.refused("/events?"+query, "X-User", "alice")
		if a.status != http.StatusForbidden || !strings.Contains(a.body, "topic") {
			t.Errorf("%s: %d %q", query, a.status, a.body)
		}
	}
	s.open("/events?"+strings.Repeat("topic=news&", 100), "X-User", "alice")
}

// TestStreamHeartbeat: a silent stream sends heartbeats, over each protocol.
func TestStreamHeartbeat(t *testing.T) {
	s := startTLS(t, "", "test_auth\nsse /events {\n heartbeat 100ms\n}")
	eachProtocol(t, s, func(t *testing.T, p protocol) {
		s := s.in(t)
		asked := time.Now()
		st := openWith(t, p.client, p.url(s)+"/events", "X-User", "alice")
		for i := range 3 {
			if b := st.next(); !b.colon {
				t.Errorf("with nothing new came %+v", b)
			} else if beats := b.at.Sub(asked) / (100 * time.Millisecond); int(beats) <= i {
				t.Errorf("heartbeat %d came after %s", i+1, b.at.Sub(asked))
			}
		}
		id := s.send(`{"user":"bob","text":"not for alice"}`).ID
		for {
			if b := st.next(); b.hasID {
				if b.id != id || b.event != "" || b.data != "" {
					t.Errorf("moved with %+v, want the id %s alone", b, id)
				}
				break
			}
		}
		if b := st.next(); !b.colon {
			t.Errorf("after the position had moved came %+v", b)
		}
	})
}

// TestPromise2IdleClientKeepsUp: an idle client gets no gap, even if the history moves fast.
func TestPromise2IdleClientKeepsUp(t *testing.T) {
	s := start(t, "sse {\n history 8\n}", "test_auth\nsse /events")
	st := s.open("/events", "X-User", "alice")
	for range 4 {
		s.send(`{"user":"bob","text":"x"}`)
	}
	if b := st.next(); b.event != "" || b.data != "" || !b.hasID || b.id == st.connected.id { // well before the heartbeat
		t.Errorf("got %+v", b)
	}
}

// TestPromise5NobodyWaitsForTheSlow: a client that stops reading is dropped with a counted reason,
// and the others do not notice.
func TestPromise5NobodyWaitsForTheSlow(t *testing.T) {
	s := startTLS(t, "sse {\n history_size 256MiB\n}", "sse /events {\n anonymous\n}\nsse /impatient {\n anonymous\n connection_timeout 500ms\n heartbeat 200ms\n}")
	text := `{"text":"` + strings.Repeat("x", 512<<10) + `"}`
	eachProtocol(t, s, func(t *testing.T, p protocol) {
		s := s.in(t)
		other := openWith(t, p.client, p.url(s)+"/events")
		transport, ok := p.client.Transport.(*http.Transport)
		if ok {
			// A buffer of the default size would hold everything that is sent.
			transport.DialContext = dialSmall
		}
		closed := func(reason string) float64 {
			return s.metric(`caddy_sse_connections_closed_total{hub="default",reason="` + reason + `"}`)
		}
		timeouts, gone := closed("timeout"), closed("gone")
		connect(t, p.client, p.url(s)+"/impatient") // and reads no more
		eventually(t, "the connection", func() bool { return s.status("default").Connections == 2 })
		for range 12 {
			s.send(text)
			if b := other.event(); len(b.data) != 512<<10 {
				t.Fatalf("the other one got %d bytes", len(b.data))
			}
		}
		eventually(t, "the slow client to be dropped", func() bool { return s.status("default").Connections == 1 })
		dropped := closed("timeout") - timeouts
		if *takeover == "off" && strings.HasPrefix(p.name, "h1") {
			// The kernel may notice it first. Then the server reports only that the client has
			// left.
			dropped += closed("gone") - gone
		}
		if dropped != 1 {
			t.Errorf("it was counted %v times", dropped)
		}
		s.send(`{"text":"on we go"}`)
		other.expect("on we go")
		other.close()
		eventually(t, "the end", func() bool { return s.status("default").Connections == 0 })
	})
}

// TestStreamSurvivesServerTimeouts: the timeouts of the server for responses do not end a stream.
func TestStreamSurvivesServerTimeouts(t *testing.T) {
	const ofRoute = "timeouts {\n write_timeout 1s\n read_timeout 1s\n}\n"
	for _, test := range []struct{ ofServer, site string }{
		{"write 2s", ""},
		{"write_idle 1s", ""},
		{"write_idle -1s", ""},
		{"write 2s\nwrite_idle -1s", ""},
		{"write_idle 1s 1000000", ""},
		{"read_body 1s\nread_body_idle 1s\nidle 1s", ""},
		{"write_idle 1s", ofRoute}, // it sets a deadline of the server when its handler returns
		{"write_idle -1s", ofRoute},
	} {
		t.Run(strings.ReplaceAll(test.ofServer+"\n"+test.site, "\n", ", "), func(t *testing.T) {
			s := startTLS(t, "servers {\n timeouts {\n"+test.ofServer+"\n}\n}", test.site+bothWays("heartbeat 100ms"))
			streams := make(map[string]*stream)
			for _, p := range protocols(t) {
				for _, path := range []string{"/events", "/kept"} {
					streams[p.name+path] = openWith(t, p.client, p.url(s)+path)
				}
			}
			for name, st := range streams {
				for last := st.connected.at; last.Sub(st.connected.at) < 3*time.Second; {
					b, err := st.wait()
					if err != nil || b.event != "" {
						t.Fatalf("%s: got %+v, %v", name, b, err)
					}
					last = b.at
				}
			}
			s.send(`{"text":"late"}`)
			for _, st := range streams {
				st.expect("late")
			}
		})
	}
}

// TestStreamOfAWriterThatPanics: a panic before, at or after the begin of a stream resets it, and
// nothing of it is left.
func TestStreamOfAWriterThatPanics(t *testing.T) {
	s := startTLS(t, "", "test_break\nsse /events {\n anonymous\n}")
	eachProtocol(t, s, func(t *testing.T, p protocol) {
		s := s.in(t)
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.url(s)+"/events", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Break", "sse.connected")
		if resp, err := p.client.Do(req); err == nil {
			if _, err := io.ReadAll(resp.Body); err == nil {
				t.Error("it ended as if it were complete")
			}
			resp.Body.Close()
		}
		req.Header.Set("X-Break", "header")
		if resp, err := p.client.Do(req); err == nil {
			resp.Body.Close()
			t.Errorf("without a header: %s", resp.Status)
		}
		st := openWith(t, p.client, p.url(s)+"/events", "X-Break", "later")
		s.send(`{"text":"now"}`)
		st.expect("now")
		s.send(`{"text":"later"}`)
		if left := st.ended(); len(left) != 0 {
			t.Errorf("got %+v", left)
		}
		eventually(t, "the end", func() bool { return s.status("default").Connections == 0 })
	})
}

// TestStreamLifetime: a stream ends between 90% and 100% of max_lifetime, and the client gets the
// time to reconnect.
func TestStreamLifetime(t *testing.T) {
	s := start(t, "", "sse /events {\n anonymous\n max_lifetime 1s\n retry 100ms 200ms\n}")
	asked := time.Now()
	st := s.open("/events", "Last-Event-ID", "earliest")
	id := s.send(`{"text":"x"}`).ID
	blocks := st.ended()
	last := blocks[len(blocks)-1]
	// How soon after 100% it ends depends on the machine. TestLifetime of the hub has another clock.
	if age := last.at.Sub(asked); age < 900*time.Millisecond {
		t.Errorf("it ended after %s", age)
	}
	closing := decode[struct {
		Reason  string
		RetryMs int
	}](t, last.data)
	if last.event != "sse.closing" || closing.Reason != "lifetime" || last.hasID || last.retry != strconv.Itoa(closing.RetryMs) ||
		closing.RetryMs < 100 || closing.RetryMs > 200 {
		t.Errorf("it ended with %+v", last)
	}
	s.send(`{"text":"meanwhile"}`)
	s.open("/events", "Last-Event-ID", id).expect("meanwhile")
}

// TestStreamCaps: streams over a limit are rejected with a time to retry, and counted once.
// Streams that the limit does not concern are admitted.
func TestStreamCaps(t *testing.T) {
	const auth = "@login header X-User *\ntest_auth @login\n"
	tests := []struct {
		cap            string
		over, admitted []string
	}{
		{"max_connections 1", []string{"X-User", "bob"}, nil},
		{"max_connections_per_user 1", []string{"X-User", "alice"}, []string{"X-User", "bob"}},
		{"max_connections_per_ip 1", []string{"X-User", "bob"}, []string{"X-User", "alice", "X-Forwarded-For", "192.0.2.7"}},
	}
	for _, test := range tests {
		name, _, _ := strings.Cut(test.cap, " ")
		t.Run(name, func(t *testing.T) {
			s := start(t, "servers {\n trusted_proxies static private_ranges\n}", auth+"sse /events {\n anonymous\n "+test.cap+"\n}")
			first := s.open("/events", "X-User", "alice")
			a := do(t, "GET", "http://"+s.http+"/events", "", test.over...)
			var retry, retryMs int
			n, err := fmt.Sscanf(a.body, "retry: %d\nevent: sse.rejected\ndata: {\"reason\":\""+name+"\",\"retryMs\":%d}\n\n", &retry, &retryMs)
			if err != nil || n != 2 || retry != retryMs || retry < 30_000 || retry > 90_000 {
				t.Errorf("rejected with %q: %v", a.body, err)
			}
			if a.status != http.StatusOK {
				t.Errorf("status %d", a.status)
			}
			checkStreamHeaders(t, a.header)
			if n := s.metric(`caddy_sse_rejected_total{hub="default",reason="` + name + `"}`); n != 1 {
				t.Errorf("counted %v times", n)
			}
			if test.admitted != nil {
				s.open("/events", test.admitted...)
			}
			if name == "max_connections_per_user" {
				s.open("/events")
				s.open("/events") // anonymous ones are many
			}
			// A client that replaces its own connection needs no further slot.
			again := s.open("/events?previous="+first.id, "X-User", "alice")
			if again.connected.event != "sse.connected" {
				t.Errorf("with previous came %+v", again.connected)
			}
			if left := first.ended(); len(left) != 0 {
				t.Errorf("the replaced connection got %+v", left)
			}
			if n := s.metric(`caddy_sse_connections_closed_total{hub="default",reason="replaced"}`); n != 1 {
				t.Errorf("%v connections were replaced", n)
			}
		})
	}
}

// TestStreamPrevious: only the same user in the same session replaces a connection.
func TestStreamPrevious(t *testing.T) {
	s := start(t, "", "test_auth\nsse /events {\n session {http.request.cookie.sid}\n}")
	first := s.open("/events", "X-User", "alice", "Cookie", "sid=1")
	for _, headers := range [][]string{{"X-User", "bob", "Cookie", "sid=1"}, {"X-User", "alice", "Cookie", "sid=2"}, {"X-User", "alice"}} {
		s.open("/events?previous="+first.id, headers...)
	}
	s.open("/events?previous=nonsense", "X-User", "alice", "Cookie", "sid=1")
	s.send(`{"text":"still here"}`)
	first.expect("still here")
	s.open("/events?previous="+first.id, "X-User", "alice", "Cookie", "sid=1")
	if left := first.ended(); len(left) != 0 {
		t.Errorf("the replaced connection got %+v", left)
	}
}

// A client that has left before its stream begins gets no stream.
func TestStreamOfAClientThatIsGone(t *testing.T) {
	s := start(t, "", "test_hold /events\n"+anonymousSite)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		req, err := http.NewRequestWithContext(ctx, "GET", "http://"+s.http+"/events", nil)
		if err == nil {
			req.Header.Set("X-Hold", "gone")
			_, err = plain.Do(req)
		}
		ended <- err
	}()
	release := <-holding
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	close(release)
	s.open("/events").close() // behind it
	eventually(t, "the requests to end", func() bool { return !strings.Contains(stacks(), "testHold") })
	if n := s.metric(`caddy_sse_connections_opened_total{hub="default"}`); n != 1 {
		t.Errorf("%v streams were opened", n)
	}
}

// TestStreamBeginsInOneWrite: a client over HTTP/1.1 gets the header and the first block in one
// write, since each write costs the server a system call.
func TestStreamBeginsInOneWrite(t *testing.T) {
	s := start(t, "", "sse /events {\n anonymous\n}")
	for range 20 {
		c, err := net.Dial("tcp", strings.TrimPrefix(s.http, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, "GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 4<<10)
		n, err := c.Read(buf)
		if got := string(buf[:n]); err != nil || !strings.HasPrefix(got, "HTTP/1.1 200") || !strings.Contains(got, "event: sse.connected\n") {
			t.Errorf("the first read brought %q, %v", got, err)
		}
		c.Close()
	}
}
