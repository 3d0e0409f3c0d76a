package caddysse

import (
	"os/exec"
	"strings"
	"testing"
)

// TestNoNATSWithoutItsStore: the store on NATS is a module of its own, which only
// those build in who ask for it.
func TestNoNATSWithoutItsStore(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "./cmd/caddy").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	deps := string(out)
	if !strings.Contains(deps, "github.com/ea766355/caddy-sse/hub\n") {
		t.Error("the list does not hold this module's own packages")
	}
	if strings.Contains(deps, "nats") {
		t.Errorf("Caddy with this module depends on NATS: %s", deps)
	}
}
