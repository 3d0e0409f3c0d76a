package caddysse_test

import (
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// TestPromise7ReloadChangesTheFile: a reload gives the hub another file, and later the first one
// again. The streams of all protocols get a gap and continue, publishers continue, and the first
// file has its events. Then a shorter history takes effect on it.
func TestPromise7ReloadChangesTheFile(t *testing.T) {
	dir := t.TempDir() // removed after Caddy has stopped
	on := func(file, history string) string {
		return "sse {\n history " + history + "\n store disk " + filepath.Join(dir, file) + "\n}"
	}
	s := startTLS(t, on("a.db", "1000"), anonymousSite)
	api := freeAddr(t)
	sites := s.site(anonymousSite) + "https://localhost:" + port(s.https) + " {\ntls " + certificate + " " + certificate + "\n" + anonymousSite +
		"\n}\nhttp://:" + port(api) + " {\n sse_api\n}\n"
	s.mustLoad(sites)
	var streams []*stream
	for _, p := range protocols(t) {
		streams = append(streams, openWith(t, p.client, p.url(s)+"/events"))
	}
	change := func(global string) {
		t.Helper()
		s.global = global
		s.mustLoad(sites)
	}
	all := func(texts ...string) {
		t.Helper()
		for _, st := range streams {
			st.expect(texts...)
		}
	}
	told := func() (id string) {
		t.Helper()
		for _, st := range streams {
			b := st.event()
			if id = b.id; b.event != "sse.gap" || b.data != `{"reason":"epoch"}` || id == "" {
				t.Fatalf("%+v is not the gap of another history", b)
			}
		}
		return id
	}

	// The events of the other publishers are for none of these streams.
	var published atomic.Int64
	stop := make(chan struct{})
	var publisher sync.WaitGroup
	publisher.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			event := fmt.Sprintf(`{"user":"nobody","text":"%d","key":"%d"}`, published.Load(), published.Load())
			eventually(t, "an answer", func() bool {
				resp, err := plain.Post("http://"+api+"/sse/send", "application/json", strings.NewReader(event))
				if err != nil {
					return false
				}
				defer resp.Body.Close()
				return resp.StatusCode == http.StatusOK // 503 while the one file takes the other's place
			})
			published.Add(1)
		}
	})
	goesOn := func() {
		t.Helper()
		before := published.Load()
		eventually(t, "publishing to go on", func() bool { return published.Load() >= before+10 })
	}

	first := s.send(`{"text":"a1"}`).ID
	epoch, _, _ := strings.Cut(first, "-")
	s.send(`{"text":"a2"}`)
	all("a1", "a2")
	goesOn()

	change(on("b.db", "1000"))
	if id := told(); strings.HasPrefix(id, epoch) {
		t.Errorf("another file has the same epoch: %s", id)
	}
	s.send(`{"text":"b1"}`)
	all("b1")
	goesOn()

	change(on("a.db", "1000"))
	if id := told(); id != epoch+"-0" {
		t.Errorf("the gap ends at %s, not where the first file begins", id)
	}
	s.send(`{"text":"a3"}`)
	all("a1", "a2", "a3")
	again := s.open("/events", "Last-Event-ID", first)
	if !strings.Contains(again.connected.data, `"resumed":true`) {
		t.Errorf("with a position of the first file: %+v", again.connected)
	}
	again.expect("a2", "a3")
	goesOn()
	close(stop)
	publisher.Wait()

	if n := s.status("default").Events; n <= 10 {
		t.Fatalf("%d events are too few to be bounded", n)
	}
	change(on("a.db", "10"))
	if h := s.status("default"); h.Events != 10 || h.Connections != len(streams)+1 {
		t.Errorf("after the history became shorter: %+v", h)
	}
	s.send(`{"text":"a4"}`)
	all("a4")
	again.expect("a4")
	late := s.open("/events", "Last-Event-ID", first)
	checkGap(t, late, "evicted")
	late.expect("a4")
}

// TestNoNATSWithoutItsStore: the store on NATS is a Go module of its own. Programs without it do
// not contain NATS.
func TestNoNATSWithoutItsStore(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "./cmd/caddy").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	deps := string(out)
	if !strings.Contains(deps, "github.com/ea766355/caddy-sse/hub\n") {
		t.Error("the list does not hold this module's own packages")
	}
	if strings.Contains(deps, "nats") {
		t.Errorf("Caddy with this module depends on NATS: %s", deps)
	}
}
