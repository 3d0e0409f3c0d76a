package recipes

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/url"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ea766355/caddy-sse/e2e"
)

// silence is how long TestAlertsStaySilent runs. With 20 minutes, each alert has the time
// that it needs to fire.
var silence = flag.Duration("silence", 20*time.Second, "how long the alerts are watched under usual load")

// notScraped is pending until the first scrape.
const notScraped = "CaddySSENotScraped"

// TestAlertsStaySilent runs a server under usual load, with clients that connect and leave and
// with reloads, and Debian's Prometheus with the alerts of the docs. No alert may even be pending.
// At the end one publish is refused, which the metrics must show.
func TestAlertsStaySilent(t *testing.T) {
	config := e2e.Config{Hub: "store disk", Plain: true}
	s := e2e.Start(t, config)
	prometheus := startPrometheus(t, s.Admin)
	e2e.Wait(t, e2e.Patience, "the first scrape", func() error {
		values, err := prometheus.query("caddy_sse_store_connected")
		if err == nil && len(values) == 0 {
			err = errors.New("no series")
		}
		return err
	})

	ctx, cancel := context.WithTimeout(t.Context(), *silence)
	defer cancel()
	var load sync.WaitGroup
	publisher := s.Publisher()
	load.Go(func() {
		// Slow enough for ten minutes in the history of 10,000 events: less is an alert.
		repeat(ctx, 100*time.Millisecond, func(n int) {
			to := e2e.Target{}
			if n%2 == 0 {
				to = e2e.To("user", fmt.Sprintf("user%d", n%30))
			}
			if err := publisher.Publish(context.WithoutCancel(ctx), e2e.Event{To: to}); err != nil {
				t.Error(err)
			}
		})
	})
	load.Go(func() {
		repeat(ctx, *silence/4, func(int) {
			if err := s.Reload(config); err != nil {
				t.Error(err)
			}
		})
	})
	for i, protocol := range []e2e.Protocol{e2e.H1, e2e.H1TLS, e2e.H2, e2e.H3} {
		client := s.Client(protocol)
		defer client.Close()
		for j := range 8 {
			load.Go(func() { openStreams(ctx, t, client, fmt.Sprintf("user%d", 8*i+j)) })
		}
	}
	load.Wait()

	if alerts := prometheus.alerts(t); len(alerts) > 0 {
		t.Errorf("alerts under usual load: got %q, want none", alerts)
	}
	resp, err := http.Post(fmt.Sprintf("http://127.0.0.1:%d/sse/broadcast", s.Admin), "application/json", strings.NewReader(`{"topik":"news"}`))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	e2e.Wait(t, e2e.Patience, "the alert of a refused publish", func() error {
		if slices.Contains(prometheus.alerts(t), "CaddySSEPublishesRefused pending") {
			return nil
		}
		return errors.New("it is not pending")
	})
}

// repeat calls f now and then at each interval, until ctx ends.
func repeat(ctx context.Context, interval time.Duration, f func(n int)) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for n := 0; ; n++ {
		f(n)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// wait waits for a duration, or until ctx ends.
func wait(ctx context.Context, duration time.Duration) {
	timer := time.NewTimer(duration)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// openStreams opens streams of a user until ctx ends. Each lasts for 100 events, and the next
// continues after its position.
func openStreams(ctx context.Context, t *testing.T, client *e2e.Client, user string) {
	position := ""
	lastOpen := time.Now()
	for ctx.Err() == nil {
		stream, err := client.Open(ctx, e2e.Identity{User: user}, position)
		if err != nil {
			// At a reload, Caddy ends the old server. It closes connections whose request that server
			// has not read yet. A client tries again, as browsers do.
			if ctx.Err() == nil && time.Since(lastOpen) > e2e.Patience {
				t.Errorf("%s: no stream for %s: %v", user, e2e.Patience, err)
				return
			}
			wait(ctx, 10*time.Millisecond)
			continue
		}
		lastOpen = time.Now()
		for range 100 {
			block, err := stream.Next()
			if err != nil {
				if ctx.Err() == nil {
					t.Errorf("stream of %s: got its end, %v, want more events", user, err)
				}
				stream.Close()
				return
			}
			if block.ID.Epoch != "" {
				position = block.ID.String()
			}
		}
		stream.Close()
	}
}

// prometheus is a running Prometheus.
type prometheus struct{ address string }

// startPrometheus starts a Prometheus that scrapes an admin endpoint, and evaluates the alerts each second.
// A scrape may take as long as the interval of scrapes, which is enough on a busy machine. It ends with the
// test.
func startPrometheus(t *testing.T, admin int) prometheus {
	t.Helper()
	rules, err := filepath.Abs("../../docs/prometheus/alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	config := fmt.Sprintf(`global:
  scrape_interval: 5s
  evaluation_interval: 1s
scrape_configs:
  - job_name: caddy
    static_configs:
      - targets: ["127.0.0.1:%d"]
rule_files: [%q]
`, admin, rules)
	file := write(t, dir, "prometheus.yml", config)
	p := prometheus{fmt.Sprintf("127.0.0.1:%d", e2e.FreePort(t))}
	var output strings.Builder
	cmd := exec.Command("prometheus", "--config.file="+file, "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+p.address)
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		t.Fatalf("prometheus: %v (make test installs what these tests need)", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(output.String())
		}
	})
	return p
}

// query returns the labels of each series in the result of an expression.
func (p prometheus) query(expr string) (series []map[string]string, err error) {
	resp, err := http.Get("http://" + p.address + "/api/v1/query?query=" + url.QueryEscape(expr))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var answer struct {
		Error string
		Data  struct {
			Result []struct{ Metric map[string]string }
		}
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || answer.Error != "" {
		return nil, fmt.Errorf("%s: %s: %w", resp.Status, answer.Error, err)
	}
	for _, r := range answer.Data.Result {
		series = append(series, r.Metric)
	}
	return series, nil
}

// alerts returns the names and states of all alerts since the start.
func (p prometheus) alerts(t *testing.T) (alerts []string) {
	t.Helper()
	series, err := p.query("max_over_time(ALERTS[1d])")
	if err != nil {
		t.Fatal(err)
	}
	for _, labels := range series {
		if alert := labels["alertname"] + " " + labels["alertstate"]; alert != notScraped+" pending" {
			alerts = append(alerts, alert)
		}
	}
	return alerts
}
