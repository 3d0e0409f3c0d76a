package recipes

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ea766355/caddy-sse/e2e"
)

// TestMonitoring: each config of the page works as described, and Caddy's own metrics and logs
// have the figures of streams that the page names.
func TestMonitoring(t *testing.T) {
	page := recipes(t, "monitoring.md")
	files := t.TempDir()
	ports := make(map[string]int)
	port := func(name string) int {
		ports[name] = e2e.FreePort(t)
		return ports[name]
	}
	local := func(name, listens string) string {
		return strings.Replace(take(t, page, name), listens, fmt.Sprintf("http://:%d", port(name)), 1)
	}
	hosts := localize(take(t, page, "hosts"), "", port("hosts"), files)
	debug := localize(take(t, page, "debug"), "", port("debug"), files)
	_, ready := splitGlobals(t, local("ready", "http://:9181")) // TestReadiness has the options
	var globals strings.Builder
	for _, text := range []*string{&hosts, &debug} {
		options, sites := splitGlobals(t, *text)
		globals.WriteString(options + "\n")
		*text = sites
	}
	logged := localize("example.com {\n\tlog {\n\t\toutput file /srv/all.log\n\t}\n\tsse /events {\n\t\tanonymous\n\t}\n}\n", "", port("logged"), files)
	back := serve(t, globals.String(), local("metrics", "http://:9180")+ready+hosts+debug+logged+
		localize(take(t, page, "log"), "", port("log"), files))

	t.Run("the sites for Prometheus and balancers", func(t *testing.T) {
		check := func(name, path string, status int, text string) {
			t.Helper()
			v := visitor{t: t, base: fmt.Sprintf("http://example.com:%d", ports[name])}
			if resp, body := v.answer(path); resp.StatusCode != status || !strings.Contains(body, text) {
				t.Errorf("%s: got %s %.100s, want %d with %q", path, resp.Status, body, status, text)
			}
		}
		check("metrics", "/metrics", http.StatusOK, "caddy_sse_connections{")
		check("ready", "/ready", http.StatusOK, `{"ready":true}`)
		if _, body := (visitor{t: t, base: fmt.Sprintf("http://example.com:%d", ports["ready"])}).answer("/sse/status"); body != "" {
			t.Errorf("status on the site for balancers: got %s, want nothing", body)
		}
		for _, path := range []string{"/sse/status", "/sse/ready", "/metrics"} {
			if resp, err := http.Head("http://" + back.admin + path); err != nil || resp.StatusCode != http.StatusOK {
				t.Errorf("HEAD %s: got %v, %v, want 200", path, resp, err)
			}
		}
	})
	t.Run("the config of Prometheus", func(t *testing.T) {
		dir := t.TempDir()
		rules, err := os.ReadFile("../../docs/prometheus/alerts.yml")
		if err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string]string{"alerts.yml": string(rules), "prometheus.yml": take(t, page, "scrape")} {
			write(t, dir, name, text)
		}
		promtool(t, "check", "config", filepath.Join(dir, "prometheus.yml"))
	})
	t.Run("tracing", func(t *testing.T) { checkTracing(t, take(t, page, "tracing")) })

	// openStream opens a stream of this host over a protocol, and closes it after an event.
	openStream := func(t *testing.T, host string, port int, h2 bool, during func()) {
		t.Helper()
		client := (visitor{t: t}).client()
		if !h2 {
			client.Transport.(*http.Transport).ForceAttemptHTTP2 = false
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("https://%s:%d/events", host, port), nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = host // without the port, as on port 443
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if want := map[bool]int{false: 1, true: 2}[h2]; resp.StatusCode != http.StatusOK || resp.ProtoMajor != want {
			t.Fatalf("response: got %s %s, want a stream over HTTP/%d", resp.Proto, resp.Status, want)
		}
		s := &stream{t: t, resp: resp, lines: bufio.NewScanner(resp.Body)}
		s.next()
		back.wait(1)
		back.broadcast(strings.Repeat("x", 1000))
		s.next()
		during()
		s.close()
		cancel()
		back.wait(0)
	}

	t.Run("Caddy's metrics", func(t *testing.T) {
		value := func(name, host string, more ...string) float64 {
			return sum(t, back.admin, name, append(more, `host="`+host+`"`)...)
		}
		const host = "events.example.com"
		before := value("caddy_http_request_duration_seconds_count", host)
		openStream(t, host, ports["hosts"], false, func() {
			e2e.Wait(t, e2e.Patience, "no request in flight while a stream is taken over", func() error {
				if n := value("caddy_http_requests_in_flight", host); n != 0 {
					return fmt.Errorf("%v are", n)
				}
				return nil
			})
		})
		if n := value("caddy_http_request_duration_seconds_count", host); n != before+1 {
			t.Errorf("counted requests: got %v, want %v", n, before+1)
		}
		// Caddy counts the first block, and not the later event of 1000 bytes.
		if n := value("caddy_http_response_size_bytes_sum", host, `code="200"`); n < 100 || n > 500 {
			t.Errorf("counted bytes of a stream that was taken over: got %v, want 100 to 500", n)
		}
		openStream(t, host, ports["hosts"], true, func() {
			if n := value("caddy_http_requests_in_flight", host); n != 1 {
				t.Errorf("requests in flight during a stream over HTTP/2: got %v, want 1", n)
			}
			if n := value("caddy_http_request_duration_seconds_count", host); n != before+1 {
				t.Errorf("counted requests during a stream over HTTP/2: got %v, want %v", n, before+1)
			}
			if n := value("caddy_http_response_duration_seconds_count", host); n != before+2 {
				t.Errorf("counted first bytes during a stream over HTTP/2: got %v, want %v", n, before+2)
			}
		})
		e2e.Wait(t, e2e.Patience, "the end of the stream to be counted", func() error {
			if n, bytes := value("caddy_http_request_duration_seconds_count", host), value("caddy_http_response_size_bytes_sum", host, `code="200"`); n != before+2 || bytes < 1000 {
				return fmt.Errorf("%v requests, %v bytes", n, bytes)
			}
			return nil
		})
		v := visitor{t: t, base: fmt.Sprintf("https://example.com:%d", ports["hosts"])}
		if _, body := v.answer("/page"); body != "a page" {
			t.Errorf("page: got %q, want %q", body, "a page")
		}
		checkExpr(t, "the query", take(t, page, "query"), scrape(t, back.admin))
		checkExpr(t, "the alert for other gaps", take(t, page, "other_gaps"), scrape(t, back.admin))
	})

	t.Run("the access log", func(t *testing.T) {
		lines := func() []accessLine { return readLog(t, filepath.Join(files, "all.log"), "/events") }
		openStream(t, "example.com", ports["logged"], false, func() {
			e2e.Wait(t, e2e.Patience, "the line of a stream that was taken over", func() error { return count(lines(), 1) })
		})
		openStream(t, "example.com", ports["logged"], true, func() {
			if n := len(lines()); n != 1 {
				t.Errorf("log lines during a stream over HTTP/2: got %d, want 1", n)
			}
		})
		e2e.Wait(t, e2e.Patience, "the line of a stream that has ended", func() error { return count(lines(), 2) })
		if taken, kept := lines()[0], lines()[1]; taken.Size < 100 || taken.Size > 500 || kept.Size < 1000 || kept.Duration <= 0 {
			t.Errorf("log lines: got %+v and %+v, want only the first block in the first, and the whole stream in the second", taken, kept)
		}

		openStream(t, "example.com", ports["log"], false, func() {})
		openStream(t, "example.com", ports["log"], true, func() {})
		v := visitor{t: t, base: fmt.Sprintf("https://example.com:%d", ports["log"])}
		if _, body := v.answer("/page"); body != "a page" {
			t.Errorf("page: got %q, want %q", body, "a page")
		}
		log := filepath.Join(files, "access.log")
		e2e.Wait(t, e2e.Patience, "the line of the page", func() error { return count(readLog(t, log, "/page"), 1) })
		if n := len(readLog(t, log, "/events")); n != 0 {
			t.Errorf("log lines of streams: got %d, want 0", n)
		}
	})

	t.Run("the log of streams", func(t *testing.T) {
		openStream(t, "example.com", ports["debug"], false, func() {})
		e2e.Wait(t, e2e.Patience, "the line of the end", func() error {
			text, err := os.ReadFile(filepath.Join(files, "streams.log"))
			if err == nil && (!strings.Contains(string(text), `"stream opened"`) || !strings.Contains(string(text), `"stream closed"`) || !strings.Contains(string(text), `"reason":"gone"`)) {
				err = fmt.Errorf("it has %s", text)
			}
			return err
		})
	})
	t.Run("the log without the requests to the admin endpoint", func(t *testing.T) {
		s := e2e.Start(t, e2e.Config{})
		config, err := os.ReadFile(s.ConfigFile())
		if err != nil {
			t.Fatal(err)
		}
		if options, _ := splitGlobals(t, take(t, page, "quiet")); !strings.Contains(string(config), strings.TrimSpace(options)) {
			t.Errorf("config of the server: got %s\nwant in it %s", config, options)
		}
		backendOf(t, s).broadcast("for the log")
		if log := s.Tail(); log == "" || strings.Contains(log, "admin.api") {
			t.Errorf("log: got %s\nwant lines, and none of admin.api", log)
		}
	})
	wantAllTaken(t, page)
}

