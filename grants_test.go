package caddysse_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

const grantsSite = `test_auth
	sse /events {
		topics news user/{http.auth.user.id}
		grants {http.request.header.X-Rooms}
	}`

// TestGrants: the app decides which topics a client may receive.
func TestGrants(t *testing.T) {
	s := start(t, "", grantsSite)
	for _, list := range []string{
		"room/1,room/2", "room/1 room/2", " room/1 , room/2,", `["room/1","room/2"]`, `["room/1","\u0072oom/2"]`, "room/2\troom/1 room/1",
	} {
		t.Run(list, func(t *testing.T) {
			s := s.in(t)
			st := s.open("/events", "X-User", "alice", "X-Rooms", list)
			for topic, data := range map[string]string{"room/1": "1", "room/2": "2", "news": "n", "user/alice": "u"} {
				if r := s.send(fmt.Sprintf(`{"topic":%q,"text":%q}`, topic, data)); r.Connections != 1 {
					t.Errorf("%s reaches %d connections", topic, r.Connections)
				}
				st.expect(data)
			}
			if r := s.send(`{"topic":"room/3","text":"not hers"}`); r.Connections != 0 {
				t.Errorf("room/3 reaches %d connections", r.Connections)
			}
			st.close()
			asked := s.open("/events?topic=room/2", "X-User", "alice", "X-Rooms", list)
			s.send(`{"topic":"room/1","text":"1"}`)
			s.send(`{"topic":"room/2","text":"2"}`)
			asked.expect("2")
			asked.close()
			eventually(t, "nobody", func() bool { return s.status("default").Connections == 0 })
		})
	}
	t.Run("none", func(t *testing.T) {
		s := s.in(t)
		st := s.open("/events", "X-User", "alice")
		s.send(`{"topic":"room/1","text":"not hers"}`)
		s.send(`{"topic":"news","text":"n"}`)
		st.expect("n")
		if a := s.refused("/events?topic=room/1", "X-User", "alice"); a.status != http.StatusForbidden {
			t.Errorf("a room that is not granted: %d %s", a.status, a.body)
		}
	})
}

// TestGrantsRefused: with an invalid grant there is no stream.
func TestGrantsRefused(t *testing.T) {
	s := start(t, "", grantsSite)
	for name, test := range map[string]struct{ list, want string }{
		"a wildcard":         {"room/1,room/*", `topic 2 "room/*": it must be an exact name`},
		"a wildcard alone":   {"*", "exact name"},
		"an empty name":      {`["room/1",""]`, "topic 2: it must not be empty"},
		"no strings":         {`["room/1",2]`, "not a JSON array of strings"},
		"cut off":            {`["room/1"`, "not a JSON array of strings"},
		"a JSON string":      {`"room/1"`, `begins with " but is not a JSON array of strings`},
		"no brackets":        {`"room/1","room/2"`, `begins with " but is not a JSON array of strings`},
		"a JSON object":      {`{"room/1":true}`, "begins with { but is not a JSON array of strings"},
		"too many":           {strings.Repeat("a,", 1000) + "b", "1001 topics: at most 1000"},
		"too long":           {strings.Repeat("a", 513), "at most 512"},
		"markup is not said": {`["<b>*"]`, "topic 1: it must be"},
		"null":               {`["room/1",null]`, "topic 2: it must not be empty"},
		"no UTF-8":           {"room/1,room/\xff", "topic 2: it must be valid UTF-8"},
		"no UTF-8 in JSON":   {"[\"room/\xff\"]", "topic 1 is not valid UTF-8"},
		"half of a pair":     {`["room/1","room/\ud800"]`, "topic 2 is not valid UTF-8, has half of a surrogate pair"},
	} {
		t.Run(name, func(t *testing.T) {
			a := s.in(t).refused("/events", "X-User", "alice", "X-Rooms", test.list)
			if a.status != http.StatusForbidden || !strings.Contains(a.body, test.want) {
				t.Errorf("%d %.300s, want 403 with %q", a.status, a.body, test.want)
			}
		})
	}
	if n := s.status("default").Connections; n != 0 {
		t.Errorf("%d connections", n)
	}
}

// TestTopicsThatAreAList: a list in a placeholder of topics counts as one name, and the log says
// so.
func TestTopicsThatAreAList(t *testing.T) {
	s := start(t, "", "test_auth\nsse /events {\n topics room-{http.request.header.X-Rooms}\n}")
	for range 3 {
		s.open("/events", "X-User", "alice", "X-Rooms", "1,2").close()
	}
	if n := strings.Count(logs.tail(1<<20), "use the option grants for lists"); n != 1 {
		t.Errorf("the log says %d times that it is a list, want once", n)
	}
}

