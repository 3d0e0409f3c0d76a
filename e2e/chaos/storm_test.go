package chaos

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/ea766355/caddy-sse/e2e"
)

// config returns a config under which no event may be lost.
func (w *world) config(random *rand.Rand) e2e.Config {
	pick := func(options ...string) string { return options[random.IntN(len(options))] }
	stream := "\n retry 20ms " + retryMax.String() +
		"\n takeover " + pick("on", "on", "off") +
		"\n heartbeat " + pick("300ms", "2s", "15s") +
		"\n connection_timeout " + pick("2s", "10s", "60s") +
		"\n max_lifetime " + pick("5s", "30s", "0", "12h")
	route := func(hub string) string {
		return fmt.Sprintf(`
	sse /%s {
		hub %s
		user {http.request.header.X-User}
		session {http.request.header.X-Session}
		anonymous
		topics news/* sport/*
		%s
	}`, hub, hub, stream)
	}
	return e2e.Config{
		Global: pick("", "", "shutdown_delay 300ms", "shutdown_delay 1s\n grace_period 5s") + fmt.Sprintf(`
	servers {
		timeouts {
			idle %s
		}
	}
	sse chat {
		history 10000000 24h
		history_size 4GiB
		store disk
	}
	sse ticker {
		history %d
		store disk
	}
	sse files {
		history 10000000 24h
		history_size 4GiB
		store disk %s
	}`, idleTimeout, tickerBound+random.IntN(tickerBound), w.files().changes.file),
		Hub:    "history 10000000 " + pick("24h", "12h") + "\n history_size 4GiB\n store disk",
		Stream: stream,
		Routes: route("chat") + route("ticker") + route("files"),
	}
}

// failing returns a config that is refused. If it took effect, most events would be lost.
func (w *world) failing(random *rand.Rand) e2e.Config {
	c := w.config(random)
	c.Hub, c.Global = "history 1\n store disk", "sse chat {\n history 1\n }"
	switch random.IntN(3) {
	case 0: // early, when it is adapted
		c.Stream, c.Routes = "retry 5s 1s", ""
	case 1: // in Provision
		c.Routes = "sse /other {\n hub nowhere\n }"
	case 2: // late, when it starts
		c.NoSSE = random.IntN(2) == 0
		c.Sites = "http://192.0.2.1:80 {\n bind 192.0.2.1\n respond no\n }" // TEST-NET-1 [RFC 5737]
	}
	return c
}

const kill = "kill -9"

// clocks are offsets of the servers' clock. The histories are so long that no event gets too old.
var clocks = []time.Duration{3 * time.Hour, time.Hour, -10 * time.Minute, -time.Second, 0, 0}

// storm causes faults for a while.
func (w *world) storm(d time.Duration, restarts bool) {
	random := w.random(1)
	if !restarts {
		random = w.random(2)
	}
	type fault struct {
		name   string
		weight int
		do     func(*rand.Rand)
	}
	faults := []fault{
		{"reload", 4, func(r *rand.Rand) {
			if err := w.server.Reload(w.config(r)); err != nil {
				w.t.Error(err)
			}
		}},
		{"reload that fails", 3, func(r *rand.Rand) {
			if w.server.Reload(w.failing(r)) == nil {
				w.t.Fatal("reload with an invalid config: got no error, want one")
			}
		}},
		{"streams ended by the API", 4, w.disconnect},
		{"file copied while it is in use", 1, func(*rand.Rand) { w.copyFile() }},
		{"clock set", 3, func(r *rand.Rand) { w.server.SetClock(clocks[r.IntN(len(clocks))]) }},
	}
	if restarts {
		faults = append(
			faults,
			fault{kill, 7, func(*rand.Rand) {
				w.server.Kill()
				w.run()
			}},
			fault{"kill -9 in a start", 1, func(r *rand.Rand) {
				w.server.Kill()
				w.launched = append(w.launched, time.Now())
				w.server.Launch()
				<-time.After(time.Duration(r.IntN(int(time.Second))))
				w.server.Kill()
				w.run()
			}},
			fault{"kill -9 in a reload", 1, w.killInReload},
			fault{"SIGTERM", 3, func(*rand.Rand) {
				w.server.Terminate(e2e.Patience / 2)
				w.run()
			}},
			fault{"other processes wait for the files", 2, w.contendForFiles},
			fault{"reload to another file", 2, w.changeFile},
			fault{"file restored between two processes", 2, w.restoreFile},
			fault{"file removed", 1, w.touchFile(func(path, _ string) error { return os.Remove(path) })},
			fault{"file cut", 1, w.touchFile(func(path, _ string) error { return os.Truncate(path, 10_000) })},
			fault{"file replaced by an older copy", 1, w.touchFile(func(path, older string) error {
				return errors.Join(duplicate(older, older+".next"), os.Rename(older+".next", path))
			})},
			fault{"older copy written into the file", 1, w.touchFile(func(path, older string) error { return duplicate(older, path) })},
		)
	}
	if restarts { // the first kill is not random
		w.server.Kill()
		w.run()
		w.faults[kill]++
	}
	weights := 0
	for _, f := range faults {
		weights += f.weight
	}
	for end := time.Now().Add(d); time.Now().Before(end) && w.hasNoViolation(); {
		// The next fault follows at once or after a while.
		<-time.After(min(time.Until(end), time.Duration(random.Int64N(int64(3*time.Second)))))
		n := random.IntN(weights)
		for _, f := range faults {
			if n -= f.weight; n < 0 {
				f.do(random)
				w.faults[f.name]++
				break
			}
		}
	}
}

func (w *world) run() {
	w.launched = append(w.launched, time.Now())
	w.server.Run()
}

// killInReload kills the server at a random moment of a reload.
func (w *world) killInReload(random *rand.Rand) {
	next := w.config(random)
	reloaded := make(chan error)
	go func() { reloaded <- w.server.Reload(next) }()
	var err error
	select {
	case <-time.After(time.Duration(random.IntN(int(time.Second)))):
		w.server.Kill()
		err = <-reloaded
	case err = <-reloaded:
		w.server.Kill()
	}
	_ = err // the command may have been answered or not
	w.run()
}

// disconnect ends the streams of a user, or all streams of a hub.
func (w *world) disconnect(random *rand.Rand) {
	h := w.hubs[random.IntN(len(w.hubs))]
	d := disconnect{began: time.Now()}
	query := url.Values{"hub": {h.name}}
	if random.IntN(3) == 0 {
		query.Set("all", "true")
	} else {
		d.user = fmt.Sprintf("user %d", random.IntN(users))
		query.Set("user", d.user)
	}
	// The endpoint of the config before, which a reload replaces, may accept a connection and close it.
	e2e.Wait(w.t, e2e.Patience, "the end of streams", func() error {
		req, err := http.NewRequestWithContext(w.t.Context(), http.MethodDelete,
			fmt.Sprintf("http://127.0.0.1:%d/sse/connections?%s", w.server.Admin, query.Encode()), nil)
		if err != nil {
			w.t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			w.t.Errorf("ending streams: %s", resp.Status)
		}
		return nil
	})
	d.ended = time.Now()
	h.disconnects = append(h.disconnects, d)
}

// hasNoViolation reports whether no client has found a broken promise so far. Otherwise the test
// ends early.
func (w *world) hasNoViolation() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.current {
		if c.failure() != nil {
			return false
		}
	}
	return true
}
