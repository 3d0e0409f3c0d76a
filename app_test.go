package caddysse_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	caddysse "github.com/ea766355/caddy-sse"
)

const anonymousSite = "sse /events {\n anonymous\n}"

// TestPromise7ReloadKeepsStreams: during reloads each event arrives once and in order over each
// protocol, while publishers and readers of the API continue.
func TestPromise7ReloadKeepsStreams(t *testing.T) {
	s := startTLS(t, "", anonymousSite)
	var streams []*stream
	for _, p := range protocols(t) {
		streams = append(streams, openWith(t, p.client, p.url(s)+"/events"))
	}
	tls := s.site(anonymousSite) + "https://localhost:" + port(s.https) + " {\ntls " + certificate + " " + certificate + "\n"

	// The API is on a route, because a reload replaces the admin endpoint.
	api := freeAddr(t)
	more := "http://:" + port(api) + " {\n sse_api\n}\n"
	s.mustLoad(tls + anonymousSite + "\n}\n" + more)
	stop := make(chan struct{})
	var publisher sync.WaitGroup
	published := 0
	publisher.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			published++
			// A publisher without an answer, as when a listener closes, repeats the event with its
			// key.
			event := fmt.Sprintf(`{"text":"%d","key":"%d"}`, published, published)
			eventually(t, "an answer", func() bool {
				resp, err := plain.Post("http://"+api+"/sse/broadcast", "application/json", strings.NewReader(event))
				if err != nil {
					return false
				}
				defer resp.Body.Close()
				if resp.StatusCode != http.StatusOK {
					t.Errorf("publish %s: %s", event, resp.Status)
				}
				return true
			})
			if resp, err := plain.Get("http://" + api + "/sse/status"); err == nil {
				resp.Body.Close()
			}
		}
	})
	for i := range 6 {
		s.global = []string{"", "sse {\n history 5000\n}", "sse {\n history 20000 1h\n}\nsse chat"}[i%3]
		s.mustLoad(tls + anonymousSite + "\n}\n" + more)
		if err := s.load(tls + "sse /events {\n hub nope\n}\n}\n" + more); err == nil {
			t.Error("a hub that is not there was accepted")
		}
	}
	close(stop)
	publisher.Wait()
	for _, st := range streams {
		for i := range published {
			st.expect(fmt.Sprint(i + 1))
		}
	}
	if n := s.status("default").Connections; n != len(streams) {
		t.Errorf("%d connections", n)
	}
}

// TestPromise7ReloadAppliesOptions: options of the hub apply at once, and options of the route to
// streams that it opens later.
func TestPromise7ReloadAppliesOptions(t *testing.T) {
	s := start(t, "sse {\n max_event_size 100\n history 100\n}", anonymousSite)
	st := s.open("/events")
	first := s.send(`{"text":"1"}`).ID
	for i := 2; i <= 10; i++ {
		s.send(fmt.Sprintf(`{"text":"%d"}`, i))
	}
	// The events are read before the smaller history evicts those that a busy machine has not
	// written yet.
	for i := range 10 {
		st.expect(fmt.Sprint(i + 1))
	}
	checkRefusal(t, s.api("POST", "/sse/broadcast", `{"text":"`+strings.Repeat("x", 101)+`"}`), 413, "at most 100")

	s.global = "sse {\n max_event_size 200\n history 3\n}"
	s.mustLoad(s.site("sse /events {\n anonymous\n heartbeat 7s\n}"))
	if h := s.status("default"); h.Events != 3 || h.Connections != 1 {
		t.Errorf("status %+v", h)
	}
	s.send(`{"text":"` + strings.Repeat("x", 101) + `"}`)
	st.expect(strings.Repeat("x", 101))
	again := s.open("/events", "Last-Event-ID", first)
	if !strings.Contains(again.connected.data, `"heartbeat":7000`) {
		t.Errorf("connected with %s", again.connected.data)
	}
	checkGap(t, again, "evicted")
	again.expect("9", "10")
}

