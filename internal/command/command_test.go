package command

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/ea766355/caddy-sse/e2e"
)

// An api answers as the admin endpoint does, and remembers what it was asked.
type api struct {
	*httptest.Server
	answer func(n int, w http.ResponseWriter, r *http.Request) // to the request n, from 0

	mu     sync.Mutex
	asked  []*http.Request
	bodies []string
}

func newAPI(t *testing.T, answer func(n int, w http.ResponseWriter, r *http.Request)) *api {
	t.Helper()
	a := &api{answer: answer}
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		a.mu.Lock()
		n := len(a.asked)
		a.asked, a.bodies = append(a.asked, r), append(a.bodies, string(body))
		a.mu.Unlock()
		a.answer(n, w, r)
	}))
	t.Cleanup(a.Close)
	return a
}

// requests is what was asked so far.
func (a *api) requests() (asked, bodies []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, r := range a.asked {
		asked = append(asked, r.Method+" "+r.URL.String())
	}
	return asked, slices.Clone(a.bodies)
}

func answerJSON(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body+"\n")
}

// receipts answers a batch.
func receipts(w http.ResponseWriter, events int) {
	for i := range events {
		_, _ = fmt.Fprintf(w, "{\"id\":\"e-%d\",\"connections\":1}\n", i+1)
	}
}

// result is what a command has done.
type result struct {
	out, err string
	code     int
}

// execute runs `caddy sse` against the API.
func (a *api) execute(t *testing.T, in io.Reader, args ...string) result {
	t.Helper()
	return execute(t, t.Context(), in, append(args, "--address", strings.TrimPrefix(a.URL, "http://"))...)
}

func execute(t *testing.T, ctx context.Context, in io.Reader, args ...string) result {
	t.Helper()
	var out, errs bytes.Buffer
	root := &cobra.Command{Use: "sse"}
	build(root)
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(&out)
	root.SetErr(&errs)
	err := root.ExecuteContext(ctx)
	r := result{out.String(), errs.String(), 0}
	if err != nil {
		r.code = exitRefused
		var code int
		if n, _ := fmt.Sscanf(err.Error(), "exiting with status %d", &code); n == 1 {
			r.code = code
		}
	}
	return r
}

func (r result) check(t *testing.T, code int, out string, errs ...string) {
	t.Helper()
	if r.code != code || r.out != out {
		t.Errorf("exit code %d, printed %q, want %d and %q\nerrors: %s", r.code, r.out, code, out, r.err)
	}
	for _, part := range errs {
		if !strings.Contains(r.err, part) {
			t.Errorf("the errors do not say %q: %s", part, r.err)
		}
	}
}

// While Caddy answers 503, and when a connection is lost, an event is sent again: the
// same, with the same key.
func TestSendIsRepeated(t *testing.T) {
	a := newAPI(t, func(n int, w http.ResponseWriter, r *http.Request) {
		switch n {
		case 0:
			answerJSON(w, 503, `{"error":"not stored: away","stored":"no"}`)
		case 1:
			panic(http.ErrAbortHandler)
		default:
			answerJSON(w, 200, `{"id":"e-1-abcd","connections":2}`)
		}
	})
	a.execute(t, nil, "send", "--user", "a", "--user", "b", "--type", "t", "--hub", "chat", `{"x": 1}`).check(t, 0, "e-1-abcd  to 2 connections\n")
	asked, bodies := a.requests()
	if want := "POST /sse/send?hub=chat"; len(asked) != 3 || asked[0] != want || asked[2] != want {
		t.Errorf("asked %q", asked)
	}
	if bodies[0] != bodies[1] || bodies[1] != bodies[2] {
		t.Errorf("it sent %q", bodies)
	}
	var event map[string]any
	if err := json.Unmarshal([]byte(bodies[0]), &event); err != nil {
		t.Fatal(err)
	}
	key, _ := event["key"].(string)
	delete(event, "key")
	if got, want := fmt.Sprint(event), "map[data:map[x:1] type:t user:[a b]]"; got != want || len(key) < 20 {
		t.Errorf("the event is %s with the key %q, want %s", got, key, want)
	}
	if origin := a.asked[0].Header.Get("Origin"); !strings.HasPrefix(origin, "http://127.0.0.1") && origin != "" {
		t.Errorf("origin %q", origin)
	}
}

