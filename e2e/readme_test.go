package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestReadmeCommands runs the commands of the README's first screen unchanged, on their ports,
// and compares the output with that in the README.
func TestReadmeCommands(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	find := func(pattern string) string {
		t.Helper()
		m := regexp.MustCompile(pattern).FindSubmatch(readme)
		if m == nil {
			t.Fatalf("the README has nothing like %q any more", pattern)
		}
		return string(m[1])
	}
	start := find(`(?m)^(go run \./cmd/caddy run --config Caddyfile\.example)\b`)
	test := find(`(?m)^(make test)\b`)
	push := find("(?m)^(curl localhost:2019/sse/send [^`]*?'\\{.*\\}')$")
	receipt := find("(?m)^(\\{\"id\":.*\\})$")
	arrives := find("(?s)\n```\n(event: .*?id: .*?)\n```")
	read := find("`(curl -N -u [^`]*)`")

	// This test runs in make test.
	if out, err := shell(t, test+" --dry-run").CombinedOutput(); err != nil {
		t.Errorf("%s: %v\n%s", test, err, out)
	}

	for _, addr := range []string{"localhost:2019", "localhost:8080"} {
		Wait(t, Patience, addr+", which the README names, to be free", func() error {
			conn, err := net.Dial("tcp", addr)
			if err != nil {
				return nil
			}
			conn.Close()
			return errors.New("something listens there")
		})
	}
	server := shell(t, start)
	var log bytes.Buffer
	server.Stdout, server.Stderr = &log, &log
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		_ = server.Wait()
	}()
	defer func() {
		// A signal to go would not end the process that go runs.
		if resp, err := http.Post("http://localhost:2019/stop", "", nil); err != nil {
			t.Error(err)
			_ = server.Process.Kill()
		} else {
			resp.Body.Close()
		}
		<-exited
		if t.Failed() {
			t.Logf("%s", log.Bytes())
		}
	}()
	Wait(t, 2*Patience, start, func() error {
		resp, err := http.Get("http://localhost:8080/events")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusUnauthorized {
			return errors.New(resp.Status)
		}
		return nil
	})

	reader := shell(t, "exec "+read+" -sS")
	out, err := reader.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := reader.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = reader.Process.Kill()
		_ = reader.Wait()
	}()
	lines := bufio.NewScanner(out)
	block := func() string {
		t.Helper()
		var b []string
		for lines.Scan() && lines.Text() != "" {
			b = append(b, lines.Text())
		}
		if err := lines.Err(); err != nil {
			t.Fatal(err)
		}
		return strings.Join(b, "\n")
	}
	if first := block(); !strings.Contains(first, `"user":"alice"`) {
		t.Errorf("the stream begins with %s", first)
	}
	answer, err := shell(t, push+" -sS").Output()
	if err != nil {
		t.Fatalf("%s: %v", push, err)
	}
	var got, want map[string]any
	if err := json.Unmarshal(answer, &got); err != nil {
		t.Fatalf("%s: %v", answer, err)
	}
	if err := json.Unmarshal([]byte(receipt), &want); err != nil {
		t.Fatalf("%s: %v", receipt, err)
	}
	id := fmt.Sprint(got["id"])
	got["id"], want["id"] = nil, nil
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the push was answered with %s, not as in the README, %s", answer, receipt)
	}
	arrives = regexp.MustCompile(`(?m)^id: .*$`).ReplaceAllString(arrives, "id: "+id)
	if event := block(); event != arrives {
		t.Errorf("what arrived is\n%s\nnot\n%s", event, arrives)
	}
}

// shell returns a command of the README. It runs at the module's root and leaves no files.
func shell(t *testing.T, command string) *exec.Cmd {
	t.Helper()
	goenv, err := exec.Command("go", "env", "GOENV").Output()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cmd := exec.Command("sh", "-c", command)
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "XDG_DATA_HOME="+filepath.Join(dir, "data"),
		"XDG_CONFIG_HOME="+filepath.Join(dir, "config"), "GOENV="+strings.TrimSpace(string(goenv)))
	return cmd
}
