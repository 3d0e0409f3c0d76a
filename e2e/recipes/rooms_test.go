package recipes

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ea766355/caddy-sse/e2e"
)

// newRoomsApp returns an app that gets the user from the cookie; without a cookie the user is bob.
// Alice and carol may get the events of a room, and alice and bob the prices.
func newRoomsApp(t *testing.T) *stub {
	s := newStub(t)
	s.answer = func(w http.ResponseWriter, r *http.Request) {
		user := cmp.Or(strings.TrimPrefix(r.Header.Get("Cookie"), "session=of-"), "bob")
		w.Header().Set("X-SSE-User", user)
		w.Header().Set("X-SSE-Topics", map[string]string{"alice": "prices,room/1", "bob": "prices", "carol": "room/1"}[user])
		w.WriteHeader(http.StatusNoContent)
	}
	return s
}

// TestRooms: the site, the commands and the code of the page on rooms work.
func TestRooms(t *testing.T) {
	page := recipes(t, "rooms.md")
	port := e2e.FreePort(t)
	app := newRoomsApp(t)
	back := serve(t, "", localize(loginSite(t), app.addr(), port, ""))
	site := fmt.Sprintf("https://example.com:%d", port)
	user := func(name string) visitor { return visitor{t: t, base: site, cookie: "session=of-" + name} }

	t.Run("members", func(t *testing.T) { testMembers(t, page, back, user) })
	back.wait(0)
	t.Run("any order", func(t *testing.T) { testAnyOrder(t, page, back, user) })
	back.wait(0)
	t.Run("who comes back", func(t *testing.T) { testWhoComesBack(t, page, back, app, user, site) })
	back.wait(0)
	t.Run("online", func(t *testing.T) { testOnline(t, page, back, app, user, site) })
	back.wait(0)
	t.Run("dashboard", func(t *testing.T) { testDashboard(t, page, back, user, site) })
	wantAllTaken(t, page)
}

func testMembers(t *testing.T, page map[string]string, back backend, user func(string) visitor) {
	alice, bob := user("alice").open("/events", "alice"), user("bob").open("/events?state=1", "bob")
	defer alice.close()
	defer bob.close()
	changed := func(answer string, n int) {
		t.Helper()
		var got struct{ Changed int }
		if err := json.Unmarshal([]byte(answer), &got); err != nil || got.Changed != n {
			t.Errorf("response: got %s, want %d changed", answer, n)
		}
	}
	back.post("send", `{"topic":"room/1","text":"before","slot":"of the room"}`)
	alice.expect("", "before")
	changed(back.run(take(t, page, "enter")), 1)
	bob.expect("sse.topics", `{"added":["room/1"],"removed":[]}`)
	back.send(`"topic":"room/1"`, "welcome")
	for _, s := range []*stream{alice, bob} {
		s.expect("", "welcome") // bob gets nothing from before, not even the state
	}
	changed(back.run(take(t, page, "leave")), 1)
	bob.expect("sse.topics", `{"added":[],"removed":["room/1"]}`)
	back.send(`"topic":"room/1"`, "for alice")
	alice.expect("", "for alice")
	changed(back.run(take(t, page, "close")), 1)
	alice.expect("sse.topics", `{"added":[],"removed":["room/1"]}`)
	back.send(`"topic":"room/1"`, "for nobody")
	back.broadcast("the end")
	for _, s := range []*stream{alice, bob} {
		s.expect("", "the end")
	}
}

// testAnyOrder: a stream has the room that the app's data give it, also if a change of a member is
// overtaken by the opposite change.
func testAnyOrder(t *testing.T, page map[string]string, back backend, user func(string) visitor) {
	program := take(t, recipes(t, "auth.md"), "from_python") + take(t, page, "follow") + `
members, overtaking = set(), []
def is_member(room, user):
    return (room, user) in members
def change(member):
    (members.add if member else members.discard)(("room/1", "bob"))
    follow("room/1", "bob")
send = connections
def connections(*args, **which):
    if overtaking:
        change(overtaking.pop())
    return send(*args, **which)
change(not FIRST)
overtaking.append(not FIRST)
change(FIRST)
`
	for _, added := range []bool{true, false} { // the first change, which the other one overtakes
		bob := user("bob").open("/events", "bob")
		code := replace(t, program, "localhost:2019", back.admin, "FIRST", map[bool]string{true: "True", false: "False"}[added])
		if out, err := exec.Command("/usr/bin/python3", "-c", code).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		list, err := back.connections("bob")
		if err != nil || len(list) != 1 || slices.Contains(list[0].Topics, "room/1") == added {
			t.Errorf("connections after add=%t and the opposite: got %v %v, want those of the app's data", added, list, err)
		}
		bob.close()
		back.wait(0)
	}
}