// TestPromise7ReloadTellsWhoLags: a smaller history may evict events that a lagging client has not
// received. The client gets a gap.
func TestPromise7ReloadTellsWhoLags(t *testing.T) {
	s := start(t, "sse {\n history_size 512MiB\n}", anonymousSite)
	slow := &http.Client{Transport: &http.Transport{DialContext: dialSmall, DisableKeepAlives: true}}
	st := connect(t, slow, "http://"+s.http+"/events") // reads nothing yet
	eventually(t, "the connection", func() bool { return s.status("default").Connections == 1 })
	text := strings.Repeat("x", 512<<10)
	const n = 16 // more than the sockets' buffers hold
	var last string
	for range n {
		last = s.send(`{"text":"` + text + `"}`).ID
	}
	s.global = "sse {\n history 2\n}"
	s.mustLoad(s.site(anonymousSite))

	go func() { defer close(st.blocks); st.read() }()
	gaps, events := 0, 0
	for b := st.next(); b.id != last || b.event != ""; b = st.next() {
		switch b.event {
		case "sse.gap":
			gaps++
			if b.data != `{"reason":"evicted"}` {
				t.Errorf("gap %s", b.data)
			}
		case "":
			events++
		}
	}
	if gaps != 1 || events >= n-1 {
		t.Errorf("%d gaps and %d of %d events", gaps, events+1, n)
	}
	s.send(`{"text":"on we go"}`)
	st.expect("on we go")
	st.close()
}

// TestPromise7HubThatIsGone: when no route serves a hub any more, its streams get the reason
// hub_closed, even if the hub is still configured.
func TestPromise7HubThatIsGone(t *testing.T) {
	for name, global := range map[string]string{"configured": "sse chat", "not configured": ""} {
		t.Run(name, func(t *testing.T) {
			s := start(t, "sse chat", anonymousSite+"\nsse /chat {\n hub chat\n anonymous\n}")
			chat, other := s.open("/chat"), s.open("/events")
			s.send(`{"text":"last"}`, "?hub=chat")
			s.global = global
			s.mustLoad(s.site(anonymousSite))
			chat.expect("last")
			blocks := chat.ended()
			if len(blocks) != 1 || blocks[0].event != "sse.closing" || !strings.Contains(blocks[0].data, `"reason":"hub_closed"`) || blocks[0].hasID {
				t.Errorf("it ended with %+v", blocks)
			}
			want := http.StatusNotFound
			if global != "" {
				want = http.StatusOK
			}
			// The streams end shortly before the hub does.
			eventually(t, fmt.Sprintf("the status %d for a publish", want), func() bool {
				return s.api("POST", "/sse/broadcast?hub=chat", `{"text":"x"}`).status == want
			})
			s.send(`{"text":"on we go"}`)
			other.expect("on we go")
		})
	}
}

// TestPromise7StreamThatComesLate: a reload leaves a hub without a route. A stream that was
// requested before the reload and opens after it ends, too.
func TestPromise7StreamThatComesLate(t *testing.T) {
	s := start(t, "sse chat", anonymousSite+"\ntest_hold /chat\nsse /chat {\n hub chat\n anonymous\n}")
	opened := make(chan *stream)
	go func() { opened <- s.open("/chat", "X-Hold", "yes") }()
	release := <-holding
	s.mustLoad(s.site(anonymousSite))
	close(release)
	if blocks := (<-opened).ended(); len(blocks) != 1 || !strings.Contains(blocks[0].data, "hub_closed") {
		t.Errorf("it ended with %+v", blocks)
	}
	eventually(t, "the end", func() bool { return s.status("chat").Connections == 0 })
}

// TestEndIsLogged: when Caddy stops, the end of each stream is logged.
func TestEndIsLogged(t *testing.T) {
	s := start(t, "", bothWays(""))
	ids := map[string]bool{s.open("/events").id: true, s.open("/kept").id: true}
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	caddysse.EndGraces()
	eventually(t, "a line for each end", func() bool {
		for _, line := range logs.with(t, "stream closed") {
			delete(ids, line["connection"].(string))
		}
		return len(ids) == 0
	})
}

