package recipes

import (
	"bufio"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/ea766355/caddy-sse/e2e"
)

// TestCommandPage runs the commands of docs/command.md, and compares their output with that of the
// page.
func TestCommandPage(t *testing.T) {
	left := recipes(t, "command.md")
	s := e2e.Start(t, e2e.Config{Stream: "topics room/*"})
	base := fmt.Sprintf("http://127.0.0.1:%d", s.HTTP)
	alice := visitor{t: t, base: base}.open("/events?topic=room/1", "alice", "X-User", "alice")

	shell := terminal(t, s, left)
	run := func(name string) string {
		t.Helper()
		out, err := shell(name).Output()
		if err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
		return string(out)
	}
	compare := func(name, out string) {
		t.Helper()
		if got, want := common(out), common(take(t, left, name+"_output")); got != want {
			t.Errorf("output of %s: got\n%s\nwant that of the page\n%s", name, got, want)
		}
	}

	// follow starts a command that does not end, and returns its lines.
	follow := func(name string) <-chan string {
		t.Helper()
		cmd := shell(name)
		cmd.Args[2] = "exec " + cmd.Args[2]
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines, ended := make(chan string, 100), make(chan struct{})
		go func() {
			defer close(ended)
			for scanner := bufio.NewScanner(out); scanner.Scan(); {
				lines <- scanner.Text() + "\n"
			}
		}()
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			<-ended
			_ = cmd.Wait()
		})
		return lines
	}
	// The tail begins at an unknown moment, so events are published until it shows one.
	lines := follow("tail")
	send := take(t, left, "send")
	left["send"] = send
	printed := run("send")
	compare("send", printed)
	sent, _, _ := strings.Cut(printed, " ")
	alice.expect("order_update", `{"orderId":"123","status":"shipped"}`)
	e2e.Wait(t, e2e.Patience, "the tail to show an event", func() error {
		select {
		case line := <-lines:
			compare("tail", line)
			return nil
		default:
			left["send"] = send
			run("send")
			alice.expect("order_update", `{"orderId":"123","status":"shipped"}`)
			return fmt.Errorf("nothing yet")
		}
	})
	run("address")
	backendOf(t, s).waitWritten()
	compare("status", run("status"))
	compare("connections", run("connections"))
	run("text")
	alice.expect("", "<p>The price is now 17.</p>")
	alice.expect("maintenance", `{"at":"22:00"}`)
	if out := run("ndjson"); out != "3 events in 1 batch\n" {
		t.Errorf("output of ndjson: got %s, want 3 events in 1 batch", out)
	}
	alice.expect("price", "1")
	alice.expect("price", "2")
	backendOf(t, s).waitWritten()
	select {
	case line := <-follow("filters"):
		if !strings.Contains(line, `"type":"price"`) {
			t.Errorf("output of filters: got %s, want a price", line)
		}
	case <-time.After(e2e.Patience):
		t.Error("output of filters: got nothing, want a price")
	}
	left["why"] = strings.Replace(take(t, left, "why"), "3kq9x2mf-1042-x7d2", sent, 1)
	if out := run("why"); !strings.Contains(out, "delivered") && !strings.Contains(out, "written to") {
		t.Errorf("why prints %s", out)
	}
	if out := run("script"); out != "" {
		t.Errorf("output of script with a user in the room: got %s, want nothing", out)
	}
	if out := run("disconnect"); out != "1 connection ended\n" {
		t.Errorf("output of disconnect: got %s, want 1 connection ended", out)
	}
	wantAllTaken(t, left)
}

// common replaces the parts of a text that differ from run to run. The id of a connection comes
// first, because it may look like a position.
func common(text string) string {
	for _, r := range []struct{ pattern, with string }{
		{`[0-9a-f]{8}-[0-9a-f-]{27}`, "CONNECTION"},
		{`[a-z0-9]{8}-\d+-[0-9a-z]{4}`, "POSITION"},
		{`caddy-sse \S+ on \S+`, "VERSION"},
		{`(\d{4}-\d\d-\d\d )?\d\d:\d\d:\d\d\.\d+`, "TIME"},
		{`now|\d+ (second|minute)s? ago`, "AGO"},
		{`[\d.,]+ (B|KiB)\b`, "SIZE"},
		{` +`, " "},
		{`default 1 1 \d+ SIZE`, "default"},
	} {
		text = regexp.MustCompile(r.pattern).ReplaceAllString(text, r.with)
	}
	return text
}
