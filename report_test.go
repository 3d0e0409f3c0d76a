package caddysse_test

import (
	"fmt"
	"io"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/google/uuid"

	caddysse "github.com/ea766355/caddy-sse"
)

const handleEvents = "events {\n on sse_connected test\n on sse_disconnected test\n}\n"

// reported returns the connections in Caddy's events, of those that were opened since the call. The end
// of a stream of an earlier test may be reported late.
func reported() (since func() (opened, closed []string)) {
	first := uuid.Must(uuid.NewV7()).String() // ids are in order of time
	ids := func(name string) (ids []string) {
		for _, e := range recordedEvents(name) {
			if id := e.data["connection"].(string); id > first {
				ids = append(ids, id)
			}
		}
		return ids
	}
	return func() (opened, closed []string) { return ids("sse_connected"), ids("sse_disconnected") }
}

// checkReported checks that each stream was reported open and then closed, once.
func checkReported(t testing.TB, since func() (opened, closed []string), streams []*stream) {
	t.Helper()
	eventually(t, "reports of all ends", func() bool { _, closed := since(); return len(closed) >= len(streams) })
	opened, closed := since()
	for _, st := range streams {
		for what, ids := range map[string][]string{"open": opened, "closed": closed} {
			if n := strings.Count(strings.Join(ids, " "), st.id); n != 1 {
				t.Errorf("a stream was reported %s %d times", what, n)
			}
		}
	}
	if len(opened) != len(streams) || len(closed) != len(streams) {
		t.Errorf("%d streams were reported open and %d closed, of %d", len(opened), len(closed), len(streams))
	}
	checkNoErrors(t)
}

func checkNoErrors(t testing.TB) {
	t.Helper()
	for line := range strings.Lines(logs.tail(1 << 30)) {
		if strings.Contains(line, `"level":"error"`) {
			t.Errorf("logged: %.1000s", line)
		}
	}
}

// openAll opens n streams of each protocol.
func openAll(t testing.TB, s *server, n int) (streams []*stream) {
	t.Helper()
	for _, p := range protocols(t) {
		for range n {
			streams = append(streams, openWith(t, p.client, p.url(s)+"/events"))
		}
	}
	return streams
}

// TestReportsAreComplete: each stream that was reported open is reported closed, for every cause
// of its end, and without an error.
func TestReportsAreComplete(t *testing.T) {
	tls := func(s *server, body string) string {
		return s.site(body) + "https://localhost:" + port(s.https) + " {\ntls " + certificate + " " + certificate + "\n" + body + "\n}\n"
	}
	for name, end := range map[string]func(t *testing.T, s *server){
		"by a reload without the route":        func(_ *testing.T, s *server) { s.mustLoad(tls(s, "respond hello")) },
		"by a reload without the app":          func(_ *testing.T, s *server) { s.global = handleEvents; s.mustLoad(tls(s, "respond hello")) },
		"by a reload without the app's events": func(_ *testing.T, s *server) { s.global = ""; s.mustLoad(tls(s, "respond hello")) },
		"by the end of Caddy": func(t *testing.T, _ *server) {
			if err := caddy.Stop(); err != nil {
				t.Fatal(err)
			}
		},
		"by the end of the process": func(t *testing.T, _ *server) {
			caddysse.Exit(t)
			if err := caddy.Stop(); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			since := reported()
			s := startTLS(t, handleEvents+"sse", anonymousSite)
			handleWith(t, func(string) { time.Sleep(5 * time.Millisecond) }) // work
			streams := openAll(t, s, 10)
			// The exit waits two seconds for reports. On a busy machine those of the openings may take them all.
			eventually(t, "reports of all openings", func() bool { opened, _ := since(); return len(opened) == len(streams) })
			end(t, s)
			if _, closed := since(); caddy.Exiting() && len(closed) != len(streams) {
				t.Errorf("the process ends after %d reports of %d", len(closed), len(streams))
			}
			for _, st := range streams {
				st.ended()
			}
			checkReported(t, since, streams)
		})
	}
}

// TestReportsKeepNobodyWaiting: streams are opened, served and ended, and configs are loaded,
// while a handler of Caddy's events works.
func TestReportsKeepNobodyWaiting(t *testing.T) {
	since := reported()
	s := startTLS(t, handleEvents+"sse", anonymousSite)
	release := make(chan struct{})
	handleWith(t, func(string) { <-release })
	streams := openAll(t, s, 3)
	s.send(`{"text":"x"}`)
	for _, st := range streams {
		st.expect("x")
	}
	s.api("DELETE", "/sse/connections?all=true", "")
	for _, st := range streams {
		st.ended()
	}
	s.mustLoad(s.site("respond hello"))
	if opened, _ := since(); len(opened) > 0 {
		t.Error("the handler did not wait")
	}
	close(release)
	checkReported(t, since, streams)
}