// TestPromise7NoAppAnyMore: without the app there are no hubs. With the app they are back.
func TestPromise7NoAppAnyMore(t *testing.T) {
	s := start(t, "", anonymousSite)
	st := s.open("/events")
	s.mustLoad(s.site("respond hello"))
	if blocks := st.ended(); len(blocks) != 1 || !strings.Contains(blocks[0].data, "hub_closed") {
		t.Errorf("it ended with %+v", blocks)
	}
	caddysse.EndGraces()
	checkRefusal(t, s.api("POST", "/sse/broadcast", `{"text":"x"}`), http.StatusNotFound, `unknown hub "default"`)
	if a := s.api("GET", "/sse/status", ""); a.status != 200 || !strings.Contains(a.body, `"hubs":{}`) {
		t.Errorf("status: %d %s", a.status, a.body)
	}
	s.global = "sse {\n history 2\n}"
	s.mustLoad(s.site(anonymousSite))
	again := s.open("/events")
	s.send(`{"text":"1"}`)
	again.expect("1")
	s.send(`{"text":"2"}`)
	s.send(`{"text":"3"}`)
	if n := s.status("default").Events; n != 2 {
		t.Errorf("%d events", n)
	}
}

// TestPromise7FailedReloadChangesNothing: a reload that fails changes nothing, whether it fails
// before any app was started or after this app may have been.
func TestPromise7FailedReloadChangesNothing(t *testing.T) {
	s := start(t, "sse {\n history 100\n}\nsse chat", anonymousSite+"\nsse /chat {\n hub chat\n anonymous\n}")
	st, chat := s.open("/events"), s.open("/chat")
	taken, err := net.Listen("tcp", freeAddr(t))
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	good := s.site(anonymousSite)
	events := 0
	// Caddy starts apps in random order. The test repeats the reload, so that this app is
	// sometimes first.
	for i := range 8 {
		for name, sites := range map[string]string{
			"in Provision": good + "http://elsewhere {\n sse {\n hub nope\n}\n}\n",
			"in Start":     good + "http://" + taken.Addr().String() + " {\n bind 127.0.0.1\n respond hello\n}\n",
		} {
			global := s.global
			s.global = "sse {\n history 1\n max_event_size 10\n}\nsse fresh"
			if err := s.load(sites); err == nil {
				t.Fatalf("%s: it did not fail", name)
			} else if name == "in Start" && !strings.Contains(err.Error(), "start") {
				t.Fatalf("%s: %v", name, err)
			}
			s.global = global
			events++
			text := fmt.Sprintf("longer than ten, %d", events)
			s.send(`{"text":"` + text + `"}`)
			s.send(`{"text":"`+text+`"}`, "?hub=chat")
			st.expect(text)
			chat.expect(text)
			if h := s.status("default"); h.Events != events || h.Connections != 1 {
				t.Fatalf("%s, %d: status %+v", name, i, h)
			}
			if n := s.metric(`caddy_sse_connections{hub="chat",protocol="h1"}`); n != 1 {
				t.Errorf("%s: %v connections of chat in the metrics", name, n)
			}
			checkRefusal(t, s.api("GET", "/sse/status?hub=fresh", ""), http.StatusNotFound, "(available: chat, default)")
			s.open("/events").close()
			eventually(t, "the stream to be gone", func() bool { return s.status("default").Connections == 1 })
		}
	}
	// The next reload takes effect.
	s.global = "sse {\n history 1\n}"
	s.mustLoad(good)
	if h := s.status("default"); h.Events != 1 || h.Connections != 1 {
		t.Errorf("status %+v", h)
	}
	if blocks := chat.ended(); len(blocks) != 1 || !strings.Contains(blocks[0].data, "hub_closed") {
		t.Errorf("chat ended with %+v", blocks)
	}
}

