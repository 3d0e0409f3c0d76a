package hub

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestMain fails the run when a goroutine is left over after the tests.
func TestMain(m *testing.M) {
	code := m.Run()
	if left := leftoverGoroutines(); code == 0 && left != "" {
		fmt.Fprintf(os.Stderr, "goroutines left over after the tests:\n\n%s\n", left)
		code = 1
	}
	os.Exit(code)
}

// leftoverGoroutines lists the goroutines that do not end within half a minute.
func leftoverGoroutines() string {
	deadline := time.Now().Add(30 * time.Second)
	for {
		left := strings.Split(stacks(), "\n\n")[1:] // not this one
		left = slices.DeleteFunc(left, func(s string) bool { return strings.Contains(s, "os/signal.") })
		if len(left) == 0 || time.Now().After(deadline) {
			return strings.Join(left, "\n\n")
		}
		time.Sleep(time.Millisecond)
	}
}

// stacks returns the stacks of all goroutines, that of the caller first.
func stacks() string {
	buf := make([]byte, 1<<20)
	return string(buf[:runtime.Stack(buf, true)])
}

// defaultSettings are those of a handler without options.
var defaultSettings = &Settings{Heartbeat: 15 * time.Second, Timeout: time.Minute, RetryMin: time.Second, RetryMax: 5 * time.Second}

// newHub returns an open hub with its history in memory. It is closed after the test.
func newHub(t testing.TB, opts Options) *Hub {
	t.Helper()
	h := New(opts)
	if kind := writerKindOf(t); kind != byGoroutine && (inBubble() || kind == bySweeper) {
		withoutEpoll(h)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	useStore(t, h, NewMemory())
	return h
}

// useStore gives h a store, and waits until the history is open.
func useStore(t testing.TB, h *Hub, store Store) {
	t.Helper()
	if err := h.Use(store); err != nil {
		t.Fatal(err)
	}
	if err := h.await(t.Context(), func() bool { return h.source.open && h.source.problem == nil }); err != nil {
		t.Fatal(err)
	}
}

// requestOf returns a request of a user. Topics may be patterns.
func requestOf(user string, topics ...string) Request {
	r := Request{Identity: Identity{User: user}, Settings: defaultSettings, Protocol: "h1"}
	for _, s := range topics {
		topic, err := ParseTopic(s)
		if err != nil {
			panic(err)
		}
		r.Topics = append(r.Topics, topic)
	}
	return r
}

func (r Request) at(position string) Request     { r.Position = position; return r }
func (r Request) with(settings Settings) Request { r.Settings = &settings; return r }

func user(name string) Target  { return Target{User, name} }
func topic(name string) Target { return Target{Topic, name} }

// publish publishes data for the targets; without targets, for all.
func publish(t testing.TB, h *Hub, data string, targets ...Target) Receipt {
	t.Helper()
	if len(targets) == 0 {
		targets = []Target{{}}
	}
	receipts, err := h.Publish(t.Context(), Event{Data: []byte(data), Targets: targets})
	if err != nil {
		t.Fatal(err)
	}
	return receipts[0]
}

func want[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %#v, want %#v", what, got, want)
	}
}

func wantErr(t testing.TB, err, target error) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Errorf("got error %v, want %v", err, target)
	}
}

// connect returns a connection that nothing serves.
func connect(t testing.TB, h *Hub, r Request) Pending {
	t.Helper()
	c, err := h.Connect(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// eventually waits for a condition that nothing signals.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not after a minute: %s", what)
		}
		<-tick.C
	}
}

// recordOf returns the record of an event that is stored now.
func recordOf(seq uint64, e Event) Record {
	if e.At.IsZero() {
		e.At = time.Now()
	}
	return Record{Seq: seq, At: time.Now(), Data: encodeEvent(&e)}
}

// positionAt returns the position with the seq, in the form that clients see.
func positionAt(h *Hub, seq uint64) string {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.history.position(seq).String()
}
