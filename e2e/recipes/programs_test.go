package recipes

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/ea766355/caddy-sse/e2e"
)

// served matches the sites in the result of localize.
var served = regexp.MustCompile(`(?m)^(https://(?:\w+\.)?example\.com:\d+) \{$`)

// defaultHub matches the options of the default hub in global options.
var defaultHub = regexp.MustCompile(`(?ms)^\tsse \{\n(.*?)^\t\}`)

// serve starts a Caddy with these sites, and waits until each site has its certificate.
func serve(t *testing.T, globals, text string) backend {
	t.Helper()
	config := e2e.Config{Global: "local_certs\n" + globals, Sites: text}
	if m := defaultHub.FindStringSubmatch(globals); m != nil { // e2e.Start writes the options of the default hub itself
		config.Global, config.Hub = strings.Replace(config.Global, m[0], "", 1), m[1]
	}
	s := e2e.Start(t, config)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the end of Caddy's log:\n%s", s.Tail())
		}
	})
	for _, m := range served.FindAllStringSubmatch(text, -1) {
		e2e.Wait(t, e2e.Patience, m[1]+" to answer", func() error {
			resp, err := visitor{t: t, base: m[1]}.get("/nothing")
			if err == nil {
				resp.Body.Close()
			}
			return err
		})
	}
	return backendOf(t, s)
}

// terminal returns a function that prepares a command of a page to run on the machine of the
// server. The pairs are texts and their replacements in the commands.
func terminal(t *testing.T, s *e2e.Server, left map[string]string, pairs ...string) (shell func(name string) *exec.Cmd) {
	t.Helper()
	bin := t.TempDir()
	if err := os.Symlink(s.SSE().Path, filepath.Join(bin, "caddy")); err != nil {
		t.Fatal(err)
	}
	admin := fmt.Sprintf("localhost:%d", s.Admin)
	replace := strings.NewReplacer(append(pairs, "localhost:2019", admin)...)
	return func(name string) *exec.Cmd {
		t.Helper()
		cmd := exec.Command("sh", "-ec", replace.Replace(take(t, left, name)))
		cmd.Dir = t.TempDir()
		cmd.Env = append(s.SSE().Env, "PATH="+bin+":"+os.Getenv("PATH"), "CADDY_ADMIN="+admin)
		cmd.Stderr = os.Stderr
		return cmd
	}
}

// launch starts a program and waits until it listens on the port.
func launch(t *testing.T, port int, name string, args ...string) {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%v: run make test, which installs the programs that these tests need", err)
	}
	cmd := exec.Command(path, args...)
	var log strings.Builder
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait() // it is killed
		close(exited)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-exited
		if t.Failed() {
			t.Logf("output of %s:\n%s", name, log.String())
		}
	})
	e2e.Wait(t, e2e.Patience, name+" to listen", func() error {
		select {
		case <-exited:
			t.Fatalf("%s: got an exit, want it to listen: %s", name, log.String())
		default:
		}
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			return err
		}
		return conn.Close()
	})
}
