package disk

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ea766355/caddy-sse/hub"
)

// ledger records the answers to publishers: the seq of each key.
type ledger struct {
	mu       sync.Mutex
	answered map[string]uint64
	refused  map[string]bool // keys of events that are certainly not stored
}

func newLedger() *ledger {
	return &ledger{answered: make(map[string]uint64), refused: make(map[string]bool)}
}

// publish runs publishers until ctx ends. A publisher repeats a publish with the same key until
// the event is stored, or is certainly not stored.
func (l *ledger) publish(ctx context.Context, t *testing.T, s *Store, name string, publishers int) {
	var wg sync.WaitGroup
	for p := range publishers {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; {
				key := fmt.Sprintf("%s-%d-%d", name, p, i)
				e := hub.Entry{Key: key, Data: []byte(key)}
				attempt, cancel := context.WithTimeout(ctx, 5*time.Second)
				stored, err := s.Append(attempt, []hub.Entry{e})
				cancel()
				if errors.Is(err, hub.ErrNotStored) && ctx.Err() == nil {
					l.mu.Lock()
					l.refused[key] = true
					l.mu.Unlock()
					i++
				}
				if err != nil {
					time.Sleep(time.Millisecond)
					continue
				}
				l.mu.Lock()
				l.answered[key] = stored[0].Position.Seq
				l.mu.Unlock()
				i++
			}
		})
	}
	wg.Wait()
}

// checkRefused checks that no refused event is in the file.
func (l *ledger) checkRefused(t *testing.T, path string) {
	t.Helper()
	h, stop := tail(mustOpen(t, path))
	if err := stop(); err != nil {
		t.Error(err)
	}
	seen := 0
	for _, r := range h.records {
		if l.refused[string(r.Data)] {
			seen++
		}
	}
	if seen > 0 || len(l.refused) == 0 {
		t.Errorf("refused events in the file: got %d of %d, want 0 of at least 1", seen, len(l.refused))
	}
}

func (l *ledger) copy() map[string]uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.answered)
}

// check checks that every answered event is in the file, once, at the answered seq.
func check(t *testing.T, path string, answered map[string]uint64) {
	t.Helper()
	s := mustOpen(t, path)
	h, stop := tail(s)
	if err := stop(); err != nil {
		t.Error(err)
	}
	at := make(map[string]uint64)
	next := uint64(1)
	for _, r := range h.records {
		if r.Seq != next {
			t.Fatalf("seq after %d: got %d, want %d", next-1, r.Seq, next)
		}
		next++
		id, _, _ := strings.Cut(string(r.Data), ".") // the rest is filling
		if at[id] != 0 {
			t.Errorf("%s: got it at %d and %d, want it once", id, at[id], r.Seq)
		}
		at[id] = r.Seq
	}
	lost := 0
	for key, seq := range answered {
		if at[key] != seq {
			lost++
		}
	}
	if lost > 0 {
		t.Errorf("answered events that are not at their seq: got %d of %d, want 0", lost, len(answered))
	}
	t.Logf("%d answered, %d stored", len(answered), len(at))
}

// inChild runs the test in a child process. It returns true in the child.
func inChild(t *testing.T, prepare func(*exec.Cmd)) bool {
	const variable = "DISK_TEST_CHILD"
	if os.Getenv(variable) == t.Name() {
		return true
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), variable+"="+t.Name())
	if prepare != nil {
		prepare(cmd)
	}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("%v\n%s", err, out)
	} else {
		t.Logf("%s", out)
	}
	return false
}
