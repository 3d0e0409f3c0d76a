package caddysse_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	caddysse "github.com/ea766355/caddy-sse"
)

type connection struct {
	ID, User, Session, Protocol, Remote, Since, Position string
	Topics                                               []string
	Lag                                                  int
}

type listing struct {
	Count       int
	Connections []connection
	Next        string
}

// checkAPIHeader checks that no cache keeps a response, and that browsers do not guess its type.
func checkAPIHeader(t testing.TB, a answer) {
	t.Helper()
	if a.header.Get("Cache-Control") != "no-store" || a.header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("headers %v", a.header)
	}
}

// checkRefusal checks an answer that must be an error in JSON.
func checkRefusal(t testing.TB, a answer, status int, text string) {
	t.Helper()
	checkAPIHeader(t, a)
	if a.status != status || a.header.Get("Content-Type") != "application/json" {
		t.Errorf("status %d, %s %s; want %d", a.status, a.header.Get("Content-Type"), a.body, status)
		return
	}
	fields := decode[map[string]any](t, a.body)
	if message, _ := fields["error"].(string); len(fields) != 1 || !strings.Contains(message, text) {
		t.Errorf("%s does not say %q", a.body, text)
	}
}

// TestAPIRefusals: the API refuses wrong requests before it reads their bodies.
func TestAPIRefusals(t *testing.T) {
	s := start(t, "sse\nsse chat", "sse /events\nsse_api /sse/*")
	const event = `{"text":"x"}`
	tests := []struct {
		method, path, contentType, body string
		status                          int
		text                            string
	}{
		{"GET", "/sse/send", "", "", 405, "(allowed: POST)"},
		{"PUT", "/sse/broadcast", "application/json", event, 405, "(allowed: POST)"},
		{"POST", "/sse/connections", "application/json", event, 405, "(allowed: DELETE, GET, HEAD"},
		{"GET", "/sse/connections/abc", "", "", 405, "(allowed: DELETE"},
		{"DELETE", "/sse/status", "", "", 405, "(allowed: GET, HEAD)"},
		{"GET", "/sse/", "", "", 404, "/sse/send, /sse/broadcast"},
		{"POST", "/sse/publish", "application/json", event, 404, "/sse/send"},
		{"POST", "/sse/send/alice", "application/json", event, 404, "/sse/send"},
		{"POST", "/sse/broadcast", "", event, 415, "application/x-ndjson"},
		{"POST", "/sse/broadcast", "text/plain", event, 415, "application/json"},
		{"POST", "/sse/broadcast", "application/x-www-form-urlencoded", event, 415, "application/json"},
		{"POST", "/sse/broadcast?hub=nope", "application/json", event, 404, `unknown hub "nope" (available: chat, default)`},
		{"GET", "/sse/status?hub=nope", "", "", 404, "(available: chat, default)"},
		{"GET", "/sse/connections?hub=nope", "", "", 404, "(available: chat, default)"},
		{"DELETE", "/sse/connections?hub=nope&all=true", "", "", 404, "(available: chat, default)"},
		{"DELETE", "/sse/connections/abc?hub=nope", "", "", 404, "(available: chat, default)"},
		{"POST", "/sse/broadcast?user=alice", "application/json", event, 400, `unknown query parameter "user"`},
		{"GET", "/sse/status?verbose=1", "", "", 400, `unknown query parameter "verbose"`},
		{"POST", "/sse/broadcast?hub=chat&hub=default", "application/json", event, 400, `query parameter "hub" is given twice`},
		{"DELETE", "/sse/connections?all=true&hub=chat&hub=default", "", "", 400, `"hub" is given twice`},
		{"DELETE", "/sse/connections?all=true&all=false", "", "", 400, `"all" is given twice`},
		{"GET", "/sse/status?hub=chat&hub=default", "", "", 400, `"hub" is given twice`},
		{"GET", "/sse/ready?hub=chat&hub=default", "", "", 400, `"hub" is given twice`},
		{"GET", "/sse/connections?limit=1&limit=2", "", "", 400, `"limit" is given twice`},
		{"GET", "/sse/events?after=earliest&after=", "", "", 400, `"after" is given twice`},
		{"GET", "/sse/connections?usr=alice", "", "", 400, "user, session, topic, limit, after"},
		{"GET", "/sse/connections?limit=0", "", "", 400, "it must be a number from 1"},
		{"GET", "/sse/connections?limit=-1", "", "", 400, "limit"},
		{"GET", "/sse/connections?limit=1001", "", "", 400, "to 1000"},
		{"GET", "/sse/connections?limit=ten", "", "", 400, "limit"},
		{"GET", "/sse/connections?user=%zz", "", "", 400, "query"},
		{"DELETE", "/sse/connections?all=true&user=%zz", "", "", 400, "query"},
		{"DELETE", "/sse/connections", "", "", 400, "all=true"},
		{"DELETE", "/sse/connections?all=yes", "", "", 400, "all=true"},
		{"DELETE", "/sse/connections?all=true&user=alice", "", "", 400, "all=true"},
		{"GET", "/sse/connections?session=s3cret-value", "", "", 400, "the hash as it is listed"},
		{"GET", "/sse/connections?session=", "", "", 400, "the hash as it is listed"},
		{"GET", "/sse/connections?session=" + strings.Repeat("0", 31), "", "", 400, "32 lower case hex digits"},
		{"GET", "/sse/connections?session=" + strings.Repeat("0", 32) + "&session=s3cret-value", "", "", 400, "32 lower case hex digits"},
		{"DELETE", "/sse/connections?session=s3cret-value", "", "", 400, "the hash as it is listed"},
		{"DELETE", "/sse/connections?session=" + strings.Repeat("G", 32), "", "", 400, "32 lower case hex digits"},
		{"DELETE", "/sse/connections?id=abc", "", "", 400, "unknown query parameter"},
		{"DELETE", "/sse/connections/abc", "", "", 404, `no open connection has the id "abc"`},
	}
	for _, base := range []string{"http://" + s.admin, "http://" + s.http} {
		before := s.status("default").Head
		for _, test := range tests {
			t.Run(test.method+" "+test.path, func(t *testing.T) {
				a := do(t, test.method, base+test.path, test.body, "Content-Type", test.contentType)
				checkRefusal(t, a, test.status, test.text)
				if strings.Contains(a.body, "s3cret") {
					t.Errorf("it repeats what may be a secret: %s", a.body)
				}
				if allow := a.header.Get("Allow"); (test.status == 405) != (allow != "") {
					t.Errorf("Allow is %q", allow)
				}
			})
		}
		if after := s.status("default").Head; after != before {
			t.Errorf("the head went from %s to %s", before, after)
		}
	}
}

