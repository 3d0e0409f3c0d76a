package caddysse_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
)

// TestStreamQuery: an invalid query is refused, and opens no stream.
func TestStreamQuery(t *testing.T) {
	s := startTLS(t, "", "sse /events {\n anonymous\n topics news public/*\n}")
	tests := []struct {
		query  string
		status int
		text   string
	}{
		{"last_event_id=garb%zzage", 400, "invalid query string"},
		{"last_event_id=a;x", 400, "separate parameters with &"},
		{"topic=news&%", 400, "invalid query string"},
		{"topics=news", 400, `unknown query parameter "topics": did you mean topic?`},
		{"topic[]=news", 400, `unknown query parameter "topic[]": did you mean topic?`},
		{"topic[0]=news", 400, "did you mean topic?"},
		{"Topic=news", 400, "did you mean topic?"},
		{"topic=news&TOPICS=public/a", 400, "did you mean topic?"},
		{"last-event-id=x", 400, "did you mean last_event_id?"},
		{"lasteventid=x", 400, "did you mean last_event_id?"},
		{"lastEventIds=x", 400, "did you mean last_event_id?"},
		{"Previous=x", 400, "did you mean previous?"},
		{"topic=", 400, "topic 1 of the query: it must not be empty"},
		{"topic=public/*", 400, `topic 1 of the query "public/*": it must be an exact name`},
		{"topic=news&topic=*", 400, "topic 2 of the query"},
		{"topic=" + strings.Repeat("x", 513), 400, "513 bytes: at most 512"},
		{"topic=%ff", 400, "valid UTF-8"},
		{strings.Repeat("topic=news&", 101), 400, "101 topics: at most 100"},
		{"topic=news,public/a", 403, `topic 1 of the query "news,public/a": not allowed on this stream`},
		{"topic=secret", 403, "not allowed on this stream"},
	}
	eachProtocol(t, s, func(t *testing.T, p protocol) {
		s := s.in(t)
		for _, test := range tests {
			for _, method := range []string{"GET", "HEAD"} {
				ctx, cancel := context.WithTimeout(t.Context(), waitLimit)
				resp := request(ctx, t, p.client, method, p.url(s)+"/events?"+test.query, "", nil)
				body := readAll(t, resp)
				cancel()
				if resp.StatusCode != test.status || method == "GET" && !strings.Contains(body, test.text) || resp.Header.Get("Cache-Control") != "no-store" {
					t.Errorf("%s %.60s: %d %v %q, want %d with %q", method, test.query, resp.StatusCode, resp.Header, body, test.status, test.text)
				}
			}
		}
		if n := s.status("default").Connections; n != 0 {
			t.Errorf("%d connections", n)
		}
		id := s.send(`{"text":"one"}`).ID
		s.send(`{"text":"two"}`)
		// Other parameters belong to the site.
		for _, query := range []string{"lastEventID=" + id, "lastEventID=" + id + "&token=a&topical=b&t=&event=x&id=7&topic_id=8&=&previous_page=9"} {
			st := openWith(t, p.client, p.url(s)+"/events?"+query)
			st.expect("two")
			st.close()
		}
		eventually(t, "the end", func() bool { return s.status("default").Connections == 0 })
	})
}