// TestPromise11TopicsChange: PATCH changes the topics of open streams, and they get sse.topics.
func TestPromise11TopicsChange(t *testing.T) {
	s := start(t, "", grantsSite)
	alice := s.open("/events", "X-User", "alice", "X-Rooms", "room/1")
	bob := s.open("/events", "X-User", "bob", "X-Rooms", "room/1")
	type changed struct {
		ID      string
		Changed int
	}
	patch := func(path, body string) changed {
		t.Helper()
		a := s.api("PATCH", path, body)
		if a.status != http.StatusOK {
			t.Fatalf("PATCH %s %s: %d %s", path, body, a.status, a.body)
		}
		return decode[changed](t, a.body)
	}
	c := patch("/sse/connections?user=alice", `{"add":["room/2","room/3"],"remove":["room/1"]}`)
	if c.Changed != 1 {
		t.Errorf("%d connections are changed", c.Changed)
	}
	b := alice.event()
	if b.event != "sse.topics" || b.data != `{"added":["room/2","room/3"],"removed":["room/1"]}` || b.id != c.ID {
		t.Errorf("alice is told %+v, want the change with id %s", b, c.ID)
	}
	s.send(`{"topic":"room/1","text":"1"}`)
	s.send(`{"topic":"room/2","text":"2"}`)
	alice.expect("2")
	bob.expect("1")
	list := decode[struct{ Connections []struct{ Topics []string } }](t, s.api("GET", "/sse/connections?user=alice", "").body)
	if got := strings.Join(list.Connections[0].Topics, " "); got != "news user/alice room/2 room/3" {
		t.Errorf("alice's topics are %s", got)
	}

	// A change may name a connection. A change without an effect sends no sse.topics.
	if c := patch("/sse/connections/"+bob.id, `{"add":["room/1"]}`); c.Changed != 1 {
		t.Errorf("%d connections", c.Changed)
	}
	if c := patch("/sse/connections?all=true", `{"remove":["news"]}`); c.Changed != 2 {
		t.Errorf("%d connections", c.Changed)
	}
	for _, st := range []*stream{alice, bob} {
		if b := st.event(); b.event != "sse.topics" || b.data != `{"added":[],"removed":["news"]}` {
			t.Errorf("it is told %+v", b)
		}
	}
	if a := s.api("PATCH", "/sse/connections/nobody", `{"add":["x"]}`); a.status != http.StatusNotFound {
		t.Errorf("nobody: %d %s", a.status, a.body)
	}
}

// TestTopicsChangeRefused: an invalid change is refused, and changes nothing.
func TestTopicsChangeRefused(t *testing.T) {
	s := start(t, "", grantsSite)
	for _, test := range []struct {
		path, body, contentType string
		status                  int
		want                    string
	}{
		{"", `{"add":["x"]}`, "application/json", 400, "selects no connections"},
		{"?user=a&all=true", `{"add":["x"]}`, "application/json", 400, "contradict each other"},
		{"?usr=a", `{"add":["x"]}`, "application/json", 400, "unknown query parameter"},
		{"?user=a", `{"add":["x"]}`, "text/plain", 415, "application/json"},
		{"?user=a", `{}`, "application/json", 400, "are both empty"},
		{"?user=a", `{"add":["x"]}{}`, "application/json", 400, "more text after"},
		{"?user=a", `{"add":"x"}`, "application/json", 400, `invalid add \"x\": it must be a list of topics`},
		{"?user=a", `{"add":["x",7]}`, "application/json", 400, `add: topic 2: invalid topic 7: it must be a string`},
		{"?user=a", `{"add":[null]}`, "application/json", 400, `invalid topic null`},
		{"?user=a", `{"add":null,"remove":null}`, "application/json", 400, "are both empty"},
		{"?user=a", `{"topics":["x"]}`, "application/json", 400, `unknown field \"topics\" (available: add, remove)`},
		{"?user=a", `{"Remove":["x"]}`, "application/json", 400, `unknown field \"Remove\"`},
		{"?user=a", `{"remove":["x"],"remove":["y"]}`, "application/json", 400, `duplicate field \"remove\"`},
		{"?user=a", `{"add":["x"],"\u0061dd":["y"]}`, "application/json", 400, `duplicate field \"add\"`},
		{"?user=a", "{\"remove\":[\"caf\xe9\"]}", "application/json", 400, "not valid UTF-8"},
		{"?user=a", `{"remove":["\ud800"]}`, "application/json", 400, "half of a surrogate pair"},
		{"?user=a", "\ufeff{}", "application/json", 400, "byte order mark"},
		{"?user=a", `["x"]`, "application/json", 400, "it must be a JSON object (got array)"},
		{"?user=a", `{"add":["x"]`, "application/json", 400, "unexpected end"},
		{"?user=a", `{"add":["x","a/*"]}`, "application/json", 400, `add: topic 2 \"a/*\": it must be an exact name`},
		{"?user=a", `{"remove":[""]}`, "application/json", 400, `remove: topic 1 \"\": it must not be empty`},
		{"?user=a", `{"add":["x"],"remove":["x"]}`, "application/json", 400, "in add and in remove"},
		{"?user=a", `{"add":["` + strings.Repeat("a", 513) + `"]}`, "application/json", 400, "at most 512"},
		{"?user=a", `{"add":[` + strings.Repeat(`"a",`, 1000) + `"b"]}`, "application/json", 400, "at most 1000"},
		{"?user=a&hub=nope", `{"add":["x"]}`, "application/json", 404, "nope"},
	} {
		a := s.api("PATCH", "/sse/connections"+test.path, test.body, test.contentType)
		if a.status != test.status || !strings.Contains(a.body, test.want) {
			t.Errorf("%s %.100s: %d %s, want %d with %q", test.path, test.body, a.status, a.body, test.status, test.want)
		}
	}
	if n := s.status("default").Events; n != 0 {
		t.Errorf("%d records are stored", n)
	}
}

