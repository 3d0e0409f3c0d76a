package main

import (
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() {
	caddy.RegisterModule(empty{})
	caddy.RegisterModule(settle{})
	httpcaddyfile.RegisterHandlerDirective("bench_empty", func(httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		return empty{}, nil
	})
	httpcaddyfile.RegisterDirectiveOrder("bench_empty", httpcaddyfile.Before, "respond")
}

// event is a link in the chain that the streams follow. block and next are set before ready is closed.
type event struct {
	block []byte
	next  *event
	ready chan struct{}
}

var (
	headMu sync.Mutex
	head   = &event{ready: make(chan struct{})} // the event that is published next
	seq    int
)

// empty is the smallest streaming handler in Caddy. Its goroutine waits for the next event, writes it and
// flushes. POST publishes the body.
type empty struct{}

func (empty) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.bench_empty", New: func() caddy.Module { return empty{} }}
}

func (empty) UnmarshalCaddyfile(*caddyfile.Dispenser) error { return nil }

func (empty) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	if r.Method == http.MethodPost {
		data, err := io.ReadAll(r.Body)
		if err != nil {
			return caddyhttp.Error(http.StatusBadRequest, err)
		}
		publish(data)
		return nil
	}
	headMu.Lock()
	cursor := head
	headMu.Unlock()

	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-cache, no-transform")
	w.WriteHeader(http.StatusOK)
	rc := http.NewResponseController(w)
	for {
		if err := rc.Flush(); err != nil {
			return nil
		}
		select {
		case <-r.Context().Done():
			return nil
		case <-cursor.ready:
		}
		for published := true; published; {
			if _, err := w.Write(cursor.block); err != nil {
				return nil
			}
			cursor = cursor.next
			select {
			case <-cursor.ready:
			default:
				published = false
			}
		}
	}
}

func publish(data []byte) {
	headMu.Lock()
	defer headMu.Unlock()
	seq++
	head.block = fmt.Appendf(nil, "event: b\ndata: %s\nid: empty-%d\n\n", data, seq)
	head.next = &event{ready: make(chan struct{})}
	close(head.ready)
	head = head.next
}

// settle handles POST /bench/settle: it collects garbage and returns free memory.
type settle struct{}

func (settle) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "admin.api.bench", New: func() caddy.Module { return settle{} }}
}

func (settle) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{{
		Pattern: "/bench/settle",
		Handler: caddy.AdminHandlerFunc(func(http.ResponseWriter, *http.Request) error {
			debug.FreeOSMemory()
			return nil
		}),
	}}
}