// TestRefusalsAreNoMarkup: a site may put a refusal into a page. The text of the client must not
// become markup of that page.
func TestRefusalsAreNoMarkup(t *testing.T) {
	const evil = `<script>alert("1")</script>' onload='x`
	s := start(t, "", "test_auth\nsse /events {\n topics news\n expires {http.request.header.X-Exp}\n}\n"+
		"handle_errors {\n header Content-Type text/html\n respond \"<h1 title='{err.message}'>{err.message}</h1>\"\n}")
	e := url.QueryEscape(evil)
	for query, status := range map[string]int{
		"topic=" + e: 403, "topic=" + e + "/*": 400, "topic=" + e + strings.Repeat("x", 600): 400, "topic=" + e[:9] + "&topics" + url.QueryEscape("<\"'>") + "=1": 400, "topic[<>]=": 400, "%" + evil: 400, "topic=%<a": 400, "": 401,
	} {
		req, err := http.NewRequest("GET", "http://"+s.http+"/events", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.URL.RawQuery = strings.ReplaceAll(query, " ", "+")
		exp := fmt.Sprint(time.Now().Add(time.Hour).Unix())
		if query == "" {
			exp = "1' " + evil
		}
		setHeaders(req, []string{"X-User", "alice", "X-Exp", exp})
		resp, err := plain.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body := readAll(t, resp)
		text := strings.TrimSuffix(strings.TrimPrefix(body, "<h1 title='"), "</h1>")
		text = strings.Replace(text, "'>", "", 1)
		if strings.ContainsAny(text, "<>'") || resp.StatusCode != status {
			t.Errorf("%q: %d %s", query, resp.StatusCode, body)
		}
	}
}

// TestNamesAreShort: names of users, sessions and topics are bounded, also those from placeholders
// of the site.
func TestNamesAreShort(t *testing.T) {
	s := start(t, "", "test_auth\nsse /events {\n session {http.request.cookie.sid}\n topics news of/{http.request.header.X-Tenant}\n}")
	most, more := strings.Repeat("x", 512), strings.Repeat("x", 513)
	for name, test := range map[string]struct {
		headers []string
		text    string
	}{
		"user":             {[]string{"X-User", more}, "user has 513 bytes: at most 512"},
		"session":          {[]string{"X-User", "alice", "Cookie", "sid=" + more}, "session has 513 bytes: at most 512"},
		"topic":            {[]string{"X-User", "alice", "X-Tenant", most}, "515 bytes with its placeholders replaced: at most 512"},
		"the longest user": {[]string{"X-User", most}, ""},
		"the longest":      {[]string{"X-User", "alice", "Cookie", "sid=" + most, "X-Tenant", most[3:]}, ""},
	} {
		if test.text == "" {
			s.open("/events", test.headers...)
		} else if a := s.refused("/events", test.headers...); a.status != 400 || !strings.Contains(a.body, test.text) {
			t.Errorf("%s: %d %q", name, a.status, a.body)
		}
	}
	if r := s.send(`{"user":"` + most + `","text":"x"}`); r.Connections != 1 {
		t.Errorf("the longest user: %+v", r)
	}
}

// TestPlaceholdersOfResponseHeaders: placeholders of response headers work in any letter case.
func TestPlaceholdersOfResponseHeaders(t *testing.T) {
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-SSE-User", "alice")
		w.Header().Set("X-SSE-Session", "s1")
		w.Header().Set("X-SSE-Topic", "t1")
		w.Header().Set("X-SSE-Expires", "2030-01-01T00:00:00Z")
	}))
	defer upstream.Close()
	for _, spelling := range []string{"X-SSE-", "x-sse-", "X-Sse-"} {
		t.Run(spelling, func(t *testing.T) {
			at := func(name string) string { return "{http.reverse_proxy.header." + spelling + name + "}" }
			s := start(t, "", "forward_auth "+upstream.Listener.Addr().String()+" {\n uri /\n}\nsse /events {\n user {rp.header."+spelling+"User}-"+at("user")+
				"\n session "+at("Session")+"\n topics of/"+at("Topic")+"\n expires "+at("expires")+"\n}")
			st := s.open("/events")
			if !strings.Contains(st.connected.data, `"user":"alice-alice"`) {
				t.Errorf("connected as %s", st.connected.data)
			}
			for _, target := range []string{`"session":"s1"`, `"topic":"of/t1"`} {
				if r := s.send(`{` + target + `,"text":"x"}`); r.Connections != 1 {
					t.Errorf("%s reaches %d", target, r.Connections)
				}
			}
		})
	}
}

