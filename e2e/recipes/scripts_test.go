package recipes

import (
	"bufio"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"testing"

	"github.com/ea766355/caddy-sse/e2e"
)

// script runs the script of a page in Node, whose EventSource has no cookie, after a
// prelude that says what a browser has. What it prints is compared by expect; ends
// waits for its end.
func script(t *testing.T, site, prelude, text string) (expect func(want string), ends func()) {
	t.Helper()
	for _, quote := range []string{`"`, "`"} {
		text = strings.ReplaceAll(text, quote+"/events", quote+site+"/events")
		text = strings.ReplaceAll(text, quote+"/runs", quote+site+"/runs")
	}
	cmd := exec.Command("node", "--experimental-eventsource", "--input-type=commonjs", "-e", `
		const dns = require("node:dns"), lookup = dns.lookup;
		dns.lookup = (host, ...rest) => lookup("127.0.0.1", ...rest);
	`+prelude+text)
	cmd.Env = append(cmd.Environ(), "NODE_TLS_REJECT_UNAUTHORIZED=0")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	lines := make(chan string)
	go func() {
		scanner := bufio.NewScanner(io.LimitReader(out, 1<<20))
		for scanner.Scan() {
			lines <- scanner.Text()
		}
		close(lines)
		_ = cmd.Wait() // it may be killed
		close(exited)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		for range lines {
		}
		<-exited
		if t.Failed() {
			t.Logf("node said: %s", log.String())
		}
	})
	next := func(want string) (line string, ok bool) {
		t.Helper()
		e2e.Wait(t, e2e.Patience, fmt.Sprintf("the page to say %q", want), func() error {
			select {
			case line, ok = <-lines:
				return nil
			default:
				return fmt.Errorf("nothing yet")
			}
		})
		return line, ok
	}
	expect = func(want string) {
		t.Helper()
		if line, ok := next(want); !ok || line != want {
			t.Fatalf("the page says %q, want %q", line, want)
		}
	}
	ends = func() {
		t.Helper()
		if line, ok := next("nothing more"); ok {
			t.Errorf("the page says %q, and not nothing", line)
		}
	}
	return expect, ends
}