// TestAPIHead: each GET can also be a HEAD, as monitors send.
func TestAPIHead(t *testing.T) {
	s := start(t, "", "sse /events\nsse_api /sse/*")
	for _, base := range []string{"http://" + s.admin, "http://" + s.http} {
		for path, status := range map[string]int{"/sse/status": 200, "/sse/ready": 200, "/sse/users": 200, "/sse/connections?limit=1": 200, "/sse/connections?limit=0": 400, "/sse/nothing": 404, "/sse/send": 405} {
			a := do(t, "HEAD", base+path, "")
			if a.status != status || a.body != "" || a.header.Get("Content-Type") != "application/json" {
				t.Errorf("%s: %d %v %q", path, a.status, a.header, a.body)
			}
			checkAPIHeader(t, a)
		}
	}
	for _, contentType := range []string{"application/json", ndjson} {
		checkAPIHeader(t, s.api("POST", "/sse/broadcast", `{"text":"x"}`, contentType))
	}
}

// TestAPIEncodedBody: a body with a Content-Encoding is refused, and the error names the encoding.
func TestAPIEncodedBody(t *testing.T) {
	s := start(t, "", "sse /events")
	for _, call := range []struct{ method, path, body string }{
		{"POST", "/sse/broadcast", `{"text":"x"}`},
		{"PATCH", "/sse/connections?all=true", `{"add":["x"]}`},
	} {
		send := func(encoding string) answer {
			return do(t, call.method, "http://"+s.admin+call.path, call.body, "Content-Type", "application/json", "Content-Encoding", encoding)
		}
		for _, encoding := range []string{"gzip", "br", "identity, gzip"} {
			checkRefusal(t, send(encoding), 415, `Content-Encoding "`+encoding+`"`)
		}
		if a := send("identity"); a.status != 200 {
			t.Errorf("%s with the encoding identity: got %d %s, want 200", call.method, a.status, a.body)
		}
	}
}

// TestAPILimitOfTheSite: the refusal of a body above the limit of request_body has that limit.
func TestAPILimitOfTheSite(t *testing.T) {
	s := start(t, "", "request_body {\n max_size 100\n}\nsse /events\nsse_api /sse/*")
	for method, path := range map[string]string{"POST": "/sse/broadcast", "PATCH": "/sse/connections?all=true"} {
		body := strings.NewReader(`{"text":"` + strings.Repeat("x", 100) + `"}`)
		req, err := http.NewRequest(method, "http://"+s.http+path, io.MultiReader(body)) // without a Content-Length
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := plain.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		checkRefusal(t, answer{resp.StatusCode, resp.Header, string(text)}, 413, "more than 100 bytes")
	}
}