// TestAppValidate: faults of a config in JSON are refused.
func TestAppValidate(t *testing.T) {
	for config, wrong := range map[string]string{
		`{"hubs":{"Default":{}}}`:                                                    "1 to 32 of a-z",
		`{"hubs":{"":{}}}`:                                                           "1 to 32 of a-z",
		`{"hubs":{"x":{"history":-1}}}`:                                              "history is -1: it must not be negative",
		`{"hubs":{"x":{"history_age":-1}}}`:                                          "history_age is -1ns: it must not be negative",
		`{"hubs":{"x":{"history_age":86400}}}`:                                       "history_age is 86.4µs: it must be at least 1ms; a number in JSON counts nanoseconds",
		`{"hubs":{"x":{"max_event_size":-1}}}`:                                       "max_event_size is -1: it must not be negative",
		`{"hubs":{"x":{"history_size":100}}}`:                                        "more than history_size",
		`{"hubs":{"x":{"store":{"kind":"nonsense"}}}}`:                               "sse.stores.nonsense",
		`{"hubs":{"x":{"store":{"kind":"memory"}},"y":{"store":{"kind":"memory"}}}}`: "",
		`{"hubs":{"x":{"histroy":1}}}`:                                               "unknown field",
		`{"hubs":{"x":null,"a-b_0":{"history":1}}}`:                                  "",
		`{}`: "",
	} {
		if err := validate(t, `{"admin":{"disabled":true},"apps":{"sse":`+config+`}}`); !mentions(err, wrong) {
			t.Errorf("%s: %v, want %q", config, err, wrong)
		}
	}
}

// TestPromise7RouteThatIsMissingForAMoment: streams and the history continue when a route is back
// soon, even if there was no app meanwhile.
func TestPromise7RouteThatIsMissingForAMoment(t *testing.T) {
	caddysse.SetRouteGrace(time.Hour)
	defer caddysse.SetRouteGrace(100 * time.Millisecond)
	for name, global := range map[string]string{"with the app": "sse", "without the app": ""} {
		t.Run(name, func(t *testing.T) {
			s := startTLS(t, "sse", anonymousSite)
			tls := func(site string) string {
				return s.site(site) + "https://localhost:" + port(s.https) + " {\ntls " + certificate + " " + certificate + "\n" + site + "\n}\n"
			}
			streams := openAll(t, s, 2)
			var id string
			for i := range 4 {
				s.global = global
				s.mustLoad(tls("respond hello"))
				// The server of the config before may still accept a connection.
				eventually(t, "an answer without the route", func() bool {
					resp := request(t.Context(), t, http.DefaultClient, "GET", "http://"+s.http+"/events", "", nil)
					defer resp.Body.Close()
					if resp.Header.Get("Content-Type") == "text/event-stream" {
						return false
					}
					body, err := io.ReadAll(resp.Body)
					if err != nil || string(body) != "hello" {
						t.Errorf("without the route: got %q, %v", body, err)
					}
					return true
				})
				id = s.send(fmt.Sprintf(`{"text":"%d"}`, 2*i)).ID
				s.global = "sse"
				s.mustLoad(tls(anonymousSite))
				s.send(fmt.Sprintf(`{"text":"%d"}`, 2*i+1))
			}
			for _, st := range streams {
				for i := range 8 {
					st.expect(fmt.Sprint(i))
				}
			}
			s.open("/events", "Last-Event-ID", id).expect("7")
			if h := s.status("default"); h.Connections != len(streams)+1 {
				t.Errorf("%d connections are open", h.Connections)
			}
		})
	}
}

// TestPromise8NoRouteAtTheEnd: if the route of a hub is missing when the process ends, its clients
// get the reason shutdown at once.
func TestPromise8NoRouteAtTheEnd(t *testing.T) {
	caddysse.SetRouteGrace(time.Hour)
	defer caddysse.SetRouteGrace(100 * time.Millisecond)
	for name, global := range map[string]string{"with the app": "sse", "without the app": ""} {
		t.Run(name, func(t *testing.T) {
			s := start(t, "sse", bothWays(""))
			streams := []*stream{s.open("/events"), s.open("/kept")}
			s.global = global
			s.mustLoad(s.site("respond hello"))
			caddysse.Exit(t)
			if err := caddy.Stop(); err != nil {
				t.Error(err)
			}
			for _, st := range streams {
				if blocks := st.ended(); len(blocks) != 1 || !strings.Contains(blocks[0].data, `"reason":"shutdown"`) {
					t.Errorf("it ended with %+v", blocks)
				}
			}
		})
	}
}

