package caddysse_test

import (
	"context"
	"errors"
	"net/http"
	"runtime"
	"strings"
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
