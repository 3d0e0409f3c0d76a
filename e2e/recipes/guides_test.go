package recipes

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ea766355/caddy-sse/e2e"
)

// TestNotifications: what comes between the head and the stream is not lost, what was loaded is not shown
// twice, what is read is read on all devices, and after a gap the page loads all again, without a loop.
// It does so after a refusal of the stream as well, and shows the login if the app refuses.
func TestNotifications(t *testing.T) {
	page := recipes(t, "guides/notifications.md")
	port, appPort := e2e.FreePort(t), e2e.FreePort(t)
	app := fmt.Sprintf("127.0.0.1:%d", appPort)
	back := serve(t, "", localize(loginSite(t), app, port, ""))
	launch(t, appPort, "/usr/bin/python3", write(t, t.TempDir(), "app.py", frame(t, "app_notifications.py",
		"RECIPE\n", "\n"+strings.ReplaceAll(take(t, page, "app"), "localhost:2019", back.admin), "localhost:2019", back.admin)), fmt.Sprint(appPort))
	site := fmt.Sprintf("https://example.com:%d", port)
	alice := visitor{t: t, base: site, cookie: login(t, app, "alice")}
	post := func(path string) {
		t.Helper()
		resp, err := http.Post("http://"+app+path, "text/plain", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusNoContent {
			t.Fatalf("%s: got %s, want 204", path, resp.Status)
		}
	}
	type loaded struct {
		Head   string
		Unread []struct {
			ID   int
			Text string
		}
	}
	load := func() (got loaded) {
		t.Helper()
		if _, text := alice.answer("/api/notifications"); json.Unmarshal([]byte(text), &got) != nil || got.Head == "" {
			t.Fatalf("the app answers %s", text)
		}
		return got
	}

	before := load()
	post("/notify?to=alice&text=first")
	post("/notify?to=bob&text=other")
	stream := alice.open("/events?last_event_id="+before.Head, "alice")
	stream.expect("notification", `{"id":1,"text":"first"}`)
	if got := load(); len(got.Unread) != 1 || got.Unread[0].Text != "first" {
		t.Errorf("unread are %v", got.Unread)
	}

	const prelude = `
		const items = new Map();
		const document = {
			getElementById: (id) => id === "notifications"
				? {
					prepend: (item) => { items.set(item.id, item); console.log("shows", item.textContent); },
					replaceChildren: () => { items.clear(); console.log("begins"); },
				}
				: items.has(id) ? { remove: () => { items.delete(id); console.log("removes", id); } } : null,
			createElement: () => ({}),
		};
	`
	text := take(t, page, "page")
	expect, _ := script(t, site, prelude, text)
	expect("begins")
	expect("shows first")
	back.wait(2)
	back.send(`"user":"alice","type":"notification"`, `{"id":1,"text":"first"}`) // a repeated notification
	stream.expect("notification", `{"id":1,"text":"first"}`)
	post("/notify?to=alice&text=second")
	expect("shows second")
	stream.expect("notification", `{"id":3,"text":"second"}`)
	post("/api/notifications/1/read")
	expect("removes n1")
	stream.expect("read", `{"id":1}`)
	if got := load(); len(got.Unread) != 1 || got.Unread[0].Text != "second" {
		t.Errorf("unread are %v", got.Unread)
	}
	stream.close()

	// A page whose first position is none is told of a gap, and goes on with a good one.
	const gap = `
		let first = true;
		const encodeURIComponent = (head) => first ? (first = false, "nonsense") : head;
		const Source = EventSource;
		globalThis.EventSource = class extends Source { // as a browser's, it fires nothing after close()
			addEventListener(type, listener) { super.addEventListener(type, (e) => this.readyState === 2 || listener(e)); }
		};
	`
	lost, _ := script(t, site, prelude+gap, text)
	for range 2 {
		lost("begins")
		lost("shows second")
	}
	post("/notify?to=alice&text=third")
	lost("shows third")

	// A browser's EventSource gives up after a refusal.
	const refusal = `
		Math.random = () => 0;
		let opened = 0;
		const Source = EventSource;
		globalThis.EventSource = class extends Source {
			constructor(url) { super(opened++ ? url : url.replace("/events", "/api/nothing")); }
		};
	`
	refused, _ := script(t, site, prelude+refusal, text)
	for range 2 {
		refused("begins")
		refused("shows second")
		refused("shows third")
	}
	post("/notify?to=alice&text=fourth")
	refused("shows fourth")

	const loggedOut = `
		globalThis.fetch = async () => ({ ok: false, status: 401 });
		const showLogin = () => console.log("login");
	`
	out, ends := script(t, site, prelude+loggedOut, text)
	out("login")
	ends() // it does not ask again
	wantAllTaken(t, page)
}

// TestAIStreams: a late client gets the whole text. A client that has lost the beginning loads it.
func TestAIStreams(t *testing.T) {
	page := recipes(t, "guides/ai-streams.md")
	app := newStub(t)
	app.answer = func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("topic") != "run/42" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		w.Header().Set("X-SSE-User", "alice")
		w.Header().Set("X-SSE-Topics", "run/42")
		w.WriteHeader(http.StatusNoContent)
	}
	port := e2e.FreePort(t)
	globals, sites := splitGlobals(t, localize(take(t, page, "site"), app.addr(), port, ""))
	back := serve(t, globals, sites)
	site := fmt.Sprintf("https://example.com:%d", port)
	visitor{t: t, base: site}.refused("/runs?topic=run/43", http.StatusForbidden)

	worker := exec.Command("/usr/bin/python3", "-c", strings.ReplaceAll(take(t, page, "worker"), "localhost:2019", back.admin)+`
import itertools, sys
time.monotonic = itertools.count().__next__  # each token is late enough for a chunk
relay("run/42", iter(lambda: sys.stdin.readline().rstrip("\n"), ""))
`)
	worker.Stderr = os.Stderr
	tokens, err := worker.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := worker.Start(); err != nil {
		t.Fatal(err)
	}
	const prelude = `
		const show = (text) => console.log("shows", text), finished = (run) => console.log("finished", run);
		const reload = (run) => console.log("loads", run);
	`
	follow := take(t, page, "page") + "\nfollow(\"run/42\");"
	first, firstEnds := script(t, site, prelude, follow)
	fmt.Fprintln(tokens, "one")
	first("shows one")
	fmt.Fprintln(tokens, "two")
	first("shows two")
	late, lateEnds := script(t, site, prelude, follow)
	late("shows one")
	late("shows two")
	fmt.Fprintln(tokens)
	if err := worker.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, page := range []struct {
		expect func(string)
		ends   func()
	}{{first, firstEnds}, {late, lateEnds}} {
		page.expect("shows ")
		page.expect("finished run/42")
		page.ends() // the stream is closed
	}
	back.run(`curl 'localhost:2019/sse/send?hub=runs' -H 'Content-Type: application/json' -d '{"topic":"run/42","type":"failed","data":null}'`)
	wantAllTaken(t, page)
}

