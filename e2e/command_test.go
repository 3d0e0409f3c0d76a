package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// outcome is the output and the exit code of a command.
type outcome struct {
	out, err string
	code     int
}

// runCommand runs a command and waits for its end.
func runCommand(t testing.TB, cmd *exec.Cmd, stdin string) outcome {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // ProcessState has the result
	return outcome{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

// check compares the output of a command with patterns.
func (o outcome) check(t testing.TB, what string, code int, out, errs string) {
	t.Helper()
	if o.code != code || !regexp.MustCompile("(?s)^"+out+"$").MatchString(o.out) || !regexp.MustCompile("(?s)"+errs).MatchString(o.err) {
		t.Errorf("%s: got exit code %d, want %d\ngot output %s\nwant       %s\ngot errors %s\nwant       %s", what, o.code, code, o.out, out, o.err, errs)
	}
}

const positions = `[a-z2-7]{8}-\d+-[0-9a-z]{4}`

// TestCommands: every command prints its output and errors, and has its exit code.
func TestCommands(t *testing.T) {
	s := Start(t, Config{Global: "sse chat"})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/events", s.HTTP), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header = http.Header{"X-User": {"alice"}, "X-Session": {"secret"}}
	alice, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer alice.Body.Close()
	file := s.Path("payload.html")
	if err := os.WriteFile(file, []byte("<p>\n</p>"), 0o600); err != nil {
		t.Fatal(err)
	}
	id := `[0-9a-f-]{36}`
	for _, test := range []struct {
		args      string
		stdin     string
		code      int
		out, errs string
	}{
		{"status", "", 0, `caddy-sse \S+ on \S+\n\nHUB +CONNECTIONS +USERS +EVENTS +SIZE +HEAD +STORE\nchat +0 +0 .*\ndefault +1 +1 +0 +0 B +` + `\S+ +memory\n`, ""},
		{"status --hub chat --json", "", 0, `\{"version":.*"chat":\{.*\n`, ""},
		{"status --hub nope", "", 1, "", `Error: unknown hub "nope" \(available: chat, default\)`},
		{"connections", "", 0, `CONNECTION +USER +SESSION .*\n` + id + ` +alice +2bb80d537b1da3e38bd30361aa855686 +\S+.* +h1 +127.0.0.1 +(now|\d+ (second|minute)s? ago) +0\n`, ""},
		{"connections --user alice --json", "", 0, `\{"count":1,"connections":\[\{"id".*\n`, ""},
		{"connections --user bob", "", 4, "", "Error: nothing matched"},
		{"connections --user bob --json", "", 4, `\{"count":0,.*\n`, "Error: nothing matched"},
		{"connections --limit 5000", "", 1, "", `invalid limit "5000": it must be a number from 1 to 1000`},
		{"users", "", 0, `USER +CONNECTIONS +SINCE\nalice +1 .*\n`, ""},
		{"users --hub chat", "", 4, "", "nothing matched"},
		{`send --user alice --type note {"a":1}`, "", 0, positions + "  to 1 connection\n", ""},
		{`send --user alice --json --key k 1`, "", 0, `\{"id":"` + positions + `","connections":1\}\n`, ""},
		{`send --user alice --key k 1`, "", 0, positions + "  to 1 connection; published before, with the same key\n", ""},
		{`send --user bob --ttl 1m --slot s 1`, "", 0, positions + "  to no open connection\n", ""},
		{"send --topic news/1 --text @" + file, "", 0, positions + "  to 1 connection\n", ""},
		{"send --session secret -", `{"b":2}`, 0, positions + "  to 1 connection\n", ""},
		{"broadcast --hub chat --text -", "x", 0, positions + "  to no open connection\n", ""},
		{"send --user alice hello", "", 1, "", "Error: the payload is not JSON: .*; use --text to send a text"},
		{"send --user alice", "", 1, "", "no payload given: give it as an argument, as @file, or as - for standard input"},
		{"send --user alice @/nowhere", "", 1, "", "opening the payload @/nowhere: .*no such file"},
		{"send --user alice --topic x 1", "", 1, "", "exactly one of --user, --topic, --session and --connection \\(got 2\\)"},
		{"send --user alice --ttl soon 1", "", 1, "", `invalid ttl "soon": it must be a duration`},
		{"send --users alice 1", "", 1, "", "unknown flag: --users"},
		{"broadcast --user alice 1", "", 1, "", "unknown flag: --user"},
		{"statsu", "", 1, "", `unknown command "statsu" \(available: broadcast, connections, disconnect, send, status, tail, users, why\)`},
		{"why --user alice", "", 1, "", "why needs --id"},
		{"broadcast --ndjson -", "\n" + `{"text":"1"}` + "\n\n" + `{"text":"2","type":"t"}` + "\n", 0, "2 events in 1 batch\n", ""},
		{"broadcast --ndjson --json -", `{"text":"3"}` + "\n" + `{"text":"4"}` + "\n", 0, `(\{"id":"` + positions + `","connections":1\}\n){2}`, ""},
		{"broadcast --ndjson -", "\n" + `{"text":"1"}` + "\n\n" + `{"text":2}` + "\n", 1, "", "Error: line 4: invalid text 2: it must be a string"},
		{"broadcast --ndjson -", `{"text":"1"}` + "\n[]\n", 1, "", `Error: line 2 is not a JSON object: "\[\]"; .*before it 1 event was published; repeat the command with --key \S+ within`},
		{"broadcast --ndjson -", "\n", 1, "", "the payload has no event"},
		{"send --ndjson --user alice -", `{"topic":"news/2","text":"of its own"}` + "\n" + `{"text":"mine"}`, 0, `2 events in \d batch(es)?\n`, ""},
		{"disconnect", "", 1, "", "say which connections end"},
		{"disconnect --user alice --all", "", 1, "", "say which connections end"},
		{"disconnect 123 --user alice", "", 1, "", "give either one connection"},
		{"disconnect 123", "", 4, "", `nothing matched: no open connection has the id "123"`},
		{"disconnect --user bob", "", 4, "0 connections ended\n", "nothing matched"},
		{"disconnect --user alice --session 2bb80d537b1da3e38bd30361aa855686", "", 0, "1 connection ended\n", ""},
	} {
		runCommand(t, s.SSE(strings.Fields(test.args)...), test.stdin).check(t, test.args, test.code, test.out, test.errs)
	}
	var sent struct{ ID string }
	o := runCommand(t, s.SSE("send", "--user", "alice", "--json", `{"secret":1}`), "")
	if err := json.Unmarshal([]byte(o.out), &sent); err != nil {
		t.Fatalf("%v: %+v", err, o)
	}
	runCommand(t, s.SSE("why", "--user", "alice", "--id", sent.ID), "").check(t, "why", 0, `[^{]+\n.*  user +alice\n.*`, "")
	runCommand(t, s.SSE("why", "--user", "alice", "--id", sent.ID, "--data"), "").check(t, "why with data", 0, `.*\{"secret":1\}\n.*`, "")
	runCommand(t, s.SSE("why", "--user", "alice", "--id", "x"), "").check(t, "why without an event", 1, "", "invalid id \"x\": give the id of one event")

	stream, err := io.ReadAll(alice.Body) // the disconnect has ended it
	if err != nil {
		t.Fatal(err)
	}
	var data []string
	for line := range strings.Lines(string(stream)) {
		if payload, ok := strings.CutPrefix(strings.TrimSpace(line), "data: "); ok {
			data = append(data, payload)
		}
	}
	want := `{"a":1}|1|<p>|</p>|{"b":2}|1|2|3|4|1|of its own|mine` // the last 1 comes from the line before an invalid one
	if got := strings.Join(data[1:len(data)-1], "|"); got != want {
		t.Errorf("received data: got %s, want %s", got, want)
	}
}

// TestCommandReachesCaddy: the command finds Caddy by its address, by its config and over a
// socket. Without Caddy the error has the remedy.
func TestCommandReachesCaddy(t *testing.T) {
	dir, err := os.MkdirTemp("", "sse") // its path must be short
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	socket := "unix/" + filepath.Join(dir, "admin.sock")
	s := Start(t, Config{Global: "admin " + socket + "|0220"})
	bare := func(args ...string) outcome {
		cmd := s.SSE()
		cmd.Args = append(cmd.Args[:2], args...) // without the config
		return runCommand(t, cmd, "")
	}
	for name, o := range map[string]outcome{
		"by the config":                        runCommand(t, s.SSE("status"), ""),
		"by the address":                       bare("status", "--address", socket),
		"by the address, with its permissions": bare("status", "--address", socket+"|0220"),
	} {
		o.check(t, name, 0, `caddy-sse .*default .*`, "")
	}
	runCommand(t, s.SSE("send", "--user", "alice", "1"), "").check(t, "send", 0, positions+".*\n", "")
	tail := startTail(t, s, "--after", "earliest")
	tail.await(1)
	tail.stop()
	s.Terminate(Patience)

	began := time.Now()
	bare("status", "--address", socket).check(t, "a socket without a server", 5, "", "Error: Caddy cannot be reached at "+regexp.QuoteMeta(socket)+": .*; start it with `caddy run`, or give its admin endpoint with --address or its config with --config")
	bare("tail", "--address", fmt.Sprintf("localhost:%d", FreePort(t))).check(t, "a port without a server", 5, "", "connection refused")
	bare("send", "--user", "a", "1", "--address", "localhost:99999").check(t, "a wrong port", 1, "", "invalid address \"localhost:99999\"")
	bare("status", "--config", "/nowhere/Caddyfile").check(t, "no config", 1, "", "/nowhere/Caddyfile")
	if took := time.Since(began); took > Patience/2 {
		t.Errorf("time of the refusals: got %s, want at most %s", took, Patience/2)
	}
}

// tailing is a running `caddy sse tail --json`.
type tailing struct {
	t   testing.TB
	cmd *exec.Cmd

	mu    sync.Mutex
	lines []string
	ended chan struct{}
}

func startTail(t testing.TB, s *Server, args ...string) *tailing {
	t.Helper()
	tail := &tailing{t: t, cmd: s.SSE(append([]string{"tail", "--json"}, args...)...), ended: make(chan struct{})}
	out, err := tail.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	tail.cmd.Stderr = os.Stderr
	if err := tail.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(tail.ended)
		lines := bufio.NewScanner(out)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			tail.mu.Lock()
			tail.lines = append(tail.lines, lines.Text())
			tail.mu.Unlock()
		}
		_ = tail.cmd.Wait() // it is killed
	}()
	t.Cleanup(tail.stop)
	return tail
}

