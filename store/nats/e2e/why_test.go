package e2e_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/ea766355/caddy-sse/e2e"
	"github.com/ea766355/caddy-sse/store/nats/natstest"
)

// TestWhyOfThreeNodes publishes on one node, connects to another and asks a third.
func TestWhyOfThreeNodes(t *testing.T) {
	servers := natstest.Start(t, size)
	config := e2e.WhyConfig(fmt.Sprintf("store nats {\n url %s\n replicas %d\n }", strings.Join(servers.URLs(), " "), size))
	w := e2e.WhyTest{Publish: e2e.Start(t, config), Serve: e2e.Start(t, config), Ask: e2e.Start(t, config)}
	w.Run(t)
	t.Run("node does not answer", w.RunStopped)
}