// TestFragments runs the commands of the pages on htmx and Turbo. e2e/browser tests their code for
// browsers.
func TestFragments(t *testing.T) {
	htmx, turbo, react := recipes(t, "guides/htmx.md"), recipes(t, "guides/turbo.md"), recipes(t, "guides/react.md")
	s := e2e.Start(t, e2e.Config{})
	back := backendOf(t, s)
	resp, err := visitorOf(t, s).get("/events", "X-User", "alice")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	back.wait(1)
	back.run(take(t, htmx, "publish"))
	back.run(take(t, turbo, "publish"))
	lines := bufio.NewScanner(resp.Body)
	for _, want := range []string{
		"event: order\ndata: <li>Order 7 is\ndata: shipped</li>\n",
		"data: <turbo-stream action=\"append\" target=\"orders\"><template><li>Shipped</li></template></turbo-stream>\n",
	} {
		var got string
		for !strings.Contains(got, want) {
			if !lines.Scan() {
				t.Fatalf("stream: got %q, want %q in it", got, want)
			}
			got += lines.Text() + "\n"
		}
	}
	for page, names := range map[string][]string{"htmx": {"extension", "gap", "lost", "client"}, "turbo": {"element", "gap", "client"}, "react": {"hook", "vite"}} {
		for _, name := range names {
			take(t, map[string]map[string]string{"htmx": htmx, "turbo": turbo, "react": react}[page], name)
		}
	}
	wantAllTaken(t, htmx)
	wantAllTaken(t, turbo)
	wantAllTaken(t, react)
}

// TestFrameworks: Django and Go set the user of a stream, and publish after the commit.
func TestFrameworks(t *testing.T) {
	page := recipes(t, "guides/frameworks.md")
	site := loginSite(t)
	ports := map[string]int{"django": e2e.FreePort(t), "go": e2e.FreePort(t)}
	apps := map[string]int{"django": e2e.FreePort(t), "go": e2e.FreePort(t)}
	var text strings.Builder
	for name, port := range ports {
		text.WriteString(localize(site, fmt.Sprintf("127.0.0.1:%d", apps[name]), port, ""))
	}
	back := serve(t, "", text.String())
	dir := t.TempDir()
	launch(t, apps["django"], "/usr/bin/python3", write(t, dir, "app.py", frame(t, "frameworks_django.py",
		"RECIPE\n", "\n"+take(t, page, "django"), "localhost:2019", back.admin)), fmt.Sprint(apps["django"]))
	source, program := write(t, dir, "main.go", frame(t, "frameworks.go.txt", "// RECIPE\n", take(t, page, "go"), "// COMMIT\n", take(t, page, "go_commit"))), filepath.Join(dir, "app")
	if out, err := exec.Command("go", "build", "-o", program, source).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	launch(t, apps["go"], program, fmt.Sprint(apps["go"]))
	wantAllTaken(t, page)

	v := visitor{t: t, base: fmt.Sprintf("https://example.com:%d", ports["django"])}
	s := v.open("/events", "7")
	for path, status := range map[string]int{"/ship/0": http.StatusInternalServerError, "/ship/5": http.StatusNoContent} {
		v.refused(path, status)
	}
	s.expect("order_update", `{"id":5,"status":"shipped"}`)
	s.close()
	v = visitor{t: t, base: fmt.Sprintf("https://example.com:%d", ports["go"])}
	v.refused("/events", http.StatusUnauthorized)
	v.cookie = "session=of-alice"
	s = v.open("/events", "alice")
	back.send(`"topic":"room/1"`, "hello")
	s.expect("", "hello")
	s.close()
}
