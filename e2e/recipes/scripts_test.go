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

// script runs the script of a page in Node, whose EventSource has no cookie. The prelude defines
// what a browser has. expect checks the next line of output, and ends waits for the end of the
// script.
func script(t *testing.T, site, prelude, text string) (expect func(want string), waitForEnd func()) {
	t.Helper()
	for _, quote := range []string{`"`, "`"} {
		text = strings.ReplaceAll(text, quote+"/events", quote+site+"/events")
		text = strings.ReplaceAll(text, quote+"/runs", quote+site+"/runs")
		text = strings.ReplaceAll(text, quote+"/api/", quote+site+"/api/")
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
		_ = cmd.Wait() // the test may have killed it
		close(exited)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		for range lines {
		}
		<-exited
		if t.Failed() {
			t.Logf("output of node: %s", log.String())
		}
	})
	next := func(want string) (line string, ok bool) {
		t.Helper()
		e2e.Wait(t, e2e.Patience, fmt.Sprintf("the page to print %q", want), func() error {
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
			t.Fatalf("line of the page: got %q, want %q", line, want)
		}
	}
	waitForEnd = func() {
		t.Helper()
		if line, ok := next("nothing more"); ok {
			t.Errorf("line of the page: got %q, want none", line)
		}
	}
	return expect, waitForEnd
}