// If the connection is lost before the first answer, the event may be stored. The error names
// the key to repeat it with.
func TestLostFirstAnswerNamesTheKey(t *testing.T) {
	a := newAPI(t, func(int, http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	for _, args := range [][]string{{`{"x":1}`}, {"--ndjson", `{"data":1}`}} {
		a.execute(t, nil, append([]string{"broadcast", "--timeout", "200ms"}, args...)...).
			check(t, exitUnreachable, "", "repeat the command with --key ")
	}
}

// An id that is empty, such as that of an unset variable in a script, chooses no connection. It
// does not leave the other flags to choose more.
func TestDisconnectOfAnEmptyID(t *testing.T) {
	a := newAPI(t, func(_ int, w http.ResponseWriter, _ *http.Request) { answerJSON(w, 200, `{"disconnected":5}`) })
	for _, args := range [][]string{{"", "--user", "alice"}, {"", "--all"}, {"--connection", "", "--all"}, {""}} {
		a.execute(t, nil, append([]string{"disconnect"}, args...)...).check(t, exitRefused, "", "the id of the connection is empty")
	}
	if asked, _ := a.requests(); len(asked) > 0 {
		t.Errorf("got the requests %q, want none", asked)
	}
}

// A disconnect that is refused with 503 has ended connections of this node. They count when the
// request is repeated.
func TestDisconnectCountsAllRequests(t *testing.T) {
	const refused = `{"error":"the disconnect could not be stored","stored":"no","disconnected":2}`
	a := newAPI(t, func(n int, w http.ResponseWriter, r *http.Request) {
		switch {
		case n < 2 || strings.Contains(r.URL.RawQuery, "eve"):
			answerJSON(w, 503, refused)
		case strings.HasSuffix(r.URL.Path, "/c-1"):
			answerJSON(w, 404, `{"error":"no open connection has the id \"c-1\""}`)
		default:
			answerJSON(w, 200, `{"disconnected":1,"missing":["n2"]}`)
		}
	})
	again := func(args ...string) result {
		a.mu.Lock()
		a.asked = nil
		a.mu.Unlock()
		return a.execute(t, nil, append([]string{"disconnect"}, args...)...)
	}
	again("--user", "alice").check(t, 0, "5 connections ended\n")
	again("--user", "alice", "--json").check(t, 0, `{"disconnected":5,"missing":["n2"]}`+"\n")
	again("c-1").check(t, 0, "4 connections ended\n")
	again("--user", "eve", "--timeout", "1ms").check(t, exitUnreachable, "", "could not be stored", "2 connections ended so far")
}

// When the time is over, the error says how to go on; what is refused is not repeated.
func TestSendGivesUp(t *testing.T) {
	status := 503
	a := newAPI(t, func(_ int, w http.ResponseWriter, _ *http.Request) {
		answerJSON(w, status, `{"error":"the store is away","stored":"unknown","key":"k"}`)
	})
	a.execute(t, nil, "broadcast", "--timeout", "4s", "1").check(t, exitUnreachable, "",
		"Error: the store is away (stored: unknown), for 4s", "repeat the command with --key ")
	if asked, _ := a.requests(); len(asked) < 2 {
		t.Errorf("asked %q", asked)
	}
	status = 400
	before, _ := a.requests()
	a.execute(t, nil, "broadcast", "1").check(t, exitRefused, "", "Error: the store is away")
	if asked, _ := a.requests(); len(asked) != len(before)+1 {
		t.Errorf("what was refused was repeated: %q", asked)
	}
}

// An event waits for a Caddy that does not run yet. A question does not.
func TestSendWaitsForCaddy(t *testing.T) {
	addr := fmt.Sprintf("127.0.0.1:%d", e2e.FreePort(t))
	execute(t, t.Context(), nil, "status", "--address", addr).check(t, exitUnreachable, "", "cannot be reached at "+addr)
	execute(t, t.Context(), nil, "broadcast", "1", "--timeout", "300ms", "--address", addr).
		check(t, exitUnreachable, "", "waiting for Caddy, for 300ms", "cannot be reached at "+addr)

	a := newAPI(t, func(_ int, w http.ResponseWriter, _ *http.Request) {
		answerJSON(w, 200, `{"id":"e-1-abcd","connections":1}`)
	})
	server := httptest.NewUnstartedServer(a.Config.Handler)
	t.Cleanup(server.Close)
	var out bytes.Buffer
	root := &cobra.Command{Use: "sse"}
	build(root)
	root.SetArgs([]string{"broadcast", "1", "--address", addr})
	root.SetOut(&out)
	root.SetErr(writerFunc(func(p []byte) (int, error) {
		if listener, err := net.Listen("tcp", addr); err != nil {
			t.Error(err)
		} else {
			server.Listener.Close()
			server.Listener = listener
			server.Start()
		}
		return len(p), nil
	}))
	if err := root.Execute(); err != nil || out.String() != "e-1-abcd  to 1 connection\n" {
		t.Errorf("%v, printed %q", err, &out)
	}
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// A mistake in the arguments says how they are given.
func TestArguments(t *testing.T) {
	a := newAPI(t, func(_ int, w http.ResponseWriter, _ *http.Request) {
		answerJSON(w, 200, `{"id":"e-1-abcd","connections":1}`)
	})
	for args, want := range map[string]string{
		"why --user alice e-1": `unexpected argument "e-1"; give the id with --id: caddy sse why --user alice --id e-1`,
		"send alice {}":        `send takes one payload (got 2 arguments); if "alice" is the receiver, give it as --user alice`,
	} {
		a.execute(t, nil, strings.Fields(args)...).check(t, exitRefused, "", want)
	}
	execute(t, t.Context(), nil, "broadcast", "1", "--address", a.URL+"/").check(t, 0, "e-1-abcd  to 1 connection\n")
}

// A Caddy without the module, or what is no Caddy, is named.
func TestOtherServer(t *testing.T) {
	a := newAPI(t, func(_ int, w http.ResponseWriter, _ *http.Request) { http.Error(w, "404 page\x1b[2J not found", 404) })
	r := a.execute(t, nil, "status")
	r.check(t, exitRefused, "", "is it a Caddy with the module caddy-sse", "404 page")
	if strings.Contains(r.err, "\x1b") {
		t.Errorf("it obeys the server: %q", r.err)
	}
}

// A batch is what is there, and within the limits of the API.
func TestBatches(t *testing.T) {
	var sizes []int
	a := newAPI(t, nil)
	a.answer = func(n int, w http.ResponseWriter, _ *http.Request) {
		_, bodies := a.requests()
		lines := strings.Count(bodies[n], "\n")
		sizes = append(sizes, lines)
		if len(bodies[n]) > maxBatchBytes {
			t.Errorf("a batch of %d bytes", len(bodies[n]))
		}
		receipts(w, lines)
	}
	a.execute(t, strings.NewReader(strings.Repeat("{\"text\":\"x\"}\n", 2500)), "broadcast", "--ndjson", "--key", "k", "-").
		check(t, 0, "2,500 events in 3 batches\n")
	if got := fmt.Sprint(sizes); got != "[1000 1000 500]" {
		t.Errorf("batches of %s", got)
	}
	_, bodies := a.requests()
	for n, want := range map[int]string{0: `{"key":"k-1","text":"x"}`, 1: `{"key":"k-1001","text":"x"}`} {
		if line, _, _ := strings.Cut(bodies[n], "\n"); line != want {
			t.Errorf("batch %d begins with %s, want %s", n, line, want)
		}
	}

	large := `{"text":"` + strings.Repeat("x", 3<<20) + "\"}\n"
	sizes = nil
	a.execute(t, strings.NewReader(strings.Repeat(large, 5)), "broadcast", "--ndjson", "-").check(t, 0, "5 events in 5 batches\n")
	a.execute(t, strings.NewReader(large+`{"text":"`+strings.Repeat("x", maxBatchBytes)), "broadcast", "--ndjson", "-").
		check(t, exitRefused, "", "line 2 is longer than 8388608 bytes", "before it 1 event was published")
}

// When nobody knows whether the first batch is stored, the error says how to send it again
// without storing it twice.
func TestBatchTellsItsKey(t *testing.T) {
	a := newAPI(t, func(_ int, w http.ResponseWriter, _ *http.Request) {
		answerJSON(w, 503, `{"error":"the store has not answered","stored":"unknown"}`)
	})
	r := a.execute(t, strings.NewReader(`{"data":1}`), "broadcast", "--ndjson", "-", "--timeout", "1ms")
	r.check(t, exitUnreachable, "", "stored: unknown", "repeat the command with --key ")
	_, bodies := a.requests()
	if _, key, _ := strings.Cut(r.err, "--key "); !strings.Contains(bodies[0], `"key":"`+strings.Fields(key)[0]+`-1"`) {
		t.Errorf("sent %s, and the errors say %s", bodies[0], r.err)
	}
}

// An event does not wait for the line after it, nor for a blank one.
func TestBatchDoesNotWait(t *testing.T) {
	arrived := make(chan string)
	a := newAPI(t, nil)
	a.answer = func(n int, w http.ResponseWriter, _ *http.Request) {
		_, bodies := a.requests()
		arrived <- bodies[n]
		receipts(w, strings.Count(bodies[n], "\n"))
	}
	in, feed := io.Pipe()
	var running sync.WaitGroup
	running.Go(func() { a.execute(t, in, "broadcast", "--ndjson", "-").check(t, 0, "3 events in 2 batches\n") })
	for _, lines := range []string{"{\"data\":1}\n\n\n", "\n{\"data\":2}\n{\"data\":3}\n"} {
		if _, err := io.WriteString(feed, lines); err != nil {
			t.Fatal(err)
		}
		if got, want := strings.Count(<-arrived, "\n"), strings.Count(lines, "data"); got != want {
			t.Errorf("%d events arrived of %q", got, lines)
		}
	}
	feed.Close()
	running.Wait()
}

// What a line has stays as it is, for the API to judge, and the flags fill in the rest.
func TestCompletedLines(t *testing.T) {
	b := &batcher{key: "k", line: 7, fields: []field{{"user", []byte(`"a"`)}, {"type", []byte(`"t"`)}}}
	for line, want := range map[string]string{
		` {} `:                            `{"user":"a","type":"t","key":"k-7"}`,
		`{ "text": "<x>" }`:               `{"user":"a","type":"t","key":"k-7","text": "<x>" }`,
		`{"topic":"x","key":"y"}`:         `{"type":"t","topic":"x","key":"y"}`,
		`{"type":"u","type":"v"}`:         `{"user":"a","key":"k-7","type":"u","type":"v"}`,
		`{"text":"{","user":["b","c"]}`:   `{"type":"t","key":"k-7","text":"{","user":["b","c"]}`,
		`{"type":null,"text":"x"}` + "\r": `{"user":"a","key":"k-7","type":null,"text":"x"}`,
	} {
		if got, err := b.complete([]byte(line + "\n")); err != nil || string(got) != want+"\n" {
			t.Errorf("%s became %s %v, want %s", line, got, err, want)
		}
	}
	for _, line := range []string{`[]`, `null`, `{"a":1`, `{} {}`, "\ufeff{}"} {
		if got, err := b.complete([]byte(line)); err == nil || !strings.Contains(err.Error(), "line 7 is not a JSON object") {
			t.Errorf("%s became %s %v", line, got, err)
		}
	}
}

// sse writes blocks of a stream of events.
func sse(w http.ResponseWriter, blocks ...string) {
	w.Header().Set("Content-Type", "text/event-stream")
	for _, b := range blocks {
		_, _ = io.WriteString(w, b)
	}
	w.(http.Flusher).Flush()
}

const connected = "retry: 1\nevent: sse.connected\ndata: {\"heartbeat\":15000}\n"

// The tail comes back with its position whatever happens, and shows a block when it is
// complete.
func TestTailComesBack(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	one := "data: {\"id\":\"e-2\",\"stored\":\"2026-01-02T03:04:05Z\",\"user\":[\"a\"],\"type\":\"note\\u001b[2J\",\"size\":3,\"data\":{\"a\":1}}\n"
	a := newAPI(t, func(n int, w http.ResponseWriter, r *http.Request) {
		switch n {
		case 0: // cut off in the middle of an event
			sse(w, connected+"id: e-1\n\n", one)
		case 1:
			sse(w, connected+"id: e-1\n\n", one+"id: e-2\n\n", ":\n")
			panic(http.ErrAbortHandler)
		case 2:
			answerJSON(w, 503, `{"error":"Caddy is starting"}`)
		case 3:
			answerJSON(w, 404, `{"error":"there is no hub \"default\""}`)
		case 4: // silent
			sse(w, strings.Replace(connected, "15000", "2000", 1)+"id: e-2\n\n", "id: e-7\n\n")
			<-r.Context().Done()
		case 5:
			sse(w, connected+"\n", "event: sse.gap\ndata: {\"reason\":\"epoch\"}\nid: f-0\n\n",
				"data: {\"id\":\"f-1\",\"stored\":\"2026-01-02T03:04:05Z\",\"all\":true,\"size\":1,\"text\":\"<p>\\u001b\"}\nid: f-1\n\n",
				"data: {\"id\":\"f-2\",\"stored\":\"2026-01-02T03:04:05Z\",\"command\":{\"disconnect\":{}}}\nid: f-2\n\n",
				"data: {\"id\":\"f-3\",\"stored\":\"2026-01-02T03:04:05Z\",\"topic\":[\"a\",\"b\",\"c\",\"d\"],\"replaced\":true}\nid: f-3\n\n",
				"event: sse.closing\ndata: {\"reason\":\"shutdown\",\"retryMs\":1}\n\n")
		default:
			cancel()
		}
	})
	r := execute(t, ctx, nil, "tail", "--user", "a", "--data", "--address", strings.TrimPrefix(a.URL, "http://"))
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC).Local().Format("15:04:05.000")
	want := strings.ReplaceAll(strings.Join([]string{
		`@  e-2  note\x1b[2J       user a, 3 B  {"a":1}`,
		`-- events may be missing here: a new history has begun`,
		`@  f-1  message           all, 1 B  "<p>\u001b"`,
		`@  f-2  (command)         {"disconnect":{}}`,
		`@  f-3  (replaced)        topic a, b, c and 1 more`,
		"",
	}, "\n"), "@", at)
	if r.out != want {
		t.Errorf("printed\n%s\nwant\n%s", r.out, want)
	}
	if !strings.Contains(r.err, "waiting for Caddy at") {
		t.Errorf("it does not say that it waits: %s", r.err)
	}
	asked, _ := a.requests()
	for n, after := range []string{"", "e-1", "e-2", "e-2", "e-2", "e-7", "f-3"} {
		want := "GET /sse/events?data=true&user=a"
		if after != "" {
			want = "GET /sse/events?after=" + after + "&data=true&user=a"
		}
		if asked[n] != want {
			t.Errorf("request %d is %s, want %s", n, asked[n], want)
		}
	}
}

// A tail that cannot begin ends.
func TestTailThatCannotBegin(t *testing.T) {
	for status, code := range map[int]int{400: exitRefused, 404: exitRefused, 503: exitRefused} {
		a := newAPI(t, func(_ int, w http.ResponseWriter, _ *http.Request) {
			answerJSON(w, status, `{"error":"that is why"}`)
		})
		a.execute(t, nil, "tail", "--timeout", "100ms").check(t, code, "", "that is why")
	}
}

// A tail whose output nobody takes ends.
func TestTailWithoutAReader(t *testing.T) {
	a := newAPI(t, func(_ int, w http.ResponseWriter, _ *http.Request) {
		sse(w, connected+"id: e-1\n\n", "data: {\"id\":\"e-2\"}\nid: e-2\n\n")
	})
	root := &cobra.Command{Use: "sse"}
	build(root)
	root.SetArgs([]string{"tail", "--json", "--address", strings.TrimPrefix(a.URL, "http://")})
	root.SetOut(brokenPipe{})
	root.SetErr(io.Discard)
	if err := root.Execute(); !errors.Is(err, errPipe) {
		t.Errorf("it ended with %v", err)
	}
}

var errPipe = errors.New("broken pipe")

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, errPipe }

// Whatever the API says of an event is shown.
func TestWhy(t *testing.T) {
	const answer = `{"summary":"delivered to 1 connection","answers":[{"summary":"c1 has it","fate":"delivered","connection":"c1","lag":2345678,"topics":["a","b"],"none":null,"x":{"y":1}}],"missing":["n2"]}`
	a := newAPI(t, func(_ int, w http.ResponseWriter, _ *http.Request) { answerJSON(w, 200, answer) })
	a.execute(t, nil, "why", "--user", "alice", "--id", "e-1").check(t, 0,
		"delivered to 1 connection\n\nc1 has it\n  connection  c1\n  fate        delivered\n  lag         2345678\n  topics      a, b\n  x           {\"y\":1}\n",
		"1 node did not answer", "n2")
	if asked, _ := a.requests(); asked[0] != "GET /sse/why?id=e-1&user=alice" {
		t.Errorf("asked %q", asked)
	}
	a.execute(t, nil, "why", "--user", "alice", "--id", "e-1", "--data", "--json").check(t, 0, answer+"\n")
	if asked, _ := a.requests(); asked[1] != "GET /sse/why?data=true&id=e-1&user=alice" {
		t.Errorf("asked %q", asked)
	}
}

// Names are the client's: they break no table, and no terminal obeys them.
func TestTablesArePrintable(t *testing.T) {
	a := newAPI(t, func(_ int, w http.ResponseWriter, r *http.Request) {
		since := time.Now().Add(-3 * time.Hour).Format(time.RFC3339)
		answerJSON(w, 200, `{"users":[{"user":"a\u001b[2J\n\tb","connections":1200,"since":"`+since+`"},{"user":"zoë","connections":1,"since":"`+since+`"}],"next":"zoë"}`)
	})
	a.execute(t, nil, "users", "--limit", "2", "--topic", "x", "--topic", "y").check(t, 0,
		"USER           CONNECTIONS  SINCE\n"+`a\x1b[2J\n\tb  1,200        3 hours ago`+"\nzoë            1            3 hours ago\n",
		"continue with --after zoë")
	if asked, _ := a.requests(); asked[0] != "GET /sse/users?limit=2&topic=x&topic=y" {
		t.Errorf("asked %q", asked)
	}
}

// The status says why a store cannot be reached, and why it cannot be written.
func TestStatusOfAStore(t *testing.T) {
	for store, want := range map[string]string{
		`{"kind":"disk","connected":true,"writable":true}`:                                  "disk",
		`{"kind":"nats","connected":false,"writable":false,"problem":"no servers"}`:         "nats: no servers",
		`{"kind":"nats","connected":false,"writable":false}`:                                "nats: not connected",
		`{"kind":"disk","connected":true,"writable":false,"problem":"no space\u001b left"}`: `disk, not writable: no space\x1b left`,
	} {
		a := newAPI(t, func(_ int, w http.ResponseWriter, _ *http.Request) {
			answerJSON(w, 200, `{"version":"v1","node":"web1-7","hubs":{"default":{"store":`+store+`}}}`)
		})
		a.execute(t, nil, "status").check(t, 0, "caddy-sse v1 on web1-7\n\n"+
			"HUB      CONNECTIONS  USERS  EVENTS  SIZE  HEAD  STORE\n"+
			"default  0            0      0       0 B   -     "+want+"\n")
	}
}

// A name or a text that is not UTF-8 is refused, because as JSON it would be another one.
func TestTextMustBeUTF8(t *testing.T) {
	a := newAPI(t, func(_ int, w http.ResponseWriter, _ *http.Request) {
		answerJSON(w, 200, `{"id":"e-1-abcd","connections":1}`)
	})
	for _, args := range [][]string{
		{"send", "--user", "jos\xe9", "1"},
		{"send", "--topic", "a", "--topic", "jos\xe9", "1"},
		{"send", "--user", "a", "--type", "jos\xe9", "1"},
		{"broadcast", "--slot", "jos\xe9", "1"},
		{"broadcast", "--key", "jos\xe9", "1"},
		{"broadcast", "--key", "jos\xe9", "--ndjson", `{"data":1}`},
		{"broadcast", "--text", "jos\xe9"},
	} {
		a.execute(t, nil, args...).check(t, exitRefused, "", "not valid UTF-8")
	}
	if asked, _ := a.requests(); len(asked) > 0 {
		t.Errorf("asked %q", asked)
	}
}

// Connections of several nodes have a column more.
func TestConnectionsOfNodes(t *testing.T) {
	a := newAPI(t, func(_ int, w http.ResponseWriter, _ *http.Request) {
		row := `"user":"alice","protocol":"h2","remote":"192.0.2.7","since":"` + time.Now().Add(-3*time.Hour).Format(time.RFC3339) + `","lag":0}`
		answerJSON(w, 200, `{"count":2,"connections":[{"id":"c1","node":"web1-7",`+row+`,{"id":"c2",`+row+`]}`)
	})
	a.execute(t, nil, "connections").check(t, 0,
		"CONNECTION  USER   SESSION  TOPICS  PROTOCOL  REMOTE     SINCE        LAG  NODE\n"+
			"c1          alice  -        -       h2        192.0.2.7  3 hours ago  0    web1-7\n"+
			"c2          alice  -        -       h2        192.0.2.7  3 hours ago  0    -\n")
}

// Colours are for terminals.
func TestPaint(t *testing.T) {
	if got := (&printer{}).paint(red, "x"); got != "x" {
		t.Errorf("painted %q", got)
	}
	if got := (&printer{colour: true}).paint(red, "x"); got != "\x1b[31mx\x1b[0m" {
		t.Errorf("painted %q", got)
	}
	var line bytes.Buffer
	p := &progress{printer: &printer{Writer: &line, terminal: true}, began: time.Now()}
	if err := p.add([]byte("{\"id\":\"e-1\",\"duplicate\":true}\n{\"id\":\"e-2\"}\n")); err != nil {
		t.Fatal(err)
	}
	p.end()
	if got := line.String(); !strings.HasPrefix(got, "\r\x1b[K2 events (1 of them published before), ") || !strings.HasSuffix(got, "\r\x1b[K") {
		t.Errorf("progress %q", got)
	}
}
