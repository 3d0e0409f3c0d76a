package recipes

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ea766355/caddy-sse/e2e"
)

// apps are the apps of the docs: the file of testdata that the recipe becomes a part of, and the
// command to start it, in which $file and $port are replaced.
var apps = map[string]struct {
	frame string
	start []string
}{
	"flask":   {"app.py", []string{"/usr/bin/python3", "$file", "$port"}}, // Debian's, which has Debian's Flask
	"django":  {"app_django.py", []string{"/usr/bin/python3", "$file", "$port"}},
	"php":     {"app.php", []string{"php", "-S", "127.0.0.1:$port", "$file"}},
	"sinatra": {"app.rb", []string{"ruby", "$file", "$port"}},
	"node":    {"app.mjs", []string{"node", "$file", "$port"}},
	"go":      {"app.go.txt", []string{"$file", "$port"}},
}

// startApp starts an app with the code of the docs in it, and returns its address.
func startApp(t *testing.T, name, code string) (addr string) {
	t.Helper()
	if n := strings.Count(code, "\n"); n > 5 {
		t.Errorf("lines of the recipe %s: got %d, want at most 5", name, n)
	}
	app := apps[name]
	file := write(t, t.TempDir(), strings.TrimSuffix(app.frame, ".txt"), frame(t, app.frame, "RECIPE\n", "\n"+code))
	if name == "go" {
		built := filepath.Join(filepath.Dir(file), "app")
		if out, err := exec.Command("go", "build", "-o", built, file).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		file = built
	}
	port := e2e.FreePort(t)
	args := slices.Clone(app.start)
	for i := range args {
		args[i] = strings.NewReplacer("$file", file, "$port", fmt.Sprint(port)).Replace(args[i])
	}
	launch(t, port, args[0], args[1:]...)
	return fmt.Sprintf("127.0.0.1:%d", port)
}

// meter is a proxy in front of an app. It measures how long each request for a stream keeps a
// worker of the app busy.
type meter struct {
	*httptest.Server
	mu      sync.Mutex
	busy    []time.Duration
	waiting int // requests without a response yet
}

func newMeter(t *testing.T, app string) *meter {
	m := new(meter)
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: app})
	m.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.mu.Lock()
		m.waiting++
		m.mu.Unlock()
		began := time.Now()
		defer func() { // also if Caddy has aborted the request
			m.mu.Lock()
			defer m.mu.Unlock()
			m.waiting--
			if r.URL.Path == "/events" {
				m.busy = append(m.busy, time.Since(began))
			}
		}()
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(m.Close)
	return m
}

func (m *meter) addr() string { return m.Listener.Addr().String() }

// read returns how long the app was busy with each request since the last call.
func (m *meter) read(t *testing.T) (busy []time.Duration) {
	t.Helper()
	e2e.Wait(t, e2e.Patience, "the app to respond to all requests", func() error {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.waiting > 0 {
			return fmt.Errorf("%d have no response", m.waiting)
		}
		busy, m.busy = m.busy, nil
		return nil
	})
	slices.Sort(busy)
	return busy
}

