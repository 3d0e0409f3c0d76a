package disk

import (
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/ea766355/caddy-sse/hub"
	"github.com/ea766355/caddy-sse/hub/storetest"
)

func TestStore(t *testing.T) {
	storetest.Run(t, storetest.Kind{
		New: func(t *testing.T) func(*testing.T) hub.Store {
			path := filepath.Join(t.TempDir(), "history.db")
			return func(t *testing.T) hub.Store { return mustOpen(t, path) }
		},
		Durable: true,
		Local:   true,
		Faulty: func(t *testing.T) (func(*testing.T) hub.Store, storetest.Faults) {
			path := filepath.Join(t.TempDir(), "history.db")
			open := func(t *testing.T) hub.Store { return mustOpen(t, path) }
			return open, storetest.Faults{Snapshot: func() func() {
				snapshot := filepath.Join(t.TempDir(), "snapshot.db")
				copyFile(t, path, snapshot)
				return func() { copyFile(t, snapshot, path) }
			}}
		},
	})
}

func mustOpen(t testing.TB, path string) *Store {
	t.Helper()
	s, err := open(path, quick(lockTimeout, retryAfter))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// quick returns settings with short times.
func quick(lockTimeout, retry time.Duration) settings {
	return settings{lockTimeout, retry, slowAfter, testUptime, zap.NewNop}
}