// TestReportsNeverDeadlock: a handler of Caddy's events may request the config while Caddy changes
// it.
func TestReportsNeverDeadlock(t *testing.T) {
	since := reported()
	s := start(t, handleEvents+"sse", anonymousSite)
	handleWith(t, func(string) {
		resp, err := plain.Get("http://" + s.admin + "/config/")
		if err != nil {
			return // the endpoint is just replaced
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	})
	var streams []*stream
	for range 20 {
		streams = append(streams, s.open("/events"))
	}
	s.global = handleEvents
	s.mustLoad(s.site("respond hello"))
	for _, st := range streams {
		st.ended()
	}
	caddysse.EndGraces()
	checkReported(t, since, streams)
}

// TestReportsSurviveAPanic: a panic of a handler is logged, and ends neither the process nor the
// reports.
func TestReportsSurviveAPanic(t *testing.T) {
	s := startTLS(t, handleEvents, anonymousSite)
	handleWith(t, func(name string) {
		if name == "sse_disconnected" {
			panic("oh no")
		}
	})
	since := reported()
	streams := openAll(t, s, 2)
	for _, st := range streams {
		st.close()
	}
	eventually(t, "an error line for each", func() bool {
		return len(logs.with(t, "a handler of Caddy's events panicked")) >= len(streams)
	})
	if line := logs.with(t, "a handler of Caddy's events panicked")[0]; line["panic"] != "oh no" || line["event"] != "sse_disconnected" {
		t.Errorf("logged %v", line)
	}
	if opened, _ := since(); len(opened) != len(streams) {
		t.Errorf("%d streams were reported open", len(opened))
	}
	logs.reset()
}

// TestReportsSurviveAGoexit: a handler that ends its goroutine does not end the reports.
func TestReportsSurviveAGoexit(t *testing.T) {
	s := start(t, handleEvents, anonymousSite)
	handleWith(t, func(name string) {
		if name == "sse_connected" {
			runtime.Goexit()
		}
	})
	since := reported()
	for range 3 {
		s.open("/events").close()
	}
	eventually(t, "the end of each to be reported", func() bool {
		_, closed := since()
		return len(closed) == 3
	})
}

// TestFlushWaitsAfterAGoexit: the exit waits for all reports, also if a handler ends the goroutine.
func TestFlushWaitsAfterAGoexit(t *testing.T) {
	s := start(t, handleEvents, anonymousSite)
	release := make(chan struct{})
	var handled atomic.Int32
	handleWith(t, func(name string) {
		<-release
		if name == "sse_connected" {
			handled.Add(1)
			runtime.Goexit()
		}
	})
	for range 20 {
		s.open("/events")
	}
	flushed := make(chan struct{})
	go func() {
		defer close(flushed)
		caddysse.FlushReports(time.Minute)
	}()
	eventually(t, "flush to wait", func() bool { return strings.Contains(stacks(), "reporter).flush(") })
	close(release)
	<-flushed
	if n := handled.Load(); n != 20 {
		t.Errorf("%d of 20 reports were handled when flush returned", n)
	}
}

// TestReportsAreBounded: if handlers are too slow, both reports of a stream are left out.
func TestReportsAreBounded(t *testing.T) {
	caddysse.SetMaxReports(t, 4)
	since := reported()
	s := start(t, handleEvents, anonymousSite)
	release := make(chan struct{})
	handleWith(t, func(string) { <-release })
	for range 10 {
		s.open("/events").close()
	}
	eventually(t, "the end of all", func() bool { return s.status("default").Connections == 0 })
	const message = "new streams are not reported, because the queue of reports is full: make the handlers of Caddy's events faster"
	if n := len(logs.with(t, message)); n != 1 {
		t.Errorf("%d lines say so", n)
	}
	close(release)
	caddysse.FlushReports(waitLimit)
	last := s.open("/events")
	last.close()
	eventually(t, "reports of the last one", func() bool {
		_, closed := since()
		return len(closed) > 0 && closed[len(closed)-1] == last.id
	})
	opened, closed := since()
	slices.Sort(opened)
	slices.Sort(closed)
	if !slices.Equal(opened, closed) || len(opened) < 3 || len(opened) > 8 {
		t.Errorf("opened %v, closed %v", opened, closed)
	}
}

// TestReportsOfStreamsThatPanic: a stream that was reported open is reported closed, even if it
// panics before its first block.
func TestReportsOfStreamsThatPanic(t *testing.T) {
	s := startTLS(t, handleEvents, "test_break\n"+anonymousSite)
	eachProtocol(t, s, func(t *testing.T, p protocol) {
		for _, at := range []string{"header", "sse.connected"} {
			since := reported()
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.url(s)+"/events", nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("X-Break", at)
			if resp, err := p.client.Do(req); err == nil {
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
			eventually(t, "the report of the end", func() bool { _, closed := since(); return len(closed) == 1 })
			if opened, closed := since(); fmt.Sprint(opened) != fmt.Sprint(closed) {
				t.Errorf("%s: opened %v, closed %v", at, opened, closed)
			}
		}
	})
}
