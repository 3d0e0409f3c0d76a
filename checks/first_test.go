package checks

import (
	"bufio"
	"io"
	"net/http"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
)

// TestFirstEvent follows docs/deploying.md for compose, with the config and the ports of the image: a client,
// a publish, and the health check.
func TestFirstEvent(t *testing.T) {
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt(read(t, "deploy/Caddyfile"), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		t.Fatal(err)
	}
	if err := caddy.Load(adapted, true); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			t.Error(err)
		}
	})
	_, page, ok := strings.Cut(string(read(t, "docs/deploying.md")), "\n## Compose\n")
	commands := regexp.MustCompile("(?m)^```sh\n(curl .*)\n```").FindAllStringSubmatch(page, -1)
	if !ok || len(commands) != 2 {
		t.Fatalf("the page has the commands %q", commands)
	}
	client := exec.CommandContext(t.Context(), "sh", "-c", "exec "+commands[0][1])
	out, err := client.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = client.Process.Kill()
		_ = client.Wait()
	})
	lines := bufio.NewScanner(out)
	expect := func(want string) {
		t.Helper()
		for lines.Scan() {
			if lines.Text() == want {
				return
			}
		}
		t.Fatalf("the client's output ended before %q", want)
	}
	expect("event: sse.connected")
	if answer, err := exec.Command("sh", "-c", commands[1][1]+" -sS --fail-with-body").CombinedOutput(); err != nil || !strings.Contains(string(answer), `"connections":1`) {
		t.Errorf("%v: %s", err, answer)
	}
	expect("event: hello")
	expect(`data: {"from":"the back end"}`)

	// Another container knows this one by another name.
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://localhost:8080/ready", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "caddy:8080"
	other, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Body.Close()
	if body, err := io.ReadAll(other.Body); err != nil || !strings.Contains(string(body), `{"ready":true}`) {
		t.Errorf("%s, %v: %s", other.Status, err, body)
	}

	check := readDockerfile(t).check
	resp, err := http.Get(check[len(check)-1])
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("the health check: %s", resp.Status)
	}
}
