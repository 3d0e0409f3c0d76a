package caddysse_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	caddysse "github.com/ea766355/caddy-sse"
	"github.com/ea766355/caddy-sse/hub"
)

// testStore is a store whose state the test sets.
type testStore struct {
	*hub.Memory
	feed chan hub.Feed
}

// testStores has the store that was opened last.
var testStores atomic.Pointer[testStore]

// whileOpening is called while a store is opened, if it is set.
var whileOpening func()

func init() { caddy.RegisterModule(testStoreModule{}) }

type testStoreModule struct{}

func (testStoreModule) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "sse.stores.test", New: func() caddy.Module { return new(testStoreModule) }}
}

func (*testStoreModule) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	return nil
}

func (*testStoreModule) Identity(hub string) string { return "test " + hub }

func (*testStoreModule) Open(string) (hub.Store, error) {
	if whileOpening != nil {
		whileOpening()
	}
	s := &testStore{Memory: hub.NewMemory(), feed: make(chan hub.Feed, 1)}
	testStores.Store(s)
	return s, nil
}

func (s *testStore) Tail(ctx context.Context, feed hub.Feed) {
	s.feed <- feed
	<-ctx.Done()
}

// unwritable is the reason why the store cannot be written, or nil.
var unwritable atomic.Pointer[error]

var unwritableSince = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func (*testStore) Writable() (since time.Time, problem error) {
	if err := unwritable.Load(); err != nil {
		return unwritableSince, *err
	}
	return time.Time{}, nil
}

var (
	_ caddysse.StoreModule  = (*testStoreModule)(nil)
	_ caddysse.WriteChecker = (*testStore)(nil)
)

// TestStatusSaysWhetherTheStoreCanBeWritten: the status has the problem of the store and the time
// when it began.
func TestStatusSaysWhetherTheStoreCanBeWritten(t *testing.T) {
	s := start(t, "sse {\n store test\n}", "sse /events")
	feed := <-testStores.Load().feed
	feed.Begin("abcdefgh", 1)
	check := func(when string, want map[string]any) {
		t.Helper()
		got := s.status("default").Store
		for field, value := range want {
			if got[field] != value {
				t.Errorf("%s: %s is %v, want %v", when, field, got[field], value)
			}
		}
		for _, field := range []string{"problem", "since"} {
			if _, there := want[field]; !there && got[field] != nil {
				t.Errorf("%s: %s is %v", when, field, got[field])
			}
		}
		for field, series := range map[string]string{"writable": "store_writable", "connected": "store_connected"} {
			value := 0.0
			if want[field] == true {
				value = 1
			}
			if n := s.metric("caddy_sse_" + series + `{hub="default"}`); n != value {
				t.Errorf("%s: %s is %v", when, series, n)
			}
		}
	}

	feed.Status(nil, 0)
	check("at first", map[string]any{"connected": true, "writable": true})

	reason := errors.New("no quorum")
	unwritable.Store(&reason)
	defer unwritable.Store(nil)
	check("without a quorum", map[string]any{"connected": true, "writable": false, "problem": "no quorum", "since": "2026-01-02T03:04:05Z"})

	before := time.Now()
	feed.Status(errors.New("it is away"), 0)
	check("away", map[string]any{"connected": false, "writable": false, "problem": "it is away", "since": s.status("default").Store["since"]})
	if since, err := time.Parse(time.RFC3339, fmt.Sprint(s.status("default").Store["since"])); err != nil || since.Before(before.Add(-time.Second)) || since.After(time.Now()) {
		t.Errorf("away since %v: %v", since, err)
	}

	unwritable.Store(nil)
	feed.Status(nil, 0)
	check("in the end", map[string]any{"connected": true, "writable": true})
}

// TestStatusBeforeTheHistoryIsOpen: the status says how far the history is read, and listings have
// no rows, as docs/reference/api.md says.
func TestStatusBeforeTheHistoryIsOpen(t *testing.T) {
	s := start(t, "sse {\n store test\n}", "sse /events")
	feed := <-testStores.Load().feed
	check := func(when, head, oldest string, events int, store map[string]any) {
		t.Helper()
		got := decode[struct{ Hubs map[string]hubStatus }](t, s.api("GET", "/sse/status", "").body).Hubs["default"]
		if got.Head != head || got.Oldest != oldest || got.Events != events {
			t.Errorf("%s: head, oldest and events: got %q, %q and %d, want %q, %q and %d", when, got.Head, got.Oldest, got.Events, head, oldest, events)
		}
		for field, want := range store {
			if got.Store[field] != want {
				t.Errorf("%s: %s: got %v, want %v", when, field, got.Store[field], want)
			}
		}
		for path, want := range map[string]string{"connections": `{"count":0,"connections":[]}`, "users": `{"users":[]}`} {
			if a := s.api("GET", "/sse/"+path, ""); a.status != http.StatusOK || strings.TrimSpace(a.body) != want {
				t.Errorf("%s: %s: got %d %s, want 200 %s", when, path, a.status, a.body, want)
			}
		}
	}
	check("before the store answers", "", "", 0, map[string]any{"connected": false, "writable": false, "lag": 0.0, "problem": "the store is opening"})
	feed.Begin("abcdefgh", 5)
	feed.Status(nil, 7)
	check("while the history is read", "abcdefgh-4", "abcdefgh-5", 0, map[string]any{"connected": true, "writable": true, "lag": 7.0, "problem": nil})
}