// TestAPITargets: each kind of target reaches the connections that it names, each once.
func TestAPITargets(t *testing.T) {
	s := start(t, "", "test_auth\nsse /events {\n session {http.request.cookie.sid}\n topics news public/*\n}")
	alice := s.open("/events", "X-User", "alice", "Cookie", "sid=1")
	alice2 := s.open("/events?topic=news", "X-User", "alice", "Cookie", "sid=2")
	bob := s.open("/events?topic=public/a", "X-User", "bob", "Cookie", "sid=3")
	everybody := []*stream{alice, alice2, bob}
	tests := []struct {
		target string
		want   []*stream
	}{
		{`"user":"alice"`, []*stream{alice, alice2}},
		{`"user":["alice","bob","nobody","alice"]`, everybody},
		{`"session":"1"`, []*stream{alice}},
		{`"session":["1","3"]`, []*stream{alice, bob}},
		{`"connection":"` + bob.id + `"`, []*stream{bob}},
		{`"connection":["` + bob.id + `","` + alice.id + `"]`, []*stream{alice, bob}},
		{`"topic":"news"`, []*stream{alice, alice2}},
		{`"topic":["news","public/a","public/b"]`, everybody},
		{`"topic":"public/a"`, []*stream{alice, bob}},
		{`"user":"nobody"`, nil},
		{``, everybody},
	}
	for i, test := range tests {
		data := fmt.Sprint(i)
		r := s.send(strings.Replace(`{`+test.target+`,"text":"`+data+`"}`, "{,", "{", 1))
		if r.Connections != len(test.want) {
			t.Errorf("%s: %d connections, want %d", test.target, r.Connections, len(test.want))
		}
		for _, st := range test.want {
			if b := st.event(); b.data != data || b.id != r.ID {
				t.Fatalf("%s: got %+v, want %s", test.target, b, data)
			}
		}
	}
}

// TestAPIListing: filters, pages, and the shape of a connection.
func TestAPIListing(t *testing.T) {
	s := start(t, "", "test_auth\nsse /events {\n session {http.request.cookie.sid}\n topics news public/*\n}")
	var ids []string
	for i := range 7 {
		user := "alice"
		if i >= 4 {
			user = "bob"
		}
		ids = append(ids, s.open(fmt.Sprintf("/events?topic=public/%d", i%2), "X-User", user, "Cookie", fmt.Sprintf("sid=%d", i)).id)
	}
	list := func(query string) listing {
		t.Helper()
		return decode[listing](t, s.api("GET", "/sse/connections"+query, "").body)
	}
	tests := []struct {
		query string
		count int
		want  []string
		next  string
	}{
		{"", 7, ids, ""},
		{"?hub=default", 7, ids, ""},
		{"?limit=7", 7, ids, ""},
		{"?limit=3", 7, ids[:3], ids[2]},
		{"?limit=3&after=" + ids[2], 7, ids[3:6], ids[5]},
		{"?limit=3&after=" + ids[5], 7, ids[6:], ""},
		{"?after=" + ids[6], 7, nil, ""},
		{"?user=alice", 4, ids[:4], ""},
		{"?user=alice&limit=1&after=" + ids[0], 4, ids[1:2], ids[1]},
		{"?user=alice&user=bob", 7, ids, ""},
		{"?user=nobody", 0, nil, ""},
		{"?user=", 0, nil, ""},
		{"?session=" + hashed("2"), 1, ids[2:3], ""},
		{"?session=" + hashed("2") + "&session=" + hashed("3"), 2, ids[2:4], ""},
		{"?session=" + hashed("2") + "&user=bob", 0, nil, ""},
		{"?topic=public/1", 3, []string{ids[1], ids[3], ids[5]}, ""},
		{"?topic=public/1&user=alice", 2, []string{ids[1], ids[3]}, ""},
		{"?topic=public/1&topic=public/0", 7, ids, ""},
	}
	for _, test := range tests {
		l := list(test.query)
		var got []string
		for _, c := range l.Connections {
			got = append(got, c.ID)
		}
		if l.Count != test.count || !slices.Equal(got, test.want) || l.Next != test.next {
			t.Errorf("%s: %+v, want %d: %v and next %q", test.query, l, test.count, test.want, test.next)
		}
	}
	if body := s.api("GET", "/sse/connections?user=nobody", "").body; body != `{"count":0,"connections":[]}`+"\n" {
		t.Errorf("nobody is listed as %s", body)
	}
	id := s.send(`{"text":"x"}`).ID
	eventually(t, "the event to be written", func() bool { return list("").Connections[0].Position == id })
	c := list("").Connections[0]
	if c.User != "alice" || len(c.Session) != 32 || !slices.Equal(c.Topics, []string{"public/0"}) || c.Protocol != "h1" ||
		c.Remote != "127.0.0.1" || !strings.Contains(c.Since, "T") || c.Lag != 0 {
		t.Errorf("listed as %+v", c)
	}
}

