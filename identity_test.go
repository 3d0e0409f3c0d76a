package caddysse_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// secretHash is the bcrypt hash of "secret", with the lowest cost.
const secretHash = "$2b$04$FuoMtWS5HDu.8HjWq.5FNO49uClacqmQNn0uTMgkNacqEoKp1WZZy"

// TestIdentityRefused: without a user there is no stream, and the answer has the reason.
func TestIdentityRefused(t *testing.T) {
	tests := []struct {
		name, site string
		headers    []string
		body       string
	}{
		{"nobody authenticated", "sse /events", nil, "no authenticated user"},
		{"an empty user, authenticated", "test_auth\nsse /events", []string{"X-User", ""}, "no authenticated user"},
		{"an unknown placeholder", "test_auth\nsse /events {\n user {http.nonsense}\n}", []string{"X-User", "alice"}, "no authenticated user"},
		{"an empty part", "test_auth\nsse /events {\n user {http.auth.user.id}@{http.request.header.X-Tenant}\n}", []string{"X-User", "alice"}, "no authenticated user"},
		{"a candidate is no user", "sse /events {\n user {http.auth.candidate.id}\n}", []string{"X-User", "alice"}, "no authenticated user"},
		{"handle_errors", "sse /events\nhandle_errors {\n respond \"{err.status_code} {err.message}\"\n}", nil, "401 no authenticated user"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := start(t, "", test.site)
			a := s.refused("/events", test.headers...)
			if a.status != http.StatusUnauthorized || !strings.Contains(a.body, test.body) {
				t.Errorf("answer: got %d %q, want 401 with %q", a.status, a.body, test.body)
			}
			if n := s.status("default").Connections; n != 0 {
				t.Errorf("%d connections", n)
			}
		})
	}
}

// TestRefusalOfAnotherErrorRoute: a refusal has its reason if every handle_errors is of another site or
// for another status.
func TestRefusalOfAnotherErrorRoute(t *testing.T) {
	tests := []struct{ name, sites, body string }{
		{"of another site", "http://other.test:PORT {\n handle_errors {\n respond other\n}\n}\nhttp://:PORT {\n sse /events\n}", "no authenticated user"},
		{"of this site, too", "http://other.test:PORT {\n handle_errors {\n respond other\n}\n}\nhttp://:PORT {\n sse /events\n handle_errors {\n respond mine\n}\n}", "mine"},
		{"for another status", "http://:PORT {\n sse /events\n handle_errors 404 5xx {\n respond other\n}\n}", "no authenticated user"},
		{"for this status", "http://:PORT {\n sse /events\n handle_errors 404 {\n respond other\n}\n handle_errors 4xx {\n respond \"mine {err.message}\"\n}\n}", "mine no auth"},
		{"for another path", "http://:PORT {\n sse /events\n handle_errors {\n handle /else {\n respond other\n}\n}\n}", "no authenticated user"},
		{"for another message", "http://:PORT {\n sse /events\n handle_errors {\n @else vars {err.message} nothing\n respond @else other\n}\n}", "no authenticated user"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := prepare(t, "")
			s.mustLoad(strings.ReplaceAll(test.sites, "PORT", port(s.http)))
			a := s.refused("/events")
			if a.status != http.StatusUnauthorized || !strings.Contains(a.body, test.body) {
				t.Errorf("answer: got %d %q, want 401 with %q", a.status, a.body, test.body)
			}
		})
	}
}

// TestIdentity: a stream has the user of the request.
func TestIdentity(t *testing.T) {
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Cookie") != "login=alice" {
			http.Error(w, "log in", http.StatusUnauthorized)
			return
		}
		w.Header().Set("Remote-User", "alice")
	}))
	defer upstream.Close()
	tests := []struct {
		name, site string
		headers    []string
	}{
		{"authentication provider", "test_auth\nsse /events", []string{"X-User", "alice"}},
		{"basic_auth", "basic_auth {\n alice " + secretHash + "\n}\nsse /events", []string{"Authorization", "Basic YWxpY2U6c2VjcmV0"}},
		{
			"forward_auth", "forward_auth " + upstream.Listener.Addr().String() + " {\n uri /\n}\n" +
				"sse /events {\n user {http.reverse_proxy.header.Remote-User}\n}",
			[]string{"Cookie", "login=alice", "Remote-User", "bob"},
		},
		{"placeholder", "sse /events {\n user {http.request.cookie.user}\n}", []string{"Cookie", "user=alice"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := start(t, "", test.site)
			st := s.open("/events", test.headers...)
			if !strings.Contains(st.connected.data, `"user":"alice"`) {
				t.Errorf("connected as %s", st.connected.data)
			}
			s.send(`{"user":"bob","text":"bob's"}`)
			if r := s.send(`{"user":"alice","text":"alice's"}`); r.Connections != 1 {
				t.Errorf("%d connections", r.Connections)
			}
			st.expect("alice's")
			if test.name == "placeholder" || test.name == "authentication provider" {
				return
			}
			// The request has the headers, but no login.
			if a := do(t, "GET", "http://"+s.http+"/events", "", "Remote-User", "alice"); a.status != http.StatusUnauthorized {
				t.Errorf("without a login: %d", a.status)
			}
		})
	}
}