// TestAppAnswers: with each app and both Caddyfiles, the app decides which user gets a stream and
// which topics. The app is not busy while streams are open.
func TestAppAnswers(t *testing.T) {
	page, auth := recipes(t, "apps.md"), recipes(t, "auth.md")
	var text strings.Builder
	meters, ports := make(map[string]*meter), make(map[string]int)
	handlers := map[string]string{"forward_auth": take(t, auth, "forward_auth"), "handle_response": take(t, auth, "handle_response")}
	for name := range apps {
		meters[name] = newMeter(t, startApp(t, name, take(t, page, name)))
		for handler, caddyfile := range handlers {
			port := e2e.FreePort(t)
			ports[handler+" "+name] = port
			text.WriteString(localize(caddyfile, meters[name].addr(), port, ""))
		}
	}
	server := serve(t, "", text.String())
	publish := take(t, page, "publish")
	for name := range apps {
		for handler := range handlers {
			t.Run(handler+" "+name, func(t *testing.T) {
				site, meter := fmt.Sprintf("https://example.com:%d", ports[handler+" "+name]), meters[name]
				back := backend{t, server.admin}
				anonymous := visitor{t: t, base: site}
				alice := visitor{t: t, base: site, cookie: login(t, meter.addr(), "alice")}
				bob := visitor{t: t, base: site, cookie: login(t, meter.addr(), "bob")}

				anonymous.refused("/events", http.StatusUnauthorized)
				anonymous.refused("/events", http.StatusUnauthorized, "X-SSE-User", "alice", "X-SSE-Topics", "room/1")
				if resp, body := anonymous.answer("/login?user=carol"); resp.StatusCode != http.StatusOK {
					t.Errorf("another path of the app: got %s %s, want 200", resp.Status, body)
				}
				alice.refused("/events?topic=room/3", http.StatusForbidden)

				// Each app has one worker, or the one thread of Node.
				meter.read(t)
				const n = 20
				// The test takes the shortest time, and tries again, because the machine may be busy
				// with other things.
				const most, attempts = 10 * time.Millisecond, 10
				var streams []*stream
				for attempt := 1; ; attempt++ {
					streams = []*stream{alice.open("/events", "alice", "X-SSE-User", "bob", "X-SSE-Topics", "room/3")}
					for range n - 1 {
						streams = append(streams, alice.open("/events", "alice"))
					}
					busy := meter.read(t)
					t.Logf("the app was busy for %s, %s, %s (least, median, most)", busy[0], busy[n/2], busy[n-1])
					if len(busy) == n && busy[0] <= most {
						break
					}
					if len(busy) != n || attempt == attempts {
						t.Fatalf("requests and their shortest time in the app: got %d and %s, want %d and at most %s", len(busy), busy[0], n, most)
					}
					for _, s := range streams {
						s.close()
					}
					back.wait(0)
				}
				other := bob.open("/events", "bob")
				back.wait(n + 1)
				list, err := back.connections("alice")
				if err != nil {
					t.Fatal(err)
				}
				for _, c := range list {
					if strings.Join(c.Topics, " ") != "room/1 room/2" {
						t.Errorf("topics of alice: got %q, want room/1 and room/2", c.Topics)
					}
				}

				back.run(publish)
				back.send(`"user":"alice"`, "for alice")
				back.send(`"user":"bob"`, "for bob")
				back.send(`"topic":"room/2"`, "for both")
				for _, s := range streams {
					s.expect("message", `{"text":"Hello"}`)
					s.expect("", "for alice")
					s.expect("", "for both")
					s.close()
				}
				other.expect("", "for bob")
				other.expect("", "for both")
				other.close()
				back.wait(0)
			})
		}
	}
}

// stub is an app with the response that a test sets.
type stub struct {
	*httptest.Server
	mu     sync.Mutex
	answer http.HandlerFunc
	last   *http.Request
}