// TestUsers: the list has the users with open connections.
func TestUsers(t *testing.T) {
	s := start(t, "", "test_auth\nsse /events {\n anonymous\n topics a b\n}")
	s.open("/events", "X-User", "bob")
	s.open("/events?topic=a", "X-User", "alice")
	s.open("/events?topic=b", "X-User", "alice")
	s.open("/events?topic=b", "X-User", "carol")
	type userPage struct {
		Users []struct {
			User        string
			Connections int
			Since       time.Time
		}
		Next string
	}
	users := func(query string) (list userPage, names string) {
		t.Helper()
		a := s.api("GET", "/sse/users"+query, "")
		if a.status != http.StatusOK {
			t.Fatalf("%s: %d %s", query, a.status, a.body)
		}
		list = decode[userPage](t, a.body)
		for _, u := range list.Users {
			names += fmt.Sprint(u.User, ":", u.Connections, " ")
			if u.Since.IsZero() {
				t.Errorf("%s is there since %s", u.User, u.Since)
			}
		}
		return list, strings.TrimSpace(names)
	}
	for query, want := range map[string]string{
		"": "alice:2 bob:1 carol:1", "?topic=a": "alice:1 bob:1", "?topic=b": "alice:1 bob:1 carol:1", "?topic=x": "",
		"?limit=2": "alice:2 bob:1", "?limit=2&after=bob": "carol:1", "?after=zed": "",
	} {
		list, got := users(query)
		if got != want || (list.Next != "") != (query == "?limit=2") {
			t.Errorf("%q: %s next %q, want %s", query, got, list.Next, want)
		}
	}
	for query, want := range map[string]string{"?limit=0": "limit", "?user=alice": "unknown query parameter", "?hub=x": "x"} {
		if a := s.api("GET", "/sse/users"+query, ""); a.status < 400 || !strings.Contains(a.body, want) {
			t.Errorf("%q: %d %s", query, a.status, a.body)
		}
	}
}

// TestState: a new client gets the newest value of each slot, and then the later events.
func TestState(t *testing.T) {
	s := start(t, "", "sse /events {\n anonymous\n}")
	for i := range 3 {
		s.send(fmt.Sprintf(`{"slot":"price/A","data":%d}`, i))
		s.send(fmt.Sprintf(`{"slot":"price/B","data":%d}`, 10+i))
		s.send(fmt.Sprintf(`{"data":"event %d"}`, i))
	}
	st := s.open("/events?state=1")
	if st.connected.hasID {
		t.Errorf("before the state comes the id %s", st.connected.id)
	}
	st.expect("2", "12")
	s.send(`{"slot":"price/A","data":3}`)
	s.send(`{"data":"event"}`)
	st.expect("3", `"event"`)

	again := s.open("/events?state=1", "Last-Event-ID", "earliest")
	again.expect(`"event 0"`, `"event 1"`, "12", `"event 2"`, "3", `"event"`)
	for body, want := range map[string]string{
		`{"slot":"","data":1}`: "slot is empty",
		`{"slot":1,"data":1}`:  "invalid slot 1: it must be a string",
		`{"slot":"` + strings.Repeat("a", 129) + `","data":1}`: "at most 128",
	} {
		if a := s.api("POST", "/sse/broadcast", body); a.status != http.StatusBadRequest || !strings.Contains(a.body, want) {
			t.Errorf("%.50s: %d %s", body, a.status, a.body)
		}
	}
	if a := s.refused("/events?States=1"); a.status != http.StatusBadRequest {
		t.Errorf("a misspelt parameter: %d %s", a.status, a.body)
	}
}