// hashed returns a session as listings show it.
func hashed(session string) string {
	sum := sha256.Sum256([]byte(session))
	return hex.EncodeToString(sum[:16])
}

// TestAPIDisconnect: connections are ended by id, by filter, or all. Each gets sse.closing and is
// counted.
func TestAPIDisconnect(t *testing.T) {
	s := start(t, "", "test_auth\nsse /events {\n session {http.request.cookie.sid}\n topics news\n}")
	open := func(user, sid string) *stream { return s.open("/events", "X-User", user, "Cookie", "sid="+sid) }
	one, two, three, four := open("alice", "1"), open("alice", "2"), open("bob", "3"), open("carol", "4")
	tests := []struct {
		path string
		want []*stream
	}{
		{"/" + one.id, []*stream{one}},
		{"?user=alice&session=" + hashed("3"), nil},
		{"?user=nobody", nil},
		{"?user=", nil},
		{"?user=alice", []*stream{two}},
		{"?session=" + hashed("3"), []*stream{three}},
		{"?all=true", []*stream{four}},
		{"?all=true", nil},
	}
	for _, test := range tests {
		a := s.api("DELETE", "/sse/connections"+test.path, "")
		if want := fmt.Sprintf(`{"disconnected":%d}`+"\n", len(test.want)); a.status != 200 || a.body != want {
			t.Errorf("%s: %d %s, want %s", test.path, a.status, a.body, want)
		}
		for _, st := range test.want {
			blocks := st.ended()
			if len(blocks) != 1 || blocks[0].event != "sse.closing" || !strings.Contains(blocks[0].data, `"reason":"disconnected"`) || blocks[0].hasID {
				t.Errorf("%s: ended with %+v", test.path, blocks)
			}
		}
	}
	checkRefusal(t, s.api("DELETE", "/sse/connections/"+one.id, ""), http.StatusNotFound, "no open connection")
}

// TestAPIStatus: the status has its fields, and a head from which a page misses nothing.
func TestAPIStatus(t *testing.T) {
	s := start(t, "sse\nsse chat", "test_auth\nsse /events")
	s.open("/events", "X-User", "alice")
	s.open("/events", "X-User", "alice")
	s.open("/events", "X-User", "bob")
	first := s.send(`{"text":"1"}`).ID
	last := s.send(`{"text":"2"}`).ID
	a := s.api("GET", "/sse/status", "")
	shape := decode[struct {
		Version, Node *string
		Hubs          map[string]map[string]any
	}](t, a.body)
	if shape.Version == nil || shape.Node == nil || *shape.Node == "" || len(shape.Hubs) != 2 {
		t.Errorf("status %s", a.body)
	}
	for _, field := range []string{"connections", "users", "head", "oldest", "events", "bytes", "store"} {
		if _, ok := shape.Hubs["chat"][field]; !ok || len(shape.Hubs["chat"]) != 7 {
			t.Errorf("chat's status %v", shape.Hubs["chat"])
		}
	}
	h := s.status("default")
	if h.Connections != 3 || h.Users != 2 || h.Head != last || h.Oldest != first || h.Events != 2 || h.Bytes < 2*128 ||
		fmt.Sprint(h.Store) != "map[connected:true kind:memory lag:0 writable:true]" {
		t.Errorf("status %+v", h)
	}
	chat := s.status("chat")
	if epoch, ok := strings.CutSuffix(chat.Head, "-0"); !ok || chat.Oldest != epoch+"-1" || chat.Events+chat.Bytes+chat.Connections != 0 {
		t.Errorf("status of a new hub %+v", chat)
	}
	if one := decode[struct{ Hubs map[string]any }](t, s.api("GET", "/sse/status?hub=chat", "").body); len(one.Hubs) != 1 || one.Hubs["chat"] == nil {
		t.Errorf("status of one hub %v", one)
	}
}