// testWhoComesBack: what counts for a stream that comes back is what the app grants then, and it is told of no change.
func testWhoComesBack(t *testing.T, page map[string]string, back backend, app *stub, user func(string) visitor, site string) {
	grant := func(topics string) {
		app.respond(http.StatusNoContent, "X-SSE-User", "bob", "X-SSE-Topics", topics)
	}
	defer restoreAnswer(app, app.answer)
	back.broadcast("a beginning")
	grant("prices")
	bob := user("bob").open("/events?last_event_id=earliest", "bob")
	for event, data := bob.next(); data != "a beginning"; event, data = bob.next() {
		t.Logf("before: %s %s", event, data)
	}
	position := bob.last
	bob.close()
	back.send(`"topic":"room/1"`, "while he was no member")
	back.send(`"topic":"prices"`, "of what he is to lose")
	grant("room/1")
	bob = user("bob").open("/events", "bob", "Last-Event-ID", position)
	bob.expect("", "while he was no member")
	back.broadcast("the end")
	bob.expect("", "the end") // and nothing else: no sse.topics, no sse.gap
	bob.close()
	user("bob").refused("/events?topic=room/1&topic=prices", http.StatusForbidden, "Last-Event-ID", position)

	const prelude = `
		setInterval(() => {}, 1000); // Node would end while the EventSource waits
		const loadRooms = () => console.log("loads the rooms");
	`
	listeners := take(t, page, "back")
	expect, _ := script(t, site, prelude, `const stream = new EventSource("/events");`+listeners)
	expect("loads the rooms")
	back.wait(1)
	back.run(`curl -X DELETE 'localhost:2019/sse/connections?user=bob'`)
	expect("loads the rooms") // again, after it came back
	gap, _ := script(t, site, prelude, `const stream = new EventSource("/events?last_event_id=nonsense");`+listeners)
	gap("loads the rooms")
	gap("loads the rooms") // for the connection and for the gap
}

func restoreAnswer(app *stub, before http.HandlerFunc) {
	app.mu.Lock()
	defer app.mu.Unlock()
	app.answer = before
}