// TestIdentityAnonymous: anonymous clients get the events for everybody, and for no user.
func TestIdentityAnonymous(t *testing.T) {
	s := start(t, "", "@login header X-User *\ntest_auth @login\nsse /events {\n anonymous\n}")
	nobody, empty, alice := s.open("/events"), s.open("/events", "X-User", ""), s.open("/events", "X-User", "alice")
	s.send(`{"user":"alice","text":"alice's"}`)
	s.send(`{"text":"all"}`)
	alice.expect("alice's", "all")
	for _, st := range []*stream{nobody, empty} {
		if !strings.Contains(st.connected.data, `"user":""`) {
			t.Errorf("connected as %s", st.connected.data)
		}
		st.expect("all")
	}
	if n := s.status("default").Users; n != 1 {
		t.Errorf("%d users", n)
	}
}

// TestIdentitySession: events are addressed to the value of a session, which is stored nowhere.
func TestIdentitySession(t *testing.T) {
	s := start(t, "", "sse /events {\n anonymous\n session {http.request.cookie.sid}\n}")
	mine, other, none := s.open("/events", "Cookie", "sid=topsecret"), s.open("/events", "Cookie", "sid=other"), s.open("/events")
	if r := s.send(`{"session":"topsecret","text":"mine"}`); r.Connections != 1 {
		t.Errorf("%d connections", r.Connections)
	}
	hash := hashed("topsecret")
	if a := s.api("POST", "/sse/send", `{"session":"`+hash+`","text":"by the hash"}`); decode[receipt](t, a.body).Connections != 0 {
		t.Error("a hash serves as the secret")
	}
	s.send(`{"text":"all"}`)
	mine.expect("mine", "all")
	other.expect("all")
	none.expect("all")

	list := s.api("GET", "/sse/connections?session="+hash, "")
	if l := decode[listing](t, list.body); l.Count != 1 || l.Connections[0].ID != mine.id || l.Connections[0].Session != hash {
		t.Errorf("listed %s", list.body)
	}
	if a := s.api("DELETE", "/sse/connections?session="+hash, ""); a.body != "{\"disconnected\":1}\n" {
		t.Errorf("disconnected %s", a.body)
	}
	mine.ended()
	if all := s.api("GET", "/sse/connections", "").body; strings.Contains(all, "topsecret") {
		t.Errorf("the secret is in %s", all)
	}
	for line := range strings.Lines(logs.tail(1 << 20)) {
		if strings.Contains(line, "topsecret") {
			t.Errorf("the secret is in the log: %s", line)
		}
	}
}

