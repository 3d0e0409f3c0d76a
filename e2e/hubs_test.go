package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestPromise8EveryHubIsToldShutdown ends a server with several hubs, large and small. One of them
// has just lost its route. Every client gets the reason shutdown, and no other. With
// shutdown_delay the streams continue until the delay is over.
func TestPromise8EveryHubIsToldShutdown(t *testing.T) {
	t.Run("at once", func(t *testing.T) {
		for late := 5; endWithSeveralHubs(t, 0, late) != nil; late /= 2 {
			t.Log("the machine is busy: once more, with fewer streams")
		}
	})
	t.Run("after shutdown_delay", func(t *testing.T) {
		delay := 4 * time.Second
		for late := 5; endWithSeveralHubs(t, delay, late) != nil; late /= 2 {
			t.Log("the machine is busy: once more, with fewer streams and a longer delay")
			delay *= 2
		}
	})
}

// routeGrace is how long a hub may be without a route before its streams end with hub_closed.
const routeGrace = 10 * time.Second

// errTooSlow says that the machine was too slow for a test to prove something.
var errTooSlow = errors.New("the machine was too slow")

// endWithSeveralHubs checks the end of a server with several hubs. late is how many streams of each protocol
// open after the reload. The error is errTooSlow.
func endWithSeveralHubs(t *testing.T, delay time.Duration, late int) error {
	t.Helper()
	const hubs = 5
	config := Config{}
	if delay > 0 {
		config.Global = "shutdown_delay " + delay.String() + "\n"
	}
	for i := range hubs {
		config.Global += fmt.Sprintf("sse hub%d\n", i)
		config.Routes += fmt.Sprintf("sse /hub%d {\n hub hub%d\n anonymous\n}\n", i, i)
	}
	s := Start(t, config)
	var followers []*Follower
	follow := func(path string, n int) (opened []*Follower) {
		for _, protocol := range Protocols {
			c := s.Client(protocol)
			c.Path = path
			t.Cleanup(c.Close)
			for range n {
				opened = append(opened, Follow(t, c, Identity{}))
			}
		}
		followers = append(followers, opened...)
		return opened
	}
	for i := range hubs {
		follow(fmt.Sprint("/hub", i), 1+2*i)
	}
	served := follow("/events", 50)
	AwaitOpen(t, followers)
	i := strings.Index(config.Routes, "sse /hub1 ")
	config.Routes = config.Routes[:i] + "respond /hub* 404\n" // and all later routes
	reloading := time.Now()
	if err := s.Reload(config); err != nil {
		t.Fatal(err)
	}
	served = append(served, follow("/events", late)...)
	AwaitOpen(t, served)

	began := time.Now()
	if err := s.process.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if time.Since(reloading) > routeGrace*4/5 {
		return errTooSlow
	}
	if delay > 0 {
		Wait(t, Patience, "the server to be about to end", func() error {
			if !strings.Contains(s.Tail(), "shutdown scheduled") {
				return fmt.Errorf("the log does not have it")
			}
			return nil
		})
		// A hub with a route is served until the server ends.
		p := s.Publisher()
		within, cancel := context.WithTimeout(t.Context(), delay)
		defer cancel()
		if err := p.Publish(within, Event{To: Everybody}); within.Err() != nil {
			return errTooSlow
		} else if err != nil {
			t.Fatal(err)
		}
		last := Follow(t, s.Client(H1), Identity{})
		checks := append(served, last)
		for _, f := range checks {
			for f.behind(p.Ledger) != nil || !f.Open() {
				if time.Since(began) > delay {
					return errTooSlow
				}
				<-time.After(time.Millisecond)
			}
		}
		for i, f := range checks {
			if g := f.Closings(); len(g) > 0 && time.Since(began) < delay {
				t.Errorf("control events of follower %d during the delay: got %+v, want none", i, g)
			}
			if err := f.Check(p.Ledger); err != nil {
				t.Error(err)
			}
		}
		if time.Since(began) > delay {
			return errTooSlow
		}
		followers = append(followers, last)
	}
	s.awaitExit(delay + 5*time.Second)
	t.Logf("it took %s", time.Since(began))
	for i, f := range followers {
		Wait(t, Patience, "sse.closing", func() error {
			g := f.Closings()
			// A client that reconnects before the process has ended gets another one.
			if len(g) == 0 || slices.ContainsFunc(g, func(g Closing) bool { return g.Reason != "shutdown" }) {
				_, lost := f.Streams()
				return fmt.Errorf("follower %d of %s, %s: got %+v, want shutdown; its streams ended with %.3q", i, f.client.Path, f.client.Protocol, g, lost)
			}
			return nil
		})
	}
	if log := s.tail(1000); strings.Contains(log, `"level":"error"`) {
		t.Errorf("log: got an error, want none:\n%s", log)
	}
	return nil
}

