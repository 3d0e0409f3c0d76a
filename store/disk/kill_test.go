package disk

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/ea766355/caddy-sse/hub"
)

// Processes that publish are killed at random times. All answered events are in the file.
func TestKillKeepsAnsweredEvents(t *testing.T) {
	const variable = "DISK_TEST_KILL"
	if path := os.Getenv(variable); path != "" {
		publishUntilKilled(t, path)
		return
	}
	path := filepath.Join(t.TempDir(), "history.db")
	answered := make(map[string]uint64)
	for range 10 {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$")
		cmd.Env = append(os.Environ(), variable+"="+path)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		var kill *time.Timer
		lives := 10 + rand.IntN(100) // answers, because a process on a busy machine may get few in a time
		for lines.Scan() {
			var key string
			var seq uint64
			if n, _ := fmt.Sscanf(lines.Text(), "%s %d.", &key, &seq); n == 2 {
				answered[key] = seq
				lives--
			}
			if kill == nil && lives == 0 {
				kill = time.AfterFunc(time.Duration(rand.IntN(20_000))*time.Microsecond, func() { _ = cmd.Process.Kill() })
			}
		}
		if err := cmd.Wait(); err == nil || kill == nil {
			t.Fatalf("the process was not killed: %v", err)
		}
	}
	if len(answered) < 100 {
		t.Errorf("answered events: got %d, want at least 100", len(answered))
	}
	check(t, path, answered)
}

// publishUntilKilled prints the key and the seq of each answered event. Each line ends with a full
// stop, so that an incomplete line is recognized.
func publishUntilKilled(t *testing.T, path string) {
	s := mustOpen(t, path)
	tail(s)
	process := strconv.Itoa(os.Getpid())
	var printing sync.Mutex
	for p := range 8 {
		go func() {
			for i := 0; ; i++ {
				key := fmt.Sprint(process, "-", p, "-", i)
				e := hub.Entry{Key: key, Data: []byte(key)}
				stored, err := s.Append(context.Background(), []hub.Entry{e})
				if err != nil {
					t.Error(err)
					return
				}
				printing.Lock()
				fmt.Printf("%s %d.\n", key, stored[0].Position.Seq)
				printing.Unlock()
			}
		}()
	}
	select {}
}
