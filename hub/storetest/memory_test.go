package storetest_test

import (
	"testing"

	"github.com/ea766355/caddy-sse/hub"
	"github.com/ea766355/caddy-sse/hub/storetest"
)

func TestMemory(t *testing.T) {
	storetest.Run(t, storetest.Kind{
		New: func(*testing.T) func(*testing.T) hub.Store {
			return func(*testing.T) hub.Store { return hub.NewMemory() }
		},
		Local: true,
	})
}