// TestIdentityExpires: the stream ends when the login ends.
func TestIdentityExpires(t *testing.T) {
	s := start(t, "", "test_auth\nsse /events {\n expires {http.auth.user.exp}\n retry 10ms 20ms\n}")
	for exp, want := range map[string]string{
		"":                        "it must be Unix seconds or RFC 3339",
		"garbage":                 "it must be Unix seconds or RFC 3339",
		"tomorrow":                "it must be Unix seconds or RFC 3339",
		"1":                       "the login ended at ",
		"-5":                      "the login ended at ",
		"2001-01-01":              "it must be Unix seconds or RFC 3339",
		"1.9e999":                 "it must be Unix seconds or RFC 3339",
		"NaN":                     "it must be Unix seconds or RFC 3339",
		"99999999999999999999999": "it must be Unix seconds or RFC 3339",
		"<script>":                "invalid value: it must be",
		fmt.Sprint(time.Now().Add(time.Hour).UnixMilli()): "more than ten years",
		fmt.Sprint(time.Now().Add(time.Hour).UnixMicro()): "more than ten years",
		fmt.Sprint(time.Now().Add(time.Hour).UnixNano()):  "more than ten years",
		fmt.Sprint(time.Now().AddDate(11, 0, 0).Unix()):   "more than ten years",
		"2999-01-01T00:00:00Z":                            "more than ten years",
		"9223372036854775807":                             "it must be Unix seconds",
		"2001-01-01T00:00:00Z":                            "the login ended at ",
	} {
		a := s.refused("/events", "X-User", "alice", "X-Exp", exp)
		if a.status != http.StatusUnauthorized || !strings.Contains(a.body, want) {
			t.Errorf("expires %q: %d %q, want 401 with %q", exp, a.status, a.body, want)
		}
	}
	for _, format := range []func(time.Time) string{
		func(at time.Time) string { return fmt.Sprint(at.Unix()) },
		func(at time.Time) string { return at.Format(time.RFC3339) },
		func(at time.Time) string { return at.In(time.FixedZone("", 3600)).Format(time.RFC3339) },
	} {
		st, soon := openUntil(s, format)
		exp, blocks := format(soon), st.ended()
		if len(blocks) != 1 || blocks[0].event != "sse.closing" || !strings.Contains(blocks[0].data, `"reason":"expired"`) || blocks[0].hasID {
			t.Fatalf("expires %q: it ended with %+v", exp, blocks)
		}
		if early := soon.Truncate(time.Second).Sub(blocks[0].at); early > 0 {
			t.Errorf("expires %q: it ended %s early", exp, early)
		}
	}
}

// openUntil opens a stream of a login that ends soon after. A busy machine may need longer than the login
// lasts, so it tries again with a longer one.
func openUntil(s *server, format func(time.Time) string) (st *stream, end time.Time) {
	s.Helper()
	for lasts := 2 * time.Second; lasts < waitLimit; lasts *= 2 {
		end = time.Now().Add(lasts)
		st = connect(s, plain, "http://"+s.http+"/events", "X-User", "alice", "X-Exp", format(end))
		if st.StatusCode != http.StatusOK {
			continue
		}
		st.start()
		if st.connected.event == "sse.connected" {
			return st, end
		}
	}
	s.Fatal("each login ended before its stream was open")
	return nil, end
}

// TestPromise6OnlyTheAddressed: for any request of alice, she never gets events for bob.
func TestPromise6OnlyTheAddressed(t *testing.T) {
	s := start(t, "", `test_auth
		sse /events {
			session {http.request.cookie.sid}
			topics public user/{http.auth.user.id}/*
		}`)
	bob := s.open("/events", "X-User", "bob", "Cookie", "sid=bobs")
	secrets := []string{
		s.send(`{"user":"bob","text":"for bob"}`).ID,
		s.send(`{"connection":"` + bob.id + `","text":"for bob"}`).ID,
		s.send(`{"session":"bobs","text":"for bob"}`).ID,
		s.send(`{"topic":"user/bob/mail","text":"for bob"}`).ID,
	}
	for range secrets {
		bob.expect("for bob")
	}
	epoch, _, _ := strings.Cut(secrets[0], "-")
	first := epoch + "-0"

	type attempt struct {
		name, query string
		headers     []string
	}
	attempts := []attempt{
		{"earliest", "", []string{"Last-Event-ID", "earliest"}},
		{"before everything", "?last_event_id=" + first, nil},
		{"other users in the query", "?user=bob&session=bobs&topic=public&last_event_id=earliest", nil},
		{"headers of proxies", "?last_event_id=earliest", []string{"Remote-User", "bob", "X-Forwarded-User", "bob"}},
		{"a second user header", "?last_event_id=earliest", []string{"X-User", "bob"}},
		{"bob's connection as previous", "?last_event_id=earliest&previous=" + bob.id, nil},
		{"bob's connection as previous, twice", "?last_event_id=earliest&previous=&previous=" + bob.id, nil},
	}
	for _, id := range secrets {
		attempts = append(attempts, attempt{"bob's position", "", []string{"Last-Event-ID", id}})
	}
	for _, test := range attempts {
		t.Run(test.name, func(t *testing.T) {
			s := s.in(t)
			alice := s.open("/events"+test.query, append([]string{"X-User", "alice"}, test.headers...)...)
			s.send(`{"connection":"` + alice.id + `","text":"for alice"}`)
			alice.expect("for alice")
			if b := alice.connected; strings.Contains(b.data, "bob") {
				t.Errorf("connected as %s", b.data)
			}
		})
	}
	for topic, status := range map[string]int{"user/bob/mail": 403, "user/*/mail": 400, "user/alice": 403, "*": 400, "": 400} {
		a := s.refused("/events?topic="+topic, "X-User", "alice")
		if a.status != status {
			t.Errorf("topic %q: %d %q", topic, a.status, a.body)
		}
	}
	// The name of this user would be a pattern.
	for _, name := range []string{"*", "bob/mail", "a*", "/"} {
		st := s.open("/events?last_event_id=earliest", "X-User", name)
		s.send(`{"connection":"` + st.id + `","text":"the end"}`)
		st.expect("the end")
	}
	// The stream of bob was not replaced, and bob can log in.
	s.send(`{"user":"bob","text":"still here"}`)
	bob.expect("still here")
	again := s.open("/events", "X-User", "bob", "Last-Event-ID", first)
	again.expect("for bob", "for bob", "still here") // neither the connection's, nor without the cookie the session's
}