// TestPromise8ExitCutsNothingElse ends the server while some clients do not read their streams.
// Other clients get slow responses of other handlers, on the same connection and on others. They
// get their whole response before the server ends.
func TestPromise8ExitCutsNothingElse(t *testing.T) {
	const pieces, pace = 30, 200 * time.Millisecond
	slowly := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for range pieces {
			fmt.Fprint(w, "piece\n")
			_ = http.NewResponseController(w).Flush()
			select {
			case <-r.Context().Done():
				return
			case <-time.After(pace):
			}
		}
	}))
	defer slowly.Close()
	for name, global := range map[string]string{
		"without grace_period": "", "with grace_period": "grace_period 5m", "with shutdown_delay": "shutdown_delay 5s",
	} {
		t.Run(name, func(t *testing.T) {
			stream := "connection_timeout 10m"
			if strings.Contains(global, "delay") {
				// Unread streams end earlier for another reason.
				stream += "\n max_lifetime 1s"
			}
			s := Start(t, Config{Global: global, Stream: stream, Routes: "reverse_proxy /slow " + slowly.Listener.Addr().String() + " {\n flush_interval -1\n}"})
			p := s.Publisher()
			type download struct {
				what string
				resp *http.Response
			}
			var downloads []download
			get := func(what string, c *Client) {
				ctx, cancel := context.WithTimeout(t.Context(), Patience)
				t.Cleanup(cancel)
				req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+"/slow", nil)
				if err != nil {
					t.Fatal(err)
				}
				resp, err := c.http.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				downloads = append(downloads, download{what, resp})
			}
			var users []string
			var releases []func()
			for _, protocol := range []Protocol{H2, H3} {
				c := s.SmallClient(protocol)
				if tr, ok := c.http.Transport.(*http.Transport); ok {
					tr.HTTP2.MaxReceiveBufferPerConnection = 16 << 20 // an unread stream does not block the others
				}
				t.Cleanup(c.Close)
				user := "stalled " + string(protocol)
				f := Follow(t, c, Identity{User: user})
				AwaitOpen(t, []*Follower{f})
				f.Hold()
				release := sync.OnceFunc(f.Release)
				t.Cleanup(release)
				releases = append(releases, release)
				users = append(users, user)
				get("on the same connection, "+string(protocol), c)
				other := s.Client(protocol)
				t.Cleanup(other.Close)
				get("on another connection, "+string(protocol), other)
			}
			if err := p.Publish(t.Context(), slices.Repeat([]Event{{To: To("user", users...), Size: 256 << 10}}, 12)...); err != nil {
				t.Fatal(err)
			}
			for _, user := range users {
				if lag, open := s.Lag(user); !strings.Contains(global, "delay") && (!open || lag == 0) {
					t.Errorf("lag of %s: got %d (open: %t), want more than 0", user, lag, open)
				}
			}

			if err := s.process.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			for _, d := range downloads {
				body, err := io.ReadAll(d.resp.Body)
				d.resp.Body.Close()
				if n := bytes.Count(body, []byte("piece\n")); err != nil || n != pieces {
					t.Errorf("pieces of a download %s: got %d, %v, want %d", d.what, n, err, pieces)
				}
			}
			if strings.Contains(global, "delay") {
				// Their streams have ended before the shutdown. Their clients decide whether to keep the
				// connections.
				for _, release := range releases {
					release()
				}
			}
			s.awaitExit(20 * time.Second) // on an idle machine it takes 3 s
		})
	}
}

// TestPromise8ExitIsQuickForManyThatLag ends a server with thousands of streams. Each stream has
// thousands of pending events of many topics.
func TestPromise8ExitIsQuickForManyThatLag(t *testing.T) {
	const lagging, topics, batches = 2000, 100, 20
	// Log at debug level, with Caddy's events, so that each end is reported.
	s := Start(t, Config{Global: "debug", Stream: "connection_timeout 10m"})
	var path strings.Builder
	path.WriteString("/events?")
	for i := range topics {
		fmt.Fprintf(&path, "&topic=news/%d", i)
	}
	for range lagging {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", s.HTTP))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		if err := conn.(*net.TCPConn).SetReadBuffer(4096); err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", path.String()); err != nil {
			t.Fatal(err)
		}
	}
	Wait(t, Patience, "all streams", func() error {
		if n := s.Status().Connections; n < lagging {
			return fmt.Errorf("%d", n)
		}
		return nil
	})
	p := s.Publisher()
	for range batches {
		var batch [topics]Event
		for i := range batch {
			batch[i] = Event{To: To("topic", fmt.Sprint("news/", i)), Size: 8 << 10}
		}
		if err := p.Publish(t.Context(), batch[:]...); err != nil {
			t.Fatal(err)
		}
	}
	bytes, same := 0.0, 0
	Wait(t, Patience, "streams to be stuck", func() error {
		before := bytes
		if bytes = s.Metric(`caddy_sse_bytes_total{hub="default"}`); bytes == before {
			same++
		} else {
			same = 0
		}
		if same < 20 {
			return fmt.Errorf("%v bytes were written, and %v before", bytes, before)
		}
		return nil
	})
	if n := s.Status().Connections; n < lagging {
		t.Errorf("open streams: got %d, want %d", n, lagging)
	}
	t.Logf("it took %s", s.Terminate(8*time.Second))
	if n := strings.Count(s.tail(1<<30), `"stream closed"`); n != lagging {
		t.Errorf("ends in the log: got %d, want %d", n, lagging)
	}
}
