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

	"github.com/ea766355/caddy-sse/e2e"
)

// jobVariable is set in the environment of an attacker's process.
const jobVariable = "CADDY_SSE_ATTACK"

// job is the instructions for an attacker's process.
type job struct {
	Attack             string
	Full               bool
	Admin, HTTP, HTTPS int
	Root, Config       string // files
}

// hired is an attacker's process, as seen by the test. The test sends one word per line, and the
// process answers each with a line.
type hired struct {
	t     *testing.T
	cmd   *exec.Cmd
	tell  io.WriteCloser
	hears *bufio.Reader
}

// hire starts an attacker's process. For measurements of time it gets only idle CPU time
// (SCHED_IDLE). A real attacker has its own CPUs, so only the work of the server matters, and not
// the competition for the CPU. Without measurements its priority is only low, since a busy machine
// may have no idle time.
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

// did returns the counts of its actions so far.
func (h *hired) did() (did map[string]int64) {
	h.t.Helper()
	h.say("tell")
	if err := json.Unmarshal([]byte(h.hear("did ")), &did); err != nil {
		h.t.Fatal(err)
	}
	return did
}

// leave ends the process and returns the counts of its actions.
func (h *hired) leave() (did map[string]int64) {
	h.t.Helper()
	did = h.did()
	h.tell.Close() // its input ends, and so does the process
	if err := h.cmd.Wait(); err != nil {
		h.t.Fatalf("the attacker: %v", err)
	}
	return did
}

// attacker is the state within the attacker's process.
type attacker struct {
	job
	security *tls.Config

	mu  sync.Mutex
	did map[string]int64
}

// longest is the most time of an attack, if the test does not stop it.
const longest = 4 * e2e.Patience

// attackAsTold is the main function of an attacker's process. It returns when its input ends.
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

// count counts an action of the attacker.
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