// TestLogNamesEmptyPlaceholders: the log at level debug names the empty placeholder of grants, session
// and expires.
func TestLogNamesEmptyPlaceholders(t *testing.T) {
	s := start(t, "", "sse /events {\n anonymous\n grants {http.request.header.X-Of-Grants}\n session {http.request.header.X-Of-Session}\n expires {http.request.header.X-Of-Expires}\n}\n"+
		"sse /without {\n anonymous\n}")
	values := map[string]string{"X-Of-Grants": "room/1", "X-Of-Session": "s1", "X-Of-Expires": fmt.Sprint(time.Now().Add(time.Hour).Unix())}
	for option, name := range map[string]string{"grants": "X-Of-Grants", "session": "X-Of-Session", "expires": "X-Of-Expires", "": ""} {
		t.Run(option, func(t *testing.T) {
			var headers []string
			for header, value := range values {
				if header != name {
					headers = append(headers, header, value)
				}
			}
			logs.reset()
			do(t, "HEAD", "http://"+s.http+"/events", "", headers...)
			do(t, "HEAD", "http://"+s.http+"/without", "")
			for _, of := range []string{"grants", "session", "expires"} {
				lines := logs.with(t, "no "+of)
				if of != option && len(lines) > 0 {
					t.Errorf("no %s: got %v, want no line", of, lines)
				}
				if of == option && (len(lines) != 1 || lines[0]["level"] != "debug" || !strings.Contains(fmt.Sprint(lines[0]["error"]), name)) {
					t.Errorf("no %s: got %v, want one line at level debug that names %s", of, lines, name)
				}
			}
		})
	}
}

// TestLogSaysWhyThereIsNoUser: the log at debug level names the placeholder that is empty.
func TestLogSaysWhyThereIsNoUser(t *testing.T) {
	s := start(t, "", "test_auth\nsse /events {\n user {http.auth.user.id}@{http.request.header.X-Tenant}\n}\nsse /guests {\n anonymous\n}")
	for path, test := range map[string]struct {
		headers []string
		names   string
	}{
		"/events": {[]string{"X-User", "alice"}, "http.request.header.X-Tenant"},
		"/guests": {[]string{"X-User", ""}, "http.auth.user.id"},
	} {
		logs.reset()
		do(t, "HEAD", "http://"+s.http+path, "", test.headers...)
		lines := logs.with(t, "no user")
		if len(lines) != 1 || lines[0]["level"] != "debug" || !strings.Contains(lines[0]["error"].(string), test.names) {
			t.Errorf("%s: logged %v", path, lines)
		}
	}
}

// TestPreviousOfAnonymousStreams: a client with the id of an anonymous stream, which no other
// client gets, may replace it without a login. It cannot replace the stream of a user or a
// session, and these cannot replace an anonymous stream.
func TestPreviousOfAnonymousStreams(t *testing.T) {
	s := start(t, "", "@login header X-User *\ntest_auth @login\nsse /events {\n anonymous\n session {http.request.cookie.sid}\n}")
	identities := map[string][]string{"nobody": nil, "a user": {"X-User", "alice"}, "a session": {"Cookie", "sid=1"}, "both": {"X-User", "alice", "Cookie", "sid=1"}}
	for first, one := range identities {
		for second, other := range identities {
			old := s.open("/events", one...)
			again := s.open("/events?previous="+old.id, other...)
			list := s.api("GET", "/sse/connections", "").body
			if replaced := !strings.Contains(list, old.id); replaced != (first == second) {
				t.Errorf("%s replaced by %s: %t", first, second, replaced)
			}
			old.close()
			again.close()
		}
	}
}

// TestConstantOptions: a warning names each option that has the same value for every client when
// the config is loaded, and no other.
func TestConstantOptions(t *testing.T) {
	for options, want := range map[string]string{
		"user X-SSE-User":        "user X-SSE-User",
		"user http.auth.user.id": "user http.auth.user.id",
		"grants room/1":          "grants room/1",
		"session X-SSE-Session":  "session X-SSE-Session",
		"expires X-SSE-Expires":  "expires X-SSE-Expires",
		"anonymous":              "",
		"user {header.X-User}\n grants {header.X-Rooms}\n session {cookie.sid}\n expires {http.auth.user.exp}": "",
		"user {http.auth.user.id}@example.com\n topics news":                                                   "",
	} {
		t.Run(options, func(t *testing.T) {
			s := prepare(t, "")
			logs.reset()
			s.mustLoad(s.site("sse /events {\n " + options + "\n}"))
			lines := logs.with(t, "an option has the same value for every client: write placeholders in braces, such as {http.reverse_proxy.header.X-SSE-User}")
			var options []string
			for _, line := range lines {
				options = append(options, fmt.Sprint(line["option"], " ", line["value"]))
				if line["level"] != "warn" || line["logger"] != "http.handlers.sse" {
					t.Errorf("line: got %v, want a warning of the handler", line)
				}
			}
			if got := strings.Join(options, "; "); got != want {
				t.Errorf("options with a warning: got %q, want %q", got, want)
			}
		})
	}
}
