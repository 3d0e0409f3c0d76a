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

// TestReadmeCommands runs the commands of the README for the first three minutes, on the ports
// that it names, and compares their output with the README.
func TestReadmeCommands(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	find := func(pattern string) string {
		t.Helper()
		m := regexp.MustCompile(pattern).FindSubmatch(readme)
		if m == nil {
			t.Fatalf("README: got nothing that matches %q, want it", pattern)
		}
		return string(m[1])
	}
	build := find(`(?m)^(go build -o caddy \./cmd/caddy)$`)
	caddyfile := find("(?s)\n```caddyfile\n(.*?)```\n")
	start := find(`(?m)^(\./caddy run)$`)
	push := find("(?m)^(curl localhost:2019/sse/send [^`]*?'\\{.*\\}')$")
	receipt := find("(?m)^(\\{\"id\":.*\\})$")
	arrives := find("(?s)\n```text\n(event: .*?id: .*?)\n```")
	read := find("(?m)^(curl -N -u .*)$")
	page := find("<(http://localhost:8080/.*?)> shows the stream")

	// The program and the Caddyfile are in another folder, so the checkout does not change.
	dir := t.TempDir()
	if out, err := shell(t, "..", strings.Replace(build, "-o caddy", "-o "+filepath.Join(dir, "caddy"), 1)).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", build, err, out)
	}
	if err := os.WriteFile(filepath.Join(dir, "Caddyfile"), []byte(caddyfile), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, addr := range []string{"localhost:2019", "localhost:8080"} {
		Wait(t, Patience, addr+" of the README to be free", func() error {
			conn, err := net.Dial("tcp", addr)
			if err != nil {
				return nil
			}
			conn.Close()
			return errors.New("something listens there")
		})
	}
	server := shell(t, dir, "exec "+start)
	var log bytes.Buffer
	server.Stdout, server.Stderr = &log, &log
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		_ = server.Wait() // the log has the result
	}()
	defer func() {
		_ = server.Process.Signal(os.Interrupt) // unless it has ended
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

	reader := shell(t, dir, "exec "+read+" -sS")
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
		t.Errorf("first block: got %s, want one of alice", first)
	}
	answer, err := shell(t, dir, push+" -sS").Output()
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
		t.Errorf("receipt: got %s, want that of the README, %s", answer, receipt)
	}
	arrives = regexp.MustCompile(`(?m)^id: .*$`).ReplaceAllString(arrives, "id: "+id)
	if event := block(); event != arrives {
		t.Errorf("event: got\n%s\nwant\n%s", event, arrives)
	}
	req, err := http.NewRequest(http.MethodGet, page, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth("alice", "wonderland")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK || !strings.HasSuffix(resp.Request.URL.Path, "/sse-test/") {
		t.Errorf("%s: %s", page, resp.Status)
	}
}

// shell prepares a command of the README to run in a folder without leaving files elsewhere.
func shell(t *testing.T, dir, command string) *exec.Cmd {
	t.Helper()
	goenv, err := exec.Command("go", "env", "GOENV").Output()
	if err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	cmd := exec.Command("sh", "-c", command)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "XDG_DATA_HOME="+filepath.Join(home, "data"),
		"XDG_CONFIG_HOME="+filepath.Join(home, "config"), "GOENV="+strings.TrimSpace(string(goenv)))
	return cmd
}