// TestPromise7StreamOfAConfigThatFails: only the current config decides which clients may have a
// stream. Streams that a failing config has admitted meanwhile end, and no others.
func TestPromise7StreamOfAConfigThatFails(t *testing.T) {
	s := start(t, "", "test_auth\nsse /events")
	st := s.open("/events", "X-User", "alice")
	elsewhere := freeAddr(t)
	var admitted *stream
	failToStart.Store(new(func() {
		// Caddy starts apps in random order, so sometimes the server already serves.
		conn, err := net.Dial("tcp", elsewhere)
		if err != nil {
			return
		}
		conn.Close()
		admitted = openWith(t, plain, "http://"+elsewhere+"/events")
	}))
	defer failToStart.Store(nil)
	s.global = "test_fail"
	for admitted == nil {
		if err := s.load(s.site(anonymousSite) + "http://:" + port(elsewhere) + " {\n" + anonymousSite + "\n}\n"); err == nil {
			t.Fatal("it did not fail")
		}
	}
	if blocks := admitted.ended(); len(blocks) != 1 || !strings.Contains(blocks[0].data, `"reason":"lifetime"`) {
		t.Errorf("it ended with %+v", blocks)
	}
	s.send(`{"text":"on we go"}`)
	st.expect("on we go")
}

// TestStoresOfAConfigThatFails: the stores of a config that fails are closed, whether another app
// or another store fails.
func TestStoresOfAConfigThatFails(t *testing.T) {
	dir := t.TempDir()
	on := func(file string) string {
		return " {\n store disk " + filepath.Join(dir, file) + "\n}\n"
	}
	s := start(t, "sse"+on("a.db"), anonymousSite)
	st := s.open("/events")
	if err := os.WriteFile(filepath.Join(dir, "no folder"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	failToStart.Store(new(func() {}))
	defer failToStart.Store(nil)
	for range 4 {
		s.global = "sse" + on("b.db") + "test_fail"
		if err := s.load(s.site(anonymousSite)); err == nil {
			t.Fatal("a config whose app fails was accepted")
		}
		s.global = "sse" + on("b.db") + "sse other" + on("no folder/c.db")
		if err := s.load(s.site(anonymousSite)); err == nil {
			t.Fatal("a config with a store that cannot be opened was accepted")
		}
	}
	s.send(`{"text":"1"}`)
	st.expect("1")
	s.global = "sse" + on("b.db")
	s.mustLoad(s.site(anonymousSite)) // fails if the file is still open
	if b := st.event(); b.event != "sse.gap" {
		t.Errorf("after the change of the file came %+v", b)
	}
}

// TestPromise8ServerOfAnEarlierConfig: the process exits during a reload, when the next config
// serves already. Caddy then waits for the servers of all earlier configs. Their streams end, also
// one that comes late, and no others.
func TestPromise8ServerOfAnEarlierConfig(t *testing.T) {
	const site = "test_hold\n"
	s := start(t, "", site+bothWays(""))
	first := s.open("/kept")
	s.mustLoad(s.site(site + bothWays("max_connections 100")))
	early := s.open("/kept")
	lateStream := make(chan *stream)
	go func() { lateStream <- openWith(t, plain, "http://"+s.http+"/kept", "X-Hold", "yes") }()
	hold := <-holding
	late := caddysse.OnServerShutdown()
	s.mustLoad(s.site(site + bothWays("")))
	st := s.open("/kept")
	caddysse.Exit(t)
	late()
	for name, st := range map[string]*stream{"config before": early, "first config": first} {
		if blocks := st.ended(); len(blocks) != 1 || !strings.Contains(blocks[0].data, `"reason":"shutdown"`) {
			t.Errorf("the stream of the %s ended with %+v", name, blocks)
		}
	}
	close(hold)
	came := <-lateStream
	blocks := append([]block{came.connected}, came.ended()...)
	if last := blocks[len(blocks)-1]; last.event != "sse.closing" || !strings.Contains(last.data, `"reason":"shutdown"`) {
		t.Errorf("the late stream ended with %+v", blocks)
	}
	s.send(`{"text":"on we go"}`)
	st.expect("on we go")
	s.open("/events").close()
	caddysse.OnServerShutdown()()
	if blocks := st.ended(); len(blocks) != 1 || !strings.Contains(blocks[0].data, `"reason":"shutdown"`) {
		t.Errorf("it ended with %+v", blocks)
	}
}

// TestPromise8ExitWhileRouteComesBack: the process exits during the reload that brings back the route,
// while the config without a route stops. Servers without a route do not end the streams of the config
// before, and Caddy waits for the servers of that one.
func TestPromise8ExitWhileRouteComesBack(t *testing.T) {
	caddysse.SetRouteGrace(time.Hour)
	defer caddysse.SetRouteGrace(100 * time.Millisecond)
	for name, global := range map[string]string{"with the app": "sse\n", "without the app": ""} {
		for range 8 { // Caddy stops apps in random order
			t.Run(name, func(t *testing.T) {
				s := start(t, "sse", bothWays(""))
				early := s.open("/kept")
				s.global = global + "events {\n on stopping test\n}"
				s.mustLoad(s.site("respond hello"))
				handleWith(t, func(name string) {
					if name == "stopping" {
						caddysse.Exit(t)
					}
				})
				s.global = "sse"
				var reload sync.WaitGroup
				reload.Go(func() {
					if err := s.load(s.site(bothWays(""))); err != nil {
						t.Error(err)
					}
				})
				if blocks := early.ended(); len(blocks) != 1 || !strings.Contains(blocks[0].data, `"reason":"shutdown"`) {
					t.Errorf("the stream of the first config ended with %+v", blocks)
				}
				reload.Wait()
			})
		}
	}
}

// TestPromise8ExitDuringReloadThatFails: the process exits during a reload that fails. Caddy then waits for
// the servers of all earlier configs, before it stops the config in force, whose streams go on until then.
func TestPromise8ExitDuringReloadThatFails(t *testing.T) {
	for range 4 { // Caddy starts apps in random order
		t.Run("", func(t *testing.T) {
			s := start(t, "", bothWays(""))
			early := s.open("/kept")
			s.mustLoad(s.site(bothWays("max_connections 100")))
			st := s.open("/kept")
			failToStart.Store(new(func() { caddysse.Exit(t) }))
			defer failToStart.Store(nil)
			s.global = "test_fail"
			var reload sync.WaitGroup
			reload.Go(func() {
				if err := s.load(s.site(bothWays(""))); err == nil {
					t.Error("it did not fail")
				}
			})
			if blocks := early.ended(); len(blocks) != 1 || !strings.Contains(blocks[0].data, `"reason":"shutdown"`) {
				t.Errorf("the stream of the first config ended with %+v", blocks)
			}
			reload.Wait()
			s.send(`{"text":"on we go"}`)
			st.expect("on we go")
		})
	}
}

// TestPromise8ExitDuringReload: the process exits while a reload stops the config before. The next
// config serves until it is stopped itself.
func TestPromise8ExitDuringReload(t *testing.T) {
	for range 8 { // Caddy stops apps in random order
		t.Run("", func(t *testing.T) {
			on := func(file string) string {
				// The wait for the servers of other tests is bounded.
				return "grace_period 1s\nsse {\n store disk " + filepath.Join(t.TempDir(), file) + "\n}"
			}
			s := start(t, on("a.db"), bothWays(""))
			st := s.open("/kept")
			s.global = on("b.db")
			caddysse.Exit(t)
			s.mustLoad(s.site(bothWays("")))
			blocks := st.ended() // perhaps with the gap of the next store
			if last := blocks[len(blocks)-1]; last.event != "sse.closing" || !strings.Contains(last.data, `"reason":"shutdown"`) {
				t.Errorf("the stream of the config before ended with %+v", blocks)
			}
			s.send(`{"text":"on we go"}`)
			s.open("/events", "Last-Event-ID", "earliest").expect("on we go")
		})
	}
}
