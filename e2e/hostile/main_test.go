//go:build linux

package hostile

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ea766355/caddy-sse/e2e"
)

var (
	full    = flag.Bool("full", false, "attack with full force, and compare times")
	results = flag.String("results", "", "a file for the figures")
)

// TestMain is also the start of an attacker's process.
func TestMain(m *testing.M) {
	if job := os.Getenv(jobVariable); job != "" {
		os.Exit(attackAsTold(job))
	}
	e2e.Main(m)
}

// Durations and numbers of observations, without and under attack.
const (
	quietFor  = 4 * time.Second
	attackFor = 6 * time.Second
	rounds    = 3
	shortFor  = 1500 * time.Millisecond // without -full: one observation, under attack only
)

// few is how many goroutines and files may be added by others during an attack: by the admin
// endpoint and by the server itself.
const few = 8

// pool is how many goroutines the hub keeps for the next writes after it needed them.
var pool = 4 * runtime.GOMAXPROCS(0)

// TestHostile runs the attacks one after the other, each on its own server.
func TestHostile(t *testing.T) {
	var table strings.Builder
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			table.WriteString(run(t, a))
		})
	}
	exit := exitWhileStreamsLag(t)
	report(t, table.String(), exit)
}

// reading is the measurements that must not grow by an attack.
type reading struct {
	files, goroutines int
	heap              int64
}

func read(s *e2e.Server) reading { return reading{s.Files(), s.Goroutines(), s.Heap()} }

// run runs the attack and returns its row in the table of results.
func run(t *testing.T, a attack) string {
	s := e2e.Start(t, e2e.Config{Hub: a.hub, Stream: a.stream})
	if a.files > 0 {
		limit := unix.Rlimit{Cur: a.files, Max: a.files}
		if err := unix.Prlimit(s.PID(), unix.RLIMIT_NOFILE, &limit, nil); err != nil {
			t.Fatal(err)
		}
	}
	in := newInnocents(t, s, a.files > 0)
	before := read(s)
	atRest := s.Resident()
	attacker := hire(t, s, a.name)
	attacker.ready()

	var held int64
	if *full {
		for range rounds {
			in.observe(quiet, quietFor)
			attacker.strike()
			in.observe(attacked, attackFor)
			held = max(held, s.Heap())
			attacker.stop()
			in.awaitAlone()
		}
	} else {
		attacker.strike()
		in.observe(attacked, shortFor)
		e2e.Wait(t, 2*e2e.Patience, "the attack to come to what it is about", func() error {
			did := attacker.did()
			for _, what := range a.does {
				if did[what] == 0 {
					return fmt.Errorf("no %s yet: %v", what, did)
				}
			}
			return nil
		})
		held = s.Heap()
		attacker.stop()
	}
	did := attacker.leave()
	in.finish()
	for _, what := range a.does {
		if did[what] == 0 {
			t.Errorf("the attack did not come to what it is about: %s: %v", what, did)
		}
	}

	// Events that are partly written hold at most the size of one more history. The rest is the
	// size of the streams. The heap during the flood of a page is that of Go's servers alone.
	const slack = 8 << 20
	if most := before.heap + 2*a.size*23/20 + a.held + slack; held > most && !a.floor {
		t.Errorf("under attack the heap has %d MiB, more than %d", held>>20, most>>20)
	}
	most := reading{before.files + few, before.goroutines + few + pool, before.heap + a.size*23/20 + slack}
	var after reading
	// The kernel has many requests of the attack that the server has yet to read. On a busy machine
	// that takes long.
	e2e.Wait(t, 6*e2e.Patience, "nothing to be left of the attack", func() error {
		after = read(s)
		if n := s.Status().Connections; n != innocents {
			return fmt.Errorf("%d streams are open, and not %d", n, innocents)
		}
		if after.files > most.files || after.goroutines > most.goroutines || after.heap > most.heap {
			return fmt.Errorf("%+v is more than %+v", after, most)
		}
		return nil
	})
	t.Logf("the attacker did %v", did)
	t.Logf("before %+v, under attack a heap of %d MiB, after %+v; resident %d MiB, at most %d MiB",
		before, held>>20, after, atRest>>20, s.Peak()>>20)
	return in.row(a, did, atRest, s.Peak())
}

// exitWhileStreamsLag measures how long a server takes to end when many streams lag.
func exitWhileStreamsLag(t *testing.T) (took time.Duration) {
	t.Run("exit", func(t *testing.T) {
		s := e2e.Start(t, e2e.Config{Hub: prefilled})
		attacker := hire(t, s, "lagging")
		attacker.ready()
		attacker.strike()
		e2e.Wait(t, 2*e2e.Patience, "all streams to be open", func() error {
			if n := s.Status().Connections; n < lagging() {
				return fmt.Errorf("%d are", n)
			}
			return nil
		})
		took = s.Terminate(e2e.Patience)
		t.Logf("%d lagging streams: it took %s", lagging(), took)
	})
	return took
}

// lagging returns the number of streams that lag when the server is told to exit.
func lagging() int { return scale(300, 3000) }

// scale returns one of two numbers: the first without -full, the second with it.
func scale(short, long int) int {
	if *full {
		return long
	}
	return short
}
