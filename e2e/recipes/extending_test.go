package recipes

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ea766355/caddy-sse/e2e"
)

// TestExtending: the programs of the page run, and its store passes storetest.
func TestExtending(t *testing.T) {
	page := recipes(t, "extending.md")
	run := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
			t.Errorf("go %s: %v\n%s", args, err, out)
		}
	}
	dir := t.TempDir()
	run("run", write(t, dir, "publish.go", frame(t, "extending.go.txt", "// RECIPE\n", take(t, page, "publish")+take(t, page, "provision"))))

	// A module of its own is built with a checkout, as go.mod says.
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	mod := strings.Replace(take(t, page, "replace"), "../caddy-sse", root, 1)
	of, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	sums, err := os.ReadFile(filepath.Join(root, "go.sum"))
	if err != nil {
		t.Fatal(err)
	}
	other := t.TempDir()
	write(t, other, "go.sum", string(sums))
	write(t, other, "go.mod", strings.Replace(string(of), "module github.com/ea766355/caddy-sse\n", "module example.com/notifier\n"+mod, 1))
	write(t, other, "main.go", "package main\n\nimport _ \"github.com/ea766355/caddy-sse\"\n\nfunc main() {}\n")
	list := exec.Command("go", "list", "-deps", "-mod=mod", "-f", "{{.Dir}}", ".")
	list.Dir = other
	if out, err := list.CombinedOutput(); err != nil || !strings.Contains(string(out), root+"/hub\n") {
		t.Errorf("%v: %s", err, out)
	}

	// The test uses a store in memory instead of that of the page.
	contract := take(t, page, "contract")
	if !strings.Contains(contract, "Durable: true") {
		t.Errorf("contract: got one of a store that is not durable, want Durable: true:\n%s", contract)
	}
	contract = strings.Replace(contract, "Durable: true", "Local: true", 1)
	run("test", write(t, dir, "module.go", take(t, page, "module")),
		write(t, dir, "contract_test.go", contract+"\nfunc open(table, hubName string) (hub.Store, error) { return hub.NewMemory(), nil }\n"),
	)

	program := filepath.Join(dir, "alone")
	run("build", "-o", program, write(t, dir, "alone.go", take(t, page, "alone")))
	wantAllTaken(t, page)
	port := e2e.FreePort(t)
	launch(t, port, program, fmt.Sprintf("127.0.0.1:%d", port))
	v := visitor{t: t, base: fmt.Sprintf("http://127.0.0.1:%d", port)}
	hello := func() {
		t.Helper()
		resp, err := http.Post(v.base+"/hello?user=alice", "text/plain", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Fatal(resp.Status)
		}
	}
	s := v.open("/events?user=alice", "alice")
	hello()
	id := s.id()
	s.close()
	hello()
	s = v.open("/events?user=alice", "alice", "Last-Event-ID", id)
	s.expect("", "hello")
	s.close()
}
