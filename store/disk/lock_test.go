package disk

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ea766355/caddy-sse/hub"
)

// Several openers wait for one file. Each gets it as the previous one left it. The file is large,
// so that some openers read it while others close it.
func TestOpenersTakeTurns(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.db")
	s := mustOpen(t, path)
	_, stop := tail(s)
	large := entries("large", 30_000, 200)
	answered := make(map[string]uint64)
	for i := 0; i < len(large); i += 1_000 {
		stored, err := s.Append(t.Context(), large[i:i+1_000])
		if err != nil {
			t.Fatal(err)
		}
		for j := range stored {
			answered[large[i+j].Key] = stored[j].Position.Seq
		}
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}

	ctx, cancel := context.WithTimeout(t.Context(), turnsFor)
	defer cancel()
	var openers sync.WaitGroup
	var mu sync.Mutex
	turns := 0
	for opener := range 3 {
		openers.Go(func() {
			for turn := 0; ctx.Err() == nil; turn++ {
				s, err := open(path, quick(time.Minute, retryAfter))
				if err != nil {
					t.Error(err)
					return
				}
				_, stop := tail(s)
				for i := range 3 {
					key := fmt.Sprint(opener, "-", turn, "-", i)
					e := hub.Entry{Key: key, Data: []byte(key)}
					stored, err := s.Append(t.Context(), []hub.Entry{e})
					if err != nil {
						t.Error(err)
						break
					}
					mu.Lock()
					answered[key] = stored[0].Position.Seq
					mu.Unlock()
				}
				if err := stop(); err != nil {
					t.Error(err)
				}
				mu.Lock()
				turns++
				mu.Unlock()
				time.Sleep(time.Duration(rand.IntN(50)) * time.Millisecond)
			}
		})
	}
	openers.Wait()
	t.Logf("%d turns", turns)
	check(t, path, answered)
	if names := quarantined(path); len(names) > 0 {
		t.Errorf("quarantined files: got %v, want none", names)
	}
}

// Several openers wait for a damaged file. One quarantines it, and the others find the new file.
func TestOneOpenerQuarantines(t *testing.T) {
	for range 20 {
		path := filepath.Join(t.TempDir(), "history.db")
		damage(t, path)
		var openers sync.WaitGroup
		for range 4 {
			openers.Go(func() {
				s, err := open(path, quick(time.Minute, retryAfter))
				if err != nil {
					t.Error(err)
					return
				}
				_, stop := tail(s)
				if _, err := s.Append(t.Context(), entries("e", 1, 0)); err != nil {
					t.Error(err)
				}
				if err := stop(); err != nil {
					t.Error(err)
				}
			})
		}
		openers.Wait()
		if names := quarantined(path); len(names) != 1 {
			t.Errorf("quarantined files: got %d, want 1", len(names))
		}
	}
}

// A file that was locked still has its name, even if others rename the files that they
// have locked.
func TestLockedFileHasItsName(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.db")
	var openers sync.WaitGroup
	var locks atomic.Int64
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	for opener := range 4 {
		openers.Go(func() {
			for ctx.Err() == nil || locks.Load() < 20 { // on a busy machine one may get few in the time
				f, err := lockFile(path, lockRetry)
				if errors.Is(err, errInUse) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				locks.Add(1)
				if named, err := hasName(f, path); !named || err != nil {
					t.Errorf("the locked file has its name: got %t, %v, want true", named, err)
				}
				if err := errors.Join(os.Rename(path, fmt.Sprint(path, opener)), f.Close()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	openers.Wait()
	t.Logf("%d locks", locks.Load())
}

// turnsFor is how long TestOpenersTakeTurns runs.
const turnsFor = 3 * time.Second

// A store that failed waits no longer than usual to try a file again that another process has: it did
// not read it.
func TestFileInUseIsTriedAgainSoon(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.db")
	s, err := open(path, quick(50*time.Millisecond, time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	h := &history{open: make(chan struct{})}
	if err := s.file.close(); err != nil {
		t.Fatal(err)
	}
	other := mustOpen(t, path)
	s.uncertain = new(group)
	if s.resolve(h) {
		t.Error("a file that another process has: got it, want a problem")
	}
	if wait := s.retryWait(); wait != s.retry {
		t.Errorf("wait after the file was in use: got %v, want %v", wait, s.retry)
	}
	if err := errors.Join(other.Close(), s.Close()); err != nil {
		t.Error(err)
	}
}
