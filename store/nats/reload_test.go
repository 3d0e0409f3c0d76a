package natsstore

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"

	"github.com/ea766355/caddy-sse/store/nats/natstest"
)

// TestReloadReconnects changes address, user and password of NATS during publishes. An open stream
// gets each event once and in order and does not notice the reload. Publishes are repeated only if
// the admin endpoint itself was replaced.
func TestReloadReconnects(t *testing.T) {
	servers := natstest.New(t, 1, `authorization { users: [ { user: one, password: first }, { user: two, password: second } ] }`)
	servers.Start(0)
	first, second := natstest.NewProxy(t, servers.URLs()[0]), natstest.NewProxy(t, servers.URLs()[0])
	admin, site := freeAddr(t), freeAddr(t)
	hub := strings.ToLower(newStream()) // no other test has this hub open
	load := func(login string, proxy *natstest.Proxy) {
		t.Helper()
		config := fmt.Sprintf(`{
			admin %s
			persist_config off
			sse %s {
				store nats {
					url %s
				}
			}
		}
		http://%s {
			sse /events {
				hub %s
				anonymous
			}
		}`, admin, hub, strings.Replace(proxy.URL(), "//", "//"+login+"@", 1), site, hub)
		adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(config), nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := caddy.Load(adapted, true); err != nil {
			t.Fatal(err)
		}
	}
	load("one:first", first)
	t.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			t.Error(err)
		}
	})

	ctx, stop := context.WithTimeout(t.Context(), 4*time.Minute)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+site+"/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	// publish repeats requests that the admin endpoint did not answer while it was replaced.
	publish := func(n int) {
		body := fmt.Sprintf(`{"data":%d,"key":"%d"}`, n, n)
		for ctx.Err() == nil {
			answer, err := client.Post("http://"+admin+"/sse/broadcast?hub="+hub, "application/json", strings.NewReader(body))
			if err != nil {
				continue
			}
			text, err := io.ReadAll(answer.Body)
			answer.Body.Close()
			if err != nil {
				continue
			}
			if answer.StatusCode != http.StatusOK {
				t.Errorf("response to a publish: got %s, want a receipt", text)
			}
			return
		}
	}
	quiet, published := make(chan struct{}), make(chan int, 1)
	var publishing sync.WaitGroup
	defer publishing.Wait()
	defer stop()
	publishing.Go(func() {
		for n := 0; ctx.Err() == nil; n++ {
			select {
			case <-quiet:
				published <- n
				return
			default:
				publish(n)
			}
		}
	})
	lines := bufio.NewScanner(response.Body)
	next := 0
	read := func(upTo int) {
		t.Helper()
		for next < upTo {
			if !lines.Scan() {
				t.Fatalf("the stream after %d events: got its end, %v, want more events", next, lines.Err())
			}
			if line := lines.Text(); strings.HasPrefix(line, "event: ") && line != "event: sse.connected" {
				t.Fatalf("the stream after %d events: got %s, want an event", next, line)
			} else if data, ok := strings.CutPrefix(line, "data: "); ok && !strings.HasPrefix(data, "{") {
				if data != fmt.Sprint(next) {
					t.Fatalf("event %d: got %s", next, data)
				}
				next++
			}
		}
	}
	read(50)
	load("two:second", second)
	first.Cut() // it is not needed any more
	read(next + 50)
	load("one:first", second)
	read(next + 50)
	close(quiet)
	read(<-published)
}
