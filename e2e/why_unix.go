//go:build unix

package e2e

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
)

// RunStopped stops the server of the client with SIGSTOP. The answer must list it as missing.
func (w WhyTest) RunStopped(t *testing.T) {
	w.t = t
	w.open("", "stopped", nil, "")
	id := w.publish("send", "", fmt.Sprintf(`{"user":"stopped","data":"%s"}`, secret))
	w.await("", id)
	if err := syscall.Kill(w.Serve.PID(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Kill(w.Serve.PID(), syscall.SIGCONT); err != nil {
			t.Error(err)
		}
	}()
	a := w.why("", "stopped", id)
	name := fmt.Sprintf("-%d", w.Serve.PID())
	if a.State != "no_answer" || len(a.Missing) != 1 || !strings.HasSuffix(a.Missing[0], name) || !strings.Contains(a.Summary, name+" does not answer") {
		t.Errorf("state, missing nodes and summary: got %s, %q: %s, want no_answer, one node, and its name", a.State, a.Missing, a.Summary)
	}
	t.Log(a.Summary)
}
