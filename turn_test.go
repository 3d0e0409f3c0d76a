package caddysse_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"

	caddysse "github.com/ea766355/caddy-sse"
	"github.com/ea766355/caddy-sse/internal/netyield"
)

// However many clients connect at once, only some requests are worked on at a time. The
// others wait, and a client that leaves meanwhile gets no stream.
func TestBeginningStreamsTakeTurns(t *testing.T) {
	s := startTLS(t, "", "sse /events {\n anonymous\n}")
	eachProtocol(t, s, func(t *testing.T, p protocol) {
		const clients = 20
		opened := s.metric(`caddy_sse_connections_opened_total{hub="default"}`)
		waiting := func(n int) {
			t.Helper()
			eventually(t, "the requests to wait", func() bool { return strings.Count(stacks(), "turns.take(") == n })
		}
		var taken []*netyield.Yielder
		for range cap(caddysse.BeginTurns) {
			taken = append(taken, <-caddysse.BeginTurns)
		}
		defer func() {
			for _, turn := range taken {
				caddysse.BeginTurns <- turn
			}
		}()
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 2*clients)
		get := func(ctx context.Context) {
			req, err := http.NewRequestWithContext(ctx, "GET", p.url(s)+"/events", nil)
			if err == nil {
				var resp *http.Response
				if resp, err = p.client.Do(req); err == nil {
					err = resp.Body.Close()
				}
			}
			ended <- err
		}
		for range clients {
			go get(ctx)
			go get(t.Context())
		}
		waiting(2 * clients)
		cancel()
		for range clients {
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
		}
		waiting(clients)
		if n := s.metric(`caddy_sse_connections_opened_total{hub="default"}`) - opened; n != 0 {
			t.Errorf("%v streams were opened without a turn", n)
		}
		caddysse.BeginTurns <- taken[0]
		taken = taken[1:]
		for range clients {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
		if n := s.metric(`caddy_sse_connections_opened_total{hub="default"}`) - opened; n != clients {
			t.Errorf("%v streams were opened, want %d", n, clients)
		}
		if n := len(caddysse.BeginTurns); n != 1 {
			t.Errorf("%d turns are free, want the one that was given back", n)
		}
	})
	if n := len(caddysse.BeginTurns); n != runtime.GOMAXPROCS(0) {
		t.Errorf("%d turns are free in the end, want %d", n, runtime.GOMAXPROCS(0))
	}
}

// TestNoTurnIsHeldForAClient: a request gives its turn back before it answers, whatever the answer
// is. Otherwise a few clients that read nothing would keep all others out.
func TestNoTurnIsHeldForAClient(t *testing.T) {
	s := start(t, "", "test_writer slow\nsse /events {\n anonymous\n max_connections 1\n}\nsse /private")
	ctx, cancel := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	defer clients.Wait()
	defer cancel()
	send := func(method, path string) {
		clients.Go(func() {
			req, err := http.NewRequestWithContext(ctx, method, "http://"+s.http+path, nil)
			if err != nil {
				t.Error(err)
				return
			}
			if resp, err := plain.Do(req); err == nil {
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
		})
	}
	for _, c := range []struct {
		method, path string
		status       int
	}{
		{"POST", "/events", 405},
		{"HEAD", "/events", 200},
		{"GET", "/private", 401},
		{"GET", "/events?topic=other", 403},
		{"GET", "/events", 200}, // a stream
		{"GET", "/events", 200}, // one too many
	} {
		send(c.method, c.path)
		if status := <-slowHeaders; status != c.status {
			t.Errorf("%s %s: answered %d, want %d", c.method, c.path, status, c.status)
		}
		if free, all := len(caddysse.BeginTurns), cap(caddysse.BeginTurns); free != all {
			t.Errorf("%s %s: %d of %d turns are free while the answer is written", c.method, c.path, free, all)
		}
		<-slowHeaders
	}
}

// TestNoTurnIsHeldForTheHistory: clients that wait for the history hold no turn, and take one
// when the history is there.
func TestNoTurnIsHeldForTheHistory(t *testing.T) {
	s := start(t, "sse {\n store test\n}", "sse /events {\n anonymous\n}")
	const clients = 10
	var opened sync.WaitGroup
	for range clients {
		opened.Go(func() {
			// On a busy machine the first ones have waited long enough, and are rejected, before the
			// last ones begin to wait. They come back.
			for first := "sse.rejected"; first == "sse.rejected"; {
				resp, err := plain.Get("http://" + s.http + "/events")
				if err != nil || resp.StatusCode != http.StatusOK {
					t.Errorf("got %v, %v", resp, err)
					return
				}
				for lines := bufio.NewScanner(resp.Body); lines.Scan() && lines.Text() != ""; {
					if event, ok := strings.CutPrefix(lines.Text(), "event: "); ok {
						first = event
					}
				}
				resp.Body.Close()
			}
		})
	}
	eventually(t, "all clients to wait", func() bool { return strings.Count(stacks(), ".pollHistory(") == clients })
	if free, all := len(caddysse.BeginTurns), cap(caddysse.BeginTurns); free != all {
		t.Errorf("%d of %d turns are free while clients wait for the history", free, all)
	}
	feed := <-testStores.Load().feed
	feed.Begin("abcdefgh", 1)
	feed.Status(nil, 0)
	opened.Wait()
	if free, all := len(caddysse.BeginTurns), cap(caddysse.BeginTurns); free != all {
		t.Errorf("%d of %d turns are free in the end", free, all)
	}
}