// TestAPIOnARoute: sse_api is the same API behind the site's authentication. A page of another
// origin cannot use it with a visitor's login.
func TestAPIOnARoute(t *testing.T) {
	s := start(t, "", "handle_path /internal/* {\n basic_auth {\n alice "+secretHash+"\n}\n sse_api\n}\nsse /events {\n anonymous\n}")
	st := s.open("/events")
	url := "http://" + s.http + "/internal/sse/broadcast"
	login := []string{"Authorization", "Basic YWxpY2U6c2VjcmV0", "Content-Type", "application/json"}
	const event = `{"text":"x"}`
	if a := do(t, "POST", url, event, "Content-Type", "application/json"); a.status != http.StatusUnauthorized {
		t.Errorf("without a login: %d %s", a.status, a.body)
	}
	for _, headers := range [][]string{
		{"Sec-Fetch-Site", "cross-site"},
		{"Sec-Fetch-Site", "same-site"},
		{"Origin", "https://evil.example"},
		{"Origin", "null"},
		{"Origin", "https://" + s.http + ".evil.example"},
	} {
		checkRefusal(t, do(t, "POST", url, event, append(headers, login...)...), http.StatusForbidden, "cross-origin")
		checkRefusal(t, do(t, "DELETE", "http://"+s.http+"/internal/sse/connections?all=true", "", append(headers, login...)...), http.StatusForbidden, "cross-origin")
	}
	for _, headers := range [][]string{nil, {"Sec-Fetch-Site", "same-origin"}, {"Sec-Fetch-Site", "none"}, {"Origin", "http://" + s.http}} {
		if a := do(t, "POST", url, event, append(headers, login...)...); a.status != http.StatusOK || decode[receipt](t, a.body).Connections != 1 {
			t.Errorf("%v: %d %s", headers, a.status, a.body)
		}
		st.expect("x")
	}
	if a := do(t, "GET", "http://"+s.http+"/internal/sse/status", "", login...); a.status != 200 || !strings.Contains(a.body, s.status("default").Head) {
		t.Errorf("status: %d %s", a.status, a.body)
	}
}

// Small bodies are read while all slots for large bodies are in use.
func TestLargeBodiesLeaveACPU(t *testing.T) {
	s := start(t, "", anonymousSite)
	for name, call := range map[string]func() answer{
		"an event": func() answer {
			return s.api("POST", "/sse/broadcast", `{"text":"`+strings.Repeat("x", 100_000)+`"}`)
		},
		"a change of topics": func() answer {
			return s.api("PATCH", "/sse/connections?all=true", `{"remove":["`+strings.Repeat(`x","`, 50_000)+`"]}`, "application/json")
		},
	} {
		for range cap(caddysse.Decoding) {
			caddysse.Decoding <- struct{}{}
		}
		large := make(chan answer, 1)
		go func() { large <- call() }()
		eventually(t, name+" to wait", func() bool { return strings.Contains(stacks(), ".waitToDecode(") })
		s.send(`{"user":"alice","text":"small"}`)
		select {
		case a := <-large:
			t.Errorf("%s did not wait: %d %s", name, a.status, a.body)
		default:
			<-caddysse.Decoding
			<-large
		}
		for range cap(caddysse.Decoding) - 1 {
			<-caddysse.Decoding
		}
	}
}

// TestAPIGuardedByPath: a guard of the path of a call cannot be passed with another spelling of it.
func TestAPIGuardedByPath(t *testing.T) {
	s := start(t, "", "@publish path /sse/send /sse/broadcast\nrespond @publish 403\nsse_api /sse/*\nsse /events")
	for _, path := range []string{"/sse/broadcast", "/sse/broadcast/", "/sse//broadcast", "/sse/./broadcast", "/SSE/BROADCAST", "/sse/x/../broadcast", "/sse/broadcast/.", "/sse/broadcast%2f"} {
		a := do(t, "POST", "http://"+s.http+path, `{"data":1}`, "Content-Type", "application/json")
		if a.status != http.StatusForbidden && a.status != http.StatusNotFound {
			t.Errorf("POST %s: got %d %s, want 403 or 404", path, a.status, a.body)
		}
	}
}

// TestAdminPathWithoutACall: the admin endpoint does not redirect /sse. It says which paths
// there are.
func TestAdminPathWithoutACall(t *testing.T) {
	mux := http.NewServeMux()
	for _, route := range new(caddysse.AdminAPI).Routes() {
		mux.HandleFunc(route.Pattern, func(w http.ResponseWriter, r *http.Request) {
			if err := route.Handler.ServeHTTP(w, r); err != nil {
				t.Error(err)
			}
		})
	}
	for _, path := range []string{"/sse", "/sse/"} {
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequest(http.MethodPost, path, strings.NewReader("{}")))
		if body := w.Body.String(); w.Code != http.StatusNotFound || !strings.Contains(body, "available: /sse/send") {
			t.Errorf("POST %s: %d %s", path, w.Code, body)
		}
	}
}