// TestPromise10HubsAreIslands: events, ids and positions of one hub do not work in another.
func TestPromise10HubsAreIslands(t *testing.T) {
	s := start(t, "sse\nsse chat", `test_auth
		sse /events {
			topics t
		}
		sse /chat {
			hub chat
			topics t
		}`)
	here, there := s.open("/events", "X-User", "alice"), s.open("/chat", "X-User", "alice")
	targets := []string{`"user":"alice",`, `"topic":"t",`, `"connection":"` + there.id + `",`, `"key":"k",`, ``}
	for _, target := range targets {
		s.send(`{` + target + `"text":"default's"}`)
	}
	for _, target := range targets {
		if r := s.send(`{`+target+`"text":"chat's"}`, "?hub=chat"); r.Duplicate || r.Connections != 1 {
			t.Errorf("for %s: %+v", target, r)
		}
	}
	here.expect("default's", "default's", "default's", "default's")
	there.expect("chat's", "chat's", "chat's", "chat's", "chat's")

	replayed := s.open("/chat?last_event_id=earliest", "X-User", "alice")
	replayed.expect("chat's", "chat's", "chat's", "chat's")
	strange := s.open("/chat", "X-User", "alice", "Last-Event-ID", s.status("default").Head)
	if b := strange.next(); b.event != "sse.gap" || !strings.Contains(b.data, "epoch") {
		t.Errorf("with the other hub's position came %+v", b)
	}
	if a := s.api("DELETE", "/sse/connections/"+there.id, ""); a.status != http.StatusNotFound {
		t.Errorf("chat's connection ended through default: %d %s", a.status, a.body)
	}
	s.open("/events?previous="+there.id, "X-User", "alice")
	s.send(`{"text":"last"}`, "?hub=chat")
	there.expect("last")
	if n := len(decode[listing](t, s.api("GET", "/sse/connections?hub=chat", "").body).Connections); n != 3 {
		t.Errorf("%d connections listed of chat", n)
	}
}

// TestNamesMustBeUTF8: a server that writes headers as Latin-1 would give a user or a session that no
// publisher can name.
func TestNamesMustBeUTF8(t *testing.T) {
	s := start(t, "", "sse /events {\n user {http.request.header.X-User}\n session {http.request.header.X-Session}\n}")
	for name, headers := range map[string][]string{
		"user":    {"X-User", "jos\xe9"},
		"session": {"X-User", "alice", "X-Session", "jos\xe9"},
	} {
		a := s.refused("/events", headers...)
		if a.status != http.StatusForbidden || !strings.Contains(a.body, name+": it must be valid UTF-8") {
			t.Errorf("answer: got %d %s, want 403 that names the %s", a.status, a.body, name)
		}
	}
	st := s.open("/events", "X-User", "josé", "X-Session", "josé's")
	defer st.close()
	for _, target := range []string{`"user":"josé"`, `"session":"josé's"`} {
		if r := s.send(`{` + target + `,"text":"x"}`); r.Connections != 1 {
			t.Errorf("connections with %s: got %d, want 1", target, r.Connections)
		}
	}
}