func newStub(t *testing.T) *stub {
	s := new(stub)
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		answer := s.answer
		s.last = r
		s.mu.Unlock()
		answer(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *stub) respond(status int, header ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = func(w http.ResponseWriter, r *http.Request) {
		for i := 0; i < len(header); i += 2 {
			w.Header().Add(header[i], header[i+1])
		}
		w.WriteHeader(status)
		if status != http.StatusNoContent {
			fmt.Fprint(w, "from the app")
		}
	}
}

// lastRequest returns the parts of the last request to the app.
func (s *stub) lastRequest() (method, uri, original string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last.Method, s.last.RequestURI, s.last.Header.Get("X-Forwarded-Uri")
}

func (s *stub) addr() string { return s.Listener.Addr().String() }

// TestContract: Caddy handles each response of the app as the table of the page says.
func TestContract(t *testing.T) {
	page := recipes(t, "auth.md")
	app := newStub(t)
	app.respond(http.StatusNotFound)
	ports := map[string]int{"forward_auth": e2e.FreePort(t), "handle_response": e2e.FreePort(t)}
	var text strings.Builder
	for handler, port := range ports {
		text.WriteString(localize(take(t, page, handler), app.addr(), port, ""))
	}
	server := serve(t, "", text.String())
	for handler, port := range ports {
		t.Run(handler, func(t *testing.T) {
			v := visitor{t: t, base: fmt.Sprintf("https://example.com:%d", port), cookie: "session=s"}
			back := backend{t, server.admin}
			for _, list := range []string{"room/1,room/2", `["room/1","room/2"]`} {
				app.respond(http.StatusNoContent, "X-SSE-User", "alice", "X-SSE-Topics", list)
				s := v.open("/events", "alice")
				back.send(`"topic":"room/2"`, list)
				s.expect("", list)
				s.close()
			}
			app.respond(http.StatusNoContent, "X-SSE-User", "zoë 李") // in UTF-8
			s := v.open("/events", "zoë 李")
			back.send(`"user":"zoë 李"`, "for her")
			s.expect("", "for her")
			s.close()
			app.respond(http.StatusOK, "x-sse-user", "alice", "X-SSE-Topics", "room/1", "Set-Cookie", "a=b")
			s = v.open("/events", "alice")
			if got := s.resp.Header.Get("Set-Cookie"); (got == "a=b") != (handler == "handle_response") {
				t.Errorf("Set-Cookie: %q", got)
			}
			s.close()
			back.wait(0)
			post, err := v.client().Post(v.base+"/events", "text/plain", strings.NewReader("a body"))
			if err != nil {
				t.Fatal(err)
			}
			post.Body.Close()
			if post.StatusCode != http.StatusMethodNotAllowed {
				t.Errorf("POST: got %s, want 405", post.Status)
			}
			v.open("/events?topic=room/1", "alice", "X-SSE-Topics", "room/1").close()
			method, uri, original := app.lastRequest()
			if want := map[string]string{"forward_auth": "GET /events?topic=room/1 /events?topic=room/1", "handle_response": "GET /events?topic=room/1 "}[handler]; method+" "+uri+" "+original != want {
				t.Errorf("request to the app: got %s %s, X-Forwarded-Uri %q, want %s", method, uri, original, want)
			}
			back.wait(0)
			app.respond(http.StatusNoContent, "X-SSE-User", "alice", "X-SSE-Topics", `["room/caf\u00e9","a room"]`)
			s = v.open("/events", "alice")
			list, err := back.connections("alice")
			if err != nil || len(list) != 1 || !slices.Equal(list[0].Topics, []string{"a room", "room/café"}) {
				t.Errorf("connections of alice: got %v, %v, want one with the topics a room and room/café", list, err)
			}
			back.send(`"topic":"room/café"`, "coffee")
			s.expect("", "coffee")
			s.close()
			v.open("/events?topic="+url.QueryEscape("a room"), "alice").close()

			app.respond(http.StatusNoContent, "X-SSE-User", "", "X-SSE-Topics", "room/1")
			v.refused("/events", http.StatusUnauthorized)
			app.respond(http.StatusNoContent, "X-SSE-Topics", "room/1")
			if handler == "forward_auth" {
				v.refused("/events", http.StatusUnauthorized)
			} else {
				v.refused("/events", http.StatusNoContent)
			}
			for wrong, says := range map[string]string{
				"room/1 room/*":                  "topic 2",
				strings.Repeat("r", 513):         "topic 1",
				strings.Repeat("r,", 1000) + "r": "1001 topics",
				`"room/1"`:                       "not a JSON array",
			} {
				app.respond(http.StatusNoContent, "X-SSE-User", "alice", "X-SSE-Topics", wrong)
				if body := v.refused("/events", http.StatusForbidden); !strings.Contains(body, says) {
					t.Errorf("topics %.40s: got %s, want a refusal with %q", wrong, body, says)
				}
			}
			app.respond(http.StatusNoContent, "X-SSE-User", strings.Repeat("a", 513))
			v.refused("/events", http.StatusBadRequest)

			for _, status := range []int{401, 403, 302, 303, 404, 429, 500, 503} {
				app.respond(status, "Location", "https://example.com/login", "X-SSE-User", "alice", "X-Of-App", "yes")
				resp, body := v.answer("/events")
				if resp.StatusCode != status || body != "from the app" || resp.Header.Get("X-Of-App") != "yes" || resp.Header.Get("Location") == "" {
					t.Errorf("response of the app with status %d: got %s, %v %s, want it unchanged", status, resp.Status, resp.Header, body)
				}
			}
		})
	}
	app.Close()
	for _, port := range ports {
		visitor{t: t, base: fmt.Sprintf("https://example.com:%d", port)}.refused("/events", http.StatusBadGateway)
	}
}

// TestRightsChange: the commands of the docs change the rights of open streams.
func TestRightsChange(t *testing.T) {
	page := recipes(t, "auth.md")
	app := newStub(t)
	app.answer = func(w http.ResponseWriter, r *http.Request) {
		login, err := r.Cookie("session")
		if err != nil {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Header().Set("X-SSE-User", "alice")
		w.Header().Set("X-SSE-Topics", "room/1,room/2")
		w.Header().Set("X-SSE-Session", login.Value)
		w.WriteHeader(http.StatusNoContent)
	}
	port := e2e.FreePort(t)
	back := serve(t, "", localize(take(t, page, "forward_auth"), app.addr(), port, ""))
	site := fmt.Sprintf("https://example.com:%d", port)
	laptop := visitor{t: t, base: site, cookie: "session=of-the-laptop; other=x"}.open("/events", "alice")
	phone := visitor{t: t, base: site, cookie: "session=of-the-phone"}.open("/events", "alice")

	back.run(take(t, page, "move"))
	for _, s := range []*stream{laptop, phone} {
		s.expect("sse.topics", `{"added":["room/3"],"removed":["room/1"]}`)
	}
	back.send(`"topic":"room/1"`, "for the removed topic")
	back.send(`"topic":"room/3"`, "for the added topic")
	for _, s := range []*stream{laptop, phone} {
		s.expect("", "for the added topic")
	}

	logout := take(t, page, "logout")
	if got := back.run(logout, "LOGIN=of-another"); got != "{\"disconnected\":0}\n" {
		t.Errorf("a login without a stream: %s", got)
	}
	if got := back.run(logout, "LOGIN=of-the-laptop"); got != "{\"disconnected\":1}\n" {
		t.Errorf("one device: %s", got)
	}
	if event, data := laptop.next(); event != "sse.closing" || !strings.Contains(data, `"reason":"disconnected"`) {
		t.Errorf("last event of the laptop: got %s %s, want sse.closing disconnected", event, data)
	}
	back.send(`"user":"alice"`, "still there")
	phone.expect("", "still there")

	if got := back.run(take(t, page, "ban")); got != "{\"disconnected\":1}\n" {
		t.Errorf("response to the ban: got %s, want 1 disconnected", got)
	}
	if event, data := phone.next(); event != "sse.closing" || !strings.Contains(data, `"reason":"disconnected"`) {
		t.Errorf("last event of the phone: got %s %s, want sse.closing disconnected", event, data)
	}
	app.respond(http.StatusForbidden)
	visitor{t: t, base: site, cookie: "session=of-the-phone"}.refused("/events", http.StatusForbidden)
}

// TestLogout: the app of the page logs one device out, although the value of its cookie changes while it
// is logged in, and a copy of the cookie is refused. The calls from Python do what they say.
func TestLogout(t *testing.T) {
	page := recipes(t, "auth.md")
	port, appPort := e2e.FreePort(t), e2e.FreePort(t)
	addr := fmt.Sprintf("127.0.0.1:%d", appPort)
	back := serve(t, "", localize(take(t, page, "forward_auth"), addr, port, ""))
	python := strings.ReplaceAll(take(t, page, "from_python"), "localhost:2019", back.admin)
	launch(t, appPort, "/usr/bin/python3", write(t, t.TempDir(), "app.py", frame(t, "app_logins.py",
		"RECIPE\n", "\n"+python+"\n"+take(t, page, "logins"))), fmt.Sprint(appPort))
	site := fmt.Sprintf("https://example.com:%d", port)

	// post sends a form, and returns the value of the cookie then.
	post := func(path, cookie string) string {
		t.Helper()
		req, err := http.NewRequest(http.MethodPost, "http://"+addr+path, strings.NewReader("user=alice"))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Cookie", cookie)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusNoContent {
			t.Fatalf("%s: %s", path, resp.Status)
		}
		for _, c := range resp.Cookies() {
			if c.Path != "/" {
				t.Errorf("the cookie has the path %q", c.Path)
			}
			cookie = c.Name + "=" + c.Value
		}
		return cookie
	}
	visitor{t: t, base: site}.refused("/events", http.StatusUnauthorized)
	laptop, phone := post("/api/login", ""), post("/api/login", "")
	onLaptop, onPhone := visitor{t: t, base: site, cookie: laptop}.open("/events", "alice"), visitor{t: t, base: site, cookie: phone}.open("/events", "alice")
	changed := post("/api/other", laptop)
	if changed == laptop {
		t.Error("the app does not change the value of the cookie, so this test tests nothing")
	}
	post("/api/logout", changed)
	if event, data := onLaptop.next(); event != "sse.closing" || !strings.Contains(data, `"reason":"disconnected"`) {
		t.Errorf("the laptop gets %s %s", event, data)
	}
	visitor{t: t, base: site, cookie: laptop}.refused("/events", http.StatusUnauthorized)
	back.send(`"topic":"room/1"`, "still there")
	onPhone.expect("", "still there")

	check := strings.NewReplacer("curl -i", "curl -ksi --connect-to ::127.0.0.1:", "https://example.com", site, "session=of-alice", phone)
	out, _ := exec.Command("sh", "-c", check.Replace(take(t, page, "check"))).CombinedOutput() // curl gives up after a time
	if !strings.Contains(strings.ToLower(string(out)), "content-type: text/event-stream") {
		t.Errorf("the check shows %s", out)
	}

	out, err := exec.Command("/usr/bin/python3", "-c", python+take(t, page, "calls")).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	onPhone.expect("sse.topics", `{"added":["room/3"],"removed":["room/1"]}`)
	onPhone.expect("sse.topics", `{"added":["room/4"],"removed":[]}`)
	if event, data := onPhone.next(); event != "sse.closing" || !strings.Contains(data, `"reason":"disconnected"`) {
		t.Errorf("the phone gets %s %s", event, data)
	}
}