func testOnline(t *testing.T, page map[string]string, back backend, app *stub, user func(string) visitor, site string) {
	alice, tab := user("alice").open("/events", "alice"), user("alice").open("/events", "alice")
	carol := user("carol").open("/events", "carol")

	// The answer has the fields of the one in the docs.
	var got, shown struct {
		Users []map[string]any
	}
	answer := back.run(take(t, page, "who"))
	for text, to := range map[string]any{answer: &got, take(t, page, "users"): &shown} {
		if err := json.Unmarshal([]byte(text), to); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
	}
	if len(got.Users) != 2 || got.Users[0]["user"] != "alice" || got.Users[0]["connections"] != 2.0 || got.Users[1]["user"] != "carol" {
		t.Fatalf("users online: got %s, want alice with 2 connections and carol", answer)
	}
	for name, value := range shown.Users[0] {
		if reflect.TypeOf(value) != reflect.TypeOf(got.Users[0][name]) {
			t.Errorf("type of %s: got that of %v, want that of the docs, %v", name, got.Users[0][name], value)
		}
	}
	if len(shown.Users[0]) != len(got.Users[0]) {
		t.Errorf("fields: got those of %v, want those of the docs, %v", got.Users[0], shown.Users[0])
	}

	text := take(t, page, "online")
	caddy := newOutage(t, back.admin)
	stop := runProgram(t, strings.ReplaceAll(text, "localhost:2019", caddy.addr()))
	alice.expect("online", `["alice","carol"]`)
	carol.expect("online", `["alice","carol"]`)
	caddy.fail(3) // the program goes on, and publishes again
	alice.expect("online", `["alice","carol"]`)
	carol.expect("online", `["alice","carol"]`)
	tab.close()
	began := time.Now()
	carol.close()
	carol = user("carol").open("/events?state=1", "carol")
	carol.expect("", "before") // the state of the room
	carol.expect("online", `["alice","carol"]`)
	reloaded := time.Since(began)
	carol.close()
	event, data := alice.next()
	if event != "online" || data != `["alice"]` {
		t.Errorf("event after carol has left: got %s %s, want only alice online; the page was reloaded within %s", event, data, reloaded)
	}
	if gone := time.Since(began); gone < 9*time.Second {
		t.Errorf("time until a user is offline: got %s, want at least 9s", gone)
	}
	stop()
	often := strings.Replace(text, "10, 60", "10, 1", 1)
	if often == text {
		t.Fatal("the program does not say how often it publishes again")
	}
	stop = runProgram(t, strings.ReplaceAll(often, "localhost:2019", back.admin))
	for range 3 {
		alice.expect("online", `["alice"]`)
	}
	stop()
	alice.close()
	back.wait(0)

	defer restoreAnswer(app, app.answer)
	app.respond(http.StatusNoContent, "X-SSE-User", "dave", "X-SSE-Topics", "room/1")
	expect, _ := script(t, site, `const showOnline = (users) => console.log("online", ...users);`, take(t, page, "shown"))
	expect("online alice")
	// With a position, the state is not asked for.
	back.broadcast("another beginning")
	dave := user("dave").open("/events?last_event_id=earliest", "dave")
	for _, data := dave.next(); data != "another beginning"; _, data = dave.next() {
	}
	position := dave.last
	dave.close()
	dave = user("dave").open("/events?state=1", "dave", "Last-Event-ID", position)
	back.broadcast("the end")
	dave.expect("", "the end")
	dave.close()
}

// runProgram runs a Python program until it is stopped.
func runProgram(t *testing.T, program string) (stop func()) {
	t.Helper()
	cmd := exec.Command("/usr/bin/python3", "-c", program)
	var log strings.Builder
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
		if t.Failed() {
			t.Logf("the program said: %s", log.String())
		}
	})
	t.Cleanup(stop)
	return stop
}

// outage is a proxy in front of a Caddy that is away for some requests.
type outage struct {
	*httptest.Server
	left atomic.Int64 // requests that still fail
}

func newOutage(t *testing.T, admin string) *outage {
	o := new(outage)
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(&url.URL{Scheme: "http", Host: admin}) }}
	o.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if o.left.Add(-1) >= 0 {
			panic(http.ErrAbortHandler)
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(o.Close)
	return o
}

func (o *outage) addr() string { return o.Listener.Addr().String() }

// fail lets the next n requests fail.
func (o *outage) fail(n int64) { o.left.Store(n) }

func testDashboard(t *testing.T, page map[string]string, back backend, user func(string) visitor, site string) {
	price := take(t, page, "price")
	back.run(strings.ReplaceAll(price, "190.5", "180"))
	back.run(price)
	s := user("bob").open("/events?state=1&topic=prices", "bob")
	defer s.close()
	s.expect("price", `{"symbol":"AAPL","price":190.5}`)

	expect, _ := script(t, site, `
		const show = (prices) => console.log("prices", JSON.stringify([...prices]));
		const closeRoom = (name) => console.log("close", name), openRoom = (name) => console.log("open", name);
		const location = { reload: () => console.log("reload") };
	`, take(t, page, "dashboard")+take(t, page, "topics"))
	expect(`prices [["AAPL",190.5]]`)
	back.run(strings.ReplaceAll(price, "AAPL", "MSFT"))
	expect(`prices [["AAPL",190.5],["MSFT",190.5]]`)
	back.run(strings.ReplaceAll(price, "190.5", "191"))
	expect(`prices [["AAPL",191],["MSFT",190.5]]`)
	list, err := back.connections("")
	if err != nil || !slices.ContainsFunc(list, func(c connection) bool { return slices.Equal(c.Topics, []string{"prices"}) }) {
		t.Errorf("connections: got %v, %v, want one with only the topic prices", list, err)
	}
	back.run(`curl -X PATCH 'localhost:2019/sse/connections?all=true' -H 'Content-Type: application/json' -d '{"add":["room/1"],"remove":["prices"]}'`)
	expect("close prices")
	expect("open room/1")
}