func (l *tailing) stop() {
	_ = l.cmd.Process.Kill()
	<-l.ended
}

// await waits for n lines and returns them.
func (l *tailing) await(n int) (lines []string) {
	l.t.Helper()
	Wait(l.t, 4*Patience, fmt.Sprintf("%d lines of the tail", n), func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		if lines = l.lines; len(lines) < n {
			return fmt.Errorf("got %d", len(lines))
		}
		return nil
	})
	return lines
}

// TestTailLosesNothing publishes 10,000 lines through standard input while the server is
// reloaded and killed. The tail prints each event once and in order.
func TestTailLosesNothing(t *testing.T) {
	const total, slice = 10_000, 1000
	config := Config{Hub: "history 20000\n store disk"}
	s := Start(t, config)
	runCommand(t, s.SSE("broadcast", "0"), "").check(t, "the first", 0, ".*", "")
	tail := startTail(t, s, "--data", "--after", "earliest")
	tail.await(1)

	send := s.SSE("send", "--topic", "news/1", "--ndjson", "--timeout", "2m", "-")
	in, err := send.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var output, errors bytes.Buffer
	send.Stdout, send.Stderr = &output, &errors
	if err := send.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = send.Process.Kill() }()
	for from := 1; from <= total; from += slice {
		// A line counts as written once the pipe has it, so most lines are still in flight.
		var lines strings.Builder
		for n := from; n < from+slice; n++ {
			fmt.Fprintf(&lines, "{\"data\":%d}\n", n)
		}
		if _, err := io.WriteString(in, lines.String()); err != nil {
			t.Fatalf("%v: %s", err, &errors)
		}
		switch from / slice % 3 {
		case 1:
			config.Stream = fmt.Sprintf("heartbeat %ds", from)
			if err := s.Reload(config); err != nil {
				t.Fatal(err)
			}
		case 2:
			tail.await(from / 2) // it has passed the beginning
			s.Kill()
			s.Run()
		}
	}
	in.Close()
	if err := send.Wait(); err != nil {
		t.Fatalf("%v: %s", err, &errors)
	}
	if !regexp.MustCompile(`^10,000 events( \([\d,]+ of them published before\))? in \d+ batches\n$`).MatchString(output.String()) {
		t.Errorf("output: got %q, want 10,000 events", &output)
	}
	t.Logf("%s", &output)
	lines := tail.await(total + 1)
	for n, line := range lines {
		var e struct{ Data *int }
		if err := json.Unmarshal([]byte(line), &e); err != nil || e.Data == nil || *e.Data != n {
			t.Fatalf("line %d of the tail: got %s, want the data %d", n, line, n)
		}
	}
	if len(lines) != total+1 {
		t.Errorf("lines of the tail: got %d, want %d", len(lines), total+1)
	}

	// The history in memory is another one, which the tail reports as a gap.
	s.Terminate(Patience)
	s.Configure(Config{})
	s.Run()
	runCommand(t, s.SSE("broadcast", "1"), "").check(t, "the last", 0, ".*", "")
	lines = tail.await(total + 3)
	if !strings.HasPrefix(lines[total+1], `{"gap":"epoch","id":"`) || !strings.Contains(lines[total+2], `"data":1`) {
		t.Errorf("lines after another history began: got %q, want a gap and an event", lines[total+1:])
	}
}

