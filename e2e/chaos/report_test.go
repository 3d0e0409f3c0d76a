package chaos

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/ea766355/caddy-sse/e2e"
)

// String returns the table of totals.
func (v *verdict) String() string {
	var b strings.Builder
	for _, row := range []struct {
		name string
		n    int
	}{
		{"events acknowledged", v.events},
		{"deliveries", v.deliveries},
		{"clients", v.clients},
		{"streams", v.streams},
		{"**lost**", v.lost},
		{"**doubled**", v.doubled},
		{"**out of order**", v.disordered},
		{"**not theirs, or never acknowledged**", v.foreign},
		{"**delivered after a disconnect**", v.disconnected},
		{"changes of topics, told on streams", v.rights.Reported},
		{"**delivered without the right to the topic**", v.rights.Unlawful},
		{"**not delivered with the right to the topic**", v.rights.Withheld},
		{"**changes of topics told falsely, or not told**", v.rights.Misreported},
		{"gaps told", v.gaps},
		{"of those in doubt, after a restart", v.inDoubt},
		{"**gaps told falsely, or not told**", v.falseGaps},
		{"**other violations**", v.other},
	} {
		fmt.Fprintf(&b, "| %s | %d |\n", row.name, row.n)
	}
	return b.String()
}

// reportTo logs the totals and writes them to the file.
func (w *world) reportTo(v *verdict, took time.Duration) {
	var cuts, stalls, slow int64
	for _, p := range []*e2e.Proxy{w.admin, w.proxies[e2e.H1], w.proxies[e2e.H1TLS], w.proxies[e2e.H2]} {
		cuts, stalls, slow = cuts+p.Cuts.Load(), stalls+p.Stalls.Load(), slow+p.Slow.Load()
	}
	faults := maps.Clone(w.faults)
	faults["connections cut"], faults["connections stalled"], faults["connections throttled"] = int(cuts), int(stalls), int(slow)
	maps.Copy(faults, w.done)
	var b strings.Builder
	fmt.Fprintf(&b, "%s. Took %s, with %d clients at a time and %d publish requests a second.\n\n",
		e2e.Machine(), took.Round(time.Second), *clients, *rate)
	fmt.Fprintf(&b, "    make soak DURATION=%s SEED=%d\n\n", *duration, *seed)
	fmt.Fprintf(&b, "| total | |\n|---|---:|\n%s\n| fault | |\n|---|---:|\n", v)
	for _, name := range slices.Sorted(maps.Keys(faults)) {
		fmt.Fprintf(&b, "| %s | %d |\n", name, faults[name])
	}
	w.t.Logf("\n%s", b.String())
	if *results != "" {
		if err := e2e.WriteResults(*results, "Results of `make soak`", b.String()); err != nil {
			w.t.Error(err)
		}
	}
}

// reading is the measurements that must not grow.
type reading struct {
	files, goroutines int
	heap, resident    int64
}

// idleTimeout is short. Go's HTTP/2 server keeps a connection in memory for this long if it
// died with open streams: it stops its timer for idle connections, and starts it again for each
// connection without streams.
const idleTimeout = time.Second

// reading measures while no client is connected and the numbers do not shrink any more.
func (w *world) reading() (least reading) {
	w.t.Helper()
	const little = 64 << 10 // bytes
	var since time.Time
	e2e.Wait(w.t, e2e.Patience, "the server to be quiet", func() error {
		for _, h := range w.hubs {
			if n := w.server.StatusOf(h.name).Connections; n > 0 {
				return fmt.Errorf("%d connections on %s are open", n, h.name)
			}
		}
		now := reading{w.server.Files(), w.server.Goroutines(), w.server.Heap(), w.server.Resident()}
		if since.IsZero() || now.files < least.files || now.goroutines < least.goroutines || now.heap < least.heap-little {
			least, since = now, time.Now()
		}
		if time.Since(since) < 2*idleTimeout {
			return fmt.Errorf("it may still shrink: %+v", now)
		}
		return nil
	})
	return least
}

// warmUp opens a stream of each protocol on each hub, since the first one makes the server
// allocate memory that it keeps.
func (w *world) warmUp() {
	for _, h := range w.hubs {
		for _, p := range e2e.Protocols {
			c := w.server.Client(p)
			c.Path = h.path
			s, err := c.Open(w.t.Context(), e2e.Identity{User: "user 0", Session: "session 0"}, "")
			if err != nil {
				w.t.Fatal(err)
			}
			if _, err := s.Next(); err != nil {
				w.t.Fatal(err)
			}
			s.Close()
			c.Close()
		}
	}
}

// checkGrowth compares the process at the end of the storm with the first process, in all that
// does not depend on history. It compares the rest with a new process with the same history.
func (w *world) checkGrowth(base reading) {
	w.t.Helper()
	const (
		few   = 10      // connections of the admin endpoint and of the server itself come and go
		slack = 4 << 20 // bytes, plus a tenth, for pools and maps
	)
	// Each hub keeps up to four idle goroutines per CPU, which write for its streams.
	writers := 4 * runtime.GOMAXPROCS(0) * len(w.hubs)
	var used reading
	// A busy machine closes files and goroutines late, but in the end. A leak stays.
	e2e.Wait(w.t, e2e.Patience, "files and goroutines to be closed", func() error {
		if used = w.reading(); used.files > base.files+few || used.goroutines > base.goroutines+few+writers {
			return fmt.Errorf("got %d files and %d goroutines, want about the %d and %d from before; open are %q",
				used.files, used.goroutines, base.files, base.goroutines, w.server.OpenFiles())
		}
		return nil
	})
	usedProfile := w.server.HeapProfile()
	w.server.Terminate(e2e.Patience / 2)
	w.run()
	w.warmUp()
	fresh := w.reading()
	w.t.Logf("at first %+v, in the end %+v, after a restart %+v", base, used, fresh)
	if used.heap > fresh.heap*11/10+slack {
		w.t.Errorf("heap: got %d bytes, %d more than in a new process with the same history", used.heap, used.heap-fresh.heap)
		for name, profile := range map[string][]byte{"used": usedProfile, "fresh": w.server.HeapProfile()} {
			if err := os.WriteFile(filepath.Join(w.t.ArtifactDir(), name+".pprof"), profile, 0o644); err != nil {
				w.t.Error(err)
			}
		}
	}
}
