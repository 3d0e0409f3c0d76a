//go:build linux

package hostile

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ea766355/caddy-sse/e2e"
)

// jobVariable is set in the environment of the process of an attacker.
const jobVariable = "CADDY_SSE_ATTACK"

// job is what the process of an attacker is told.
type job struct {
	Attack             string
	Full               bool
	Admin, HTTP, HTTPS int
	Root, Config       string // files
}

// hired is the process of an attacker, as the test has it. It is told a word a line,
// and answers with one.
type hired struct {
	t     *testing.T
	cmd   *exec.Cmd
	tell  io.WriteCloser
	hears *bufio.Reader
}

// hire starts the process of an attacker. Where times are measured it gets those that
// the server and the innocent leave (SCHED_IDLE), since an attacker brings its own CPUs:
// it matters what the server does under attack, and not who gets the CPU. Elsewhere the
// machine may be so busy that it would get none.
func hire(t *testing.T, s *e2e.Server, attack string) *hired {
	t.Helper()
	told, err := json.Marshal(job{attack, *full, s.Admin, s.HTTP, s.HTTPS, s.RootFile(), s.ConfigFile()})
	if err != nil {
		t.Fatal(err)
	}
	priority := []string{"nice", "-n", "10"}
	if *full {
		priority = []string{"chrt", "--idle", "0"}
	}
	h := &hired{t: t, cmd: exec.Command(priority[0], append(priority[1:], os.Args[0])...)}
	h.cmd.Env = append(os.Environ(), jobVariable+"="+string(told))
	h.cmd.Stderr = os.Stderr
	in, err := h.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := h.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	h.tell, h.hears = in, bufio.NewReader(out)
	if err := h.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if h.cmd.ProcessState == nil {
			_ = h.cmd.Process.Kill()
			_ = h.cmd.Wait()
		}
	})
	return h
}

func (h *hired) say(word string) {
	h.t.Helper()
	if _, err := io.WriteString(h.tell, word+"\n"); err != nil {
		h.t.Fatalf("the attacker is gone: %v", err)
	}
}

func (h *hired) hear(word string) string {
	h.t.Helper()
	line, err := h.hears.ReadString('\n')
	rest, ok := strings.CutPrefix(line, word)
	if err != nil || !ok {
		h.t.Fatalf("the attacker says %q (%v), not %q", line, err, word)
	}
	return rest
}

func (h *hired) ready()  { h.t.Helper(); h.hear("ready") }
func (h *hired) strike() { h.t.Helper(); h.say("strike") }
func (h *hired) stop()   { h.t.Helper(); h.say("stop"); h.hear("stopped") }

// did returns what it has done so far.
func (h *hired) did() (did map[string]int64) {
	h.t.Helper()
	h.say("tell")
	if err := json.Unmarshal([]byte(h.hear("did ")), &did); err != nil {
		h.t.Fatal(err)
	}
	return did
}

// leave ends the process, and returns what it did.
func (h *hired) leave() (did map[string]int64) {
	h.t.Helper()
	did = h.did()
	h.tell.Close() // which ends it
	if err := h.cmd.Wait(); err != nil {
		h.t.Fatalf("the attacker: %v", err)
	}
	return did
}

// attacker is the same in its own process.
type attacker struct {
	job
	security *tls.Config

	mu  sync.Mutex
	did map[string]int64
}

// longest is how long an attack lasts at most, should nobody tell it to stop.
const longest = 2 * time.Minute

// attackAsTold is the main function of an attacker. It ends with its input.
func attackAsTold(text string) (code int) {
	a := &attacker{did: make(map[string]int64)}
	if err := json.Unmarshal([]byte(text), &a.job); err != nil {
		panic(err)
	}
	*full = a.Full
	root, err := os.ReadFile(a.Root)
	if err != nil {
		panic(err)
	}
	a.security = &tls.Config{RootCAs: x509.NewCertPool(), ServerName: "localhost"}
	a.security.RootCAs.AppendCertsFromPEM(root)

	all := append(slices.Clone(attacks), attack{name: "lagging", prepare: prefill, strike: lagBehind})
	which := all[slices.IndexFunc(all, func(other attack) bool { return other.name == a.Attack })]
	if which.prepare != nil {
		which.prepare(a)
	}
	fmt.Println("ready")
	var striking sync.WaitGroup
	stop := func() {}
	for orders := bufio.NewScanner(os.Stdin); orders.Scan(); {
		switch orders.Text() {
		case "strike":
			ctx, cancel := context.WithTimeout(context.Background(), longest)
			stop = cancel
			striking.Go(func() { which.strike(ctx, a) })
		case "stop":
			stop()
			striking.Wait()
			fmt.Println("stopped")
		case "tell":
			did, err := json.Marshal(a.counts())
			if err != nil {
				panic(err)
			}
			fmt.Printf("did %s\n", did)
		}
	}
	stop()
	striking.Wait()
	return 0
}

// count notes what the attacker did.
func (a *attacker) count(what string, n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.did[what] += int64(n)
}

func (a *attacker) counts() map[string]int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return maps.Clone(a.did)
}