// TestEventsDoNotDelayTheExit: a server without clients ends quickly while operators follow it at
// both endpoints, even if one of them reads nothing. Before that, the stream outlives the write
// timeout of the admin endpoint.
func TestEventsDoNotDelayTheExit(t *testing.T) {
	s := Start(t, Config{NoSSE: true, Routes: "sse_api /sse/*"})
	var streams []*bufio.Reader
	for _, port := range []int{s.Admin, s.HTTP, s.Admin} {
		ctx, cancel := context.WithTimeout(t.Context(), 2*Patience)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/sse/events?data=true", port), nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		streams = append(streams, bufio.NewReader(resp.Body))
	}
	next := func(stream *bufio.Reader, want string) {
		t.Helper()
		for {
			line, err := stream.ReadString('\n')
			if err != nil {
				t.Fatalf("the stream ended before %q: %v", want, err)
			}
			if strings.HasPrefix(line, want) {
				return
			}
		}
	}
	for _, stream := range streams[:2] {
		next(stream, ":") // after 15 s
	}
	large := `{"text":"` + strings.Repeat("x", 1<<20-100) + `"}`
	for range 20 {
		resp, err := http.Post(fmt.Sprintf("http://127.0.0.1:%d/sse/broadcast", s.Admin), "application/json", strings.NewReader(large))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	for _, stream := range streams[:2] {
		for range 20 {
			next(stream, "id: ")
		}
	}
	s.Terminate(8 * time.Second)
	for _, stream := range streams[:2] {
		next(stream, "event: sse.closing")
	}
}

// TestCommandHelp: completion and man pages have the commands.
func TestCommandHelp(t *testing.T) {
	dir := t.TempDir()
	o := runCommand(t, exec.Command(command, "manpage", "--directory", dir), "")
	if o.code != 0 {
		t.Fatalf("manpage: %+v", o)
	}
	for _, name := range []string{"status", "send", "broadcast", "connections", "users", "disconnect", "tail", "why"} {
		page, err := os.ReadFile(filepath.Join(dir, "caddy-sse-"+name+".8"))
		if err != nil || !strings.Contains(string(page), `--address`) {
			t.Errorf("man page of %s: got %v %s, want one with --address", name, err, page)
		}
	}
	runCommand(t, exec.Command(command, "completion", "bash"), "").check(t, "completion", 0, ".*__complete.*", "")
	runCommand(t, exec.Command(command, "__complete", "sse", "s"), "").check(t, "what is completed", 0, "send\t.*\nstatus\t.*", "")
	runCommand(t, exec.Command(command, "__complete", "sse", "tail", "--ty"), "").check(t, "a flag that is completed", 0, "--type\t.*", "")
	runCommand(t, exec.Command(command, "sse", "--help"), "").check(t, "help", 0, ".*Exit codes:.*nothing matched.*", "")
	runCommand(t, exec.Command(command, "sse"), "").check(t, "help", 0, ".*Exit codes:.*Available Commands:.*", "")
}