// TestReadiness: while a node ends, it says so to the balancer, and serves for the
// `shutdown_delay` of the page.
func TestReadiness(t *testing.T) {
	page := recipes(t, "monitoring.md")
	port := e2e.FreePort(t)
	text := strings.Replace(take(t, page, "ready"), "http://:9181", fmt.Sprintf("http://:%d", port), 1)
	options, site := splitGlobals(t, text)
	s := e2e.Start(t, e2e.Config{Global: options, Sites: site})
	get := func(url string) int {
		resp, err := http.Get(url)
		if err != nil {
			return 0
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	url := fmt.Sprintf("http://127.0.0.1:%d/ready", port)
	if status := get(url); status != http.StatusOK {
		t.Fatalf("a node that serves says %d", status)
	}
	stream := visitor{t: t, base: fmt.Sprintf("http://127.0.0.1:%d", s.HTTP)}.open("/events", "")
	var balancer sync.WaitGroup
	said, served := 0, 0
	balancer.Go(func() {
		tick := time.Tick(10 * time.Millisecond)
		for said = get(url); said == http.StatusOK; said = get(url) {
			<-tick
		}
		served = get(fmt.Sprintf("http://127.0.0.1:%d/ready", s.HTTP))
	})
	took := s.Terminate(time.Minute)
	balancer.Wait()
	if said != http.StatusServiceUnavailable || served != http.StatusOK {
		t.Errorf("a node that ends says %d to the balancer, and %d to a client", said, served)
	}
	if event, _ := stream.next(); event != "sse.closing" || took < 5*time.Second {
		t.Errorf("the stream ends with %s, after %s", event, took)
	}
}

// sum adds up the series of a metric that have these labels.
func sum(t *testing.T, admin, name string, labels ...string) (total float64) {
	t.Helper()
	v := visitor{t: t, base: "http://" + admin}
	_, body := v.answer("/metrics")
next:
	for line := range strings.Lines(body) {
		if !strings.HasPrefix(line, name+"{") {
			continue
		}
		for _, label := range labels {
			if !strings.Contains(line, label) {
				continue next
			}
		}
		var value float64
		if _, err := fmt.Sscan(line[strings.LastIndexByte(line, ' ')+1:], &value); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		total += value
	}
	return total
}

type accessLine struct {
	Request  struct{ URI string }
	Duration float64
	Size     int
}

// readLog returns the lines of an access log for a path.
func readLog(t *testing.T, file, path string) (lines []accessLine) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var l accessLine
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatalf("%v in %s", err, line)
		}
		if l.Request.URI == path {
			lines = append(lines, l)
		}
	}
	return lines
}

func count[T any](list []T, want int) error {
	if len(list) != want {
		return fmt.Errorf("got %d: %v", len(list), list)
	}
	return nil
}