// TestReady: a balancer gets the state of the hubs at both endpoints.
func TestReady(t *testing.T) {
	s := start(t, "sse {\n store test\n}\nsse chat", "sse /events\nsse_api /sse/*")
	check := func(path string, status int, text string) {
		t.Helper()
		for _, base := range []string{"http://" + s.admin, "http://" + s.http} {
			a := do(t, "GET", base+path, "")
			if status == http.StatusOK {
				if a.status != status || a.body != "{\"ready\":true}\n" {
					t.Errorf("%s: %d %s", path, a.status, a.body)
				}
				continue
			}
			checkRefusal(t, a, status, text)
			if head := do(t, "HEAD", base+path, ""); head.status != status || head.body != "" {
				t.Errorf("HEAD %s: %d %s", path, head.status, head.body)
			}
		}
	}
	eventually(t, "chat to be open", func() bool { return s.api("GET", "/sse/ready?hub=chat", "").status == http.StatusOK })
	check("/sse/ready?hub=chat", 200, "")
	check("/sse/ready", 503, "hub default: the history is not open yet: the store is opening")

	feed := <-testStores.Load().feed
	feed.Begin("abcdefgh", 1)
	feed.Status(nil, 7)
	check("/sse/ready", 503, "7 records are not read yet")
	feed.Status(nil, 0)
	check("/sse/ready", 200, "")

	reason := errors.New("no quorum")
	unwritable.Store(&reason)
	defer unwritable.Store(nil)
	check("/sse/ready", 200, "") // on another node it would be the same
	unwritable.Store(nil)

	feed.Status(errors.New("it is away"), 0)
	check("/sse/ready", 200, "") // what there is is served
	feed.Status(nil, 0)
	check("/sse/ready", 200, "")
	check("/sse/ready?hub=nope", 404, "(available: chat, default)")
	check("/sse/ready?verbose=1", 400, "unknown query parameter")
	caddysse.Exit(t)
	check("/sse/ready", 503, "shutting down")
}

// TestReadyDuringReload: a config that is being loaded, and may fail, has opened a hub without a
// history. The node serves its clients meanwhile.
func TestReadyDuringReload(t *testing.T) {
	s := start(t, "sse", "sse /events\nsse_api /sse/*")
	ready := func() int { return do(t, "GET", "http://"+s.http+"/sse/ready", "").status }
	during := 0
	whileOpening = func() { during = ready() }
	defer func() { whileOpening = nil }()
	s.global = "sse\nsse chat {\n store test\n}"
	s.mustLoad(s.site("sse /events\nsse_api /sse/*"))
	if during != http.StatusOK {
		t.Errorf("while the next config opens its stores: got %d, want 200", during)
	}
	if after := ready(); after != http.StatusServiceUnavailable {
		t.Errorf("when the next config is in force and its history is not open: got %d, want 503", after)
	}
}

// TestReadyIsAllThatItsPathServes: Caddy's matchers look at the clean path. No other spelling of a path
// that is open to everybody reaches a call that needs a guard.
func TestReadyIsAllThatItsPathServes(t *testing.T) {
	s := start(t, "", "rewrite /ready /sse/ready\nsse_api /sse/ready")
	for _, path := range []string{
		"/sse/connections/../ready", "/sse/connections/x/../../ready", "/sse/connections/%2e%2e/ready", "/sse/connections/..%2fready",
		"/sse/connections//../ready", "/sse/send/../ready", "/sse/broadcast/../ready", "/sse/connections/../sse/../ready", "/sse//ready", "//sse/ready",
	} {
		for _, method := range []string{"GET", "POST", "PATCH", "DELETE"} {
			a := do(t, method, "http://"+s.http+path, `{"add":["x"],"data":1}`, "Content-Type", "application/json")
			if a.status != http.StatusNotFound || a.body != "" && !strings.Contains(a.body, "unknown path") {
				t.Errorf("%s %s: got %d %s, want an unknown path", method, path, a.status, a.body)
			}
		}
	}
}
