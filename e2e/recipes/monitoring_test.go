package recipes

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/ea766355/caddy-sse/e2e"
)

// series has the label sets of each metric of a server.
type series map[string][]map[string]string

var (
	sample = regexp.MustCompile(`(?m)^(\w+)(?:\{(.*)\})? \S+$`)
	pair   = regexp.MustCompile(`(\w+)="([^"]*)"`)
)

// scrape reads /metrics of an admin endpoint.
func scrape(t *testing.T, admin string) series {
	t.Helper()
	resp, err := http.Get("http://" + admin + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %v: %s", resp.Status, err, body)
	}
	found := make(series)
	for _, m := range sample.FindAllStringSubmatch(string(body), -1) {
		labels := make(map[string]string)
		for _, p := range pair.FindAllStringSubmatch(m[2], -1) {
			labels[p[1]] = p[2]
		}
		found[m[1]] = append(found[m[1]], labels)
	}
	return found
}

var (
	metric   = regexp.MustCompile(`\b((?:caddy|process|go)_\w+|up)(?:\{([^}]*)\})?`)
	matcher  = regexp.MustCompile(`(\w+)(=~|!=|=)"([^"]*)"`)
	grouping = regexp.MustCompile(`by \(([\w, ]*)\)`)
)

// scraped has the labels that Prometheus adds.
var scraped = []string{"job", "instance"}

// checkExpr checks that a server has each metric and label of an expression, and each label value
// that the expression names.
func checkExpr(t *testing.T, where, expr string, shown series) {
	t.Helper()
	used := metric.FindAllStringSubmatch(expr, -1)
	if len(used) == 0 {
		t.Errorf("%s: got no metric in %s, want one", where, expr)
	}
	for _, m := range used {
		if m[1] == "up" {
			continue // Prometheus itself adds it
		}
		sets := shown[m[1]]
		if len(sets) == 0 {
			t.Errorf("%s: got no metric %s from the server, want one", where, m[1])
			continue
		}
		has := func(label, value string) bool {
			return slices.ContainsFunc(sets, func(set map[string]string) bool {
				v, ok := set[label]
				return ok && (value == "" || v == value)
			})
		}
		for _, g := range grouping.FindAllStringSubmatch(expr, -1) {
			for label := range strings.SplitSeq(g[1], ", ") {
				if !slices.Contains(scraped, label) && !has(label, "") {
					t.Errorf("%s: got no label of %s, want %s", where, m[1], label)
				}
			}
		}
		for _, l := range matcher.FindAllStringSubmatch(m[2], -1) {
			if slices.Contains(scraped, l[1]) {
				continue
			}
			if !has(l[1], "") {
				t.Errorf("%s: got no label of %s, want %s", where, m[1], l[1])
			}
			if strings.Contains(l[3], "$") {
				continue
			}
			for value := range strings.SplitSeq(l[3], "|") {
				if !has(l[1], value) {
					t.Errorf("%s: got no %s of %s, want %q", where, l[1], m[1], value)
				}
			}
		}
	}
}

// promtool runs Debian's promtool.
func promtool(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("promtool", args...).CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v (make test installs the programs that these tests need)\n%s", strings.Join(args, " "), err, out)
	}
}

type alert struct{ name, expr, annotations string }

// readAlerts reads the rules. Each field of a rule is a line.
func readAlerts(t *testing.T) (alerts []alert) {
	t.Helper()
	text, err := os.ReadFile("../../docs/prometheus/alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	for _, rule := range strings.Split(string(text), "- alert: ")[1:] {
		name, rest, _ := strings.Cut(rule, "\n")
		_, expr, _ := strings.Cut(rest, "expr: ")
		expr, rest, _ = strings.Cut(expr, "\n")
		alerts = append(alerts, alert{name, expr, rest})
	}
	return alerts
}

// TestAlerts: promtool accepts the rules, and its tests see each alert fire and stay silent. Each
// alert names its paragraph of the page, and uses metrics that a server has under load.
func TestAlerts(t *testing.T) {
	const dir = "../../docs/prometheus/"
	promtool(t, "check", "rules", dir+"alerts.yml")
	promtool(t, "test", "rules", dir+"alerts_test.yml")
	tests, err := os.ReadFile(dir + "alerts_test.yml")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../../docs/troubleshooting.md")
	if err != nil {
		t.Fatal(err)
	}
	shown := load(t)
	alerts := readAlerts(t)
	if len(alerts) < 10 {
		t.Fatalf("alerts: got %d, want at least 10", len(alerts))
	}
	for _, a := range alerts {
		checkExpr(t, a.name, a.expr, shown)
		fires, silent := false, false
		for _, test := range strings.Split(string(tests), "  - name: ")[1:] {
			if strings.Contains(test, `ALERTS{alertname="`+a.name+`", alertstate="firing"}`+"\n") {
				if strings.Contains(test, "exp_samples: []") {
					silent = true
				} else {
					fires = true
				}
			}
		}
		if !fires || !silent {
			t.Errorf("%s: got a test that it fires: %v, and that it is silent: %v, want both", a.name, fires, silent)
		}
		if !strings.Contains(a.annotations, "runbook_url: https://github.com/ea766355/caddy-sse/blob/main/docs/troubleshooting.md#"+strings.ToLower(a.name)+"\n") ||
			!strings.Contains(string(page), "\n### "+a.name+"\n\n") || !strings.Contains(string(page), "\n| ["+a.name+"](#"+strings.ToLower(a.name)+") | ") {
			t.Errorf("%s: got no paragraph or no link to it, want both", a.name)
		}
		// A missing label would leave a gap in the text.
		kept := "job instance hub"
		if g := grouping.FindStringSubmatch(a.expr); g != nil {
			kept = g[1]
		}
		for _, label := range regexp.MustCompile(`\$labels\.(\w+)`).FindAllStringSubmatch(a.annotations, -1) {
			if !slices.Contains(strings.FieldsFunc(kept, func(r rune) bool { return r == ' ' || r == ',' }), label[1]) {
				t.Errorf("%s: got the label %s in its text, want only %s", a.name, label[1], kept)
			}
		}
	}
	for _, heading := range regexp.MustCompile(`(?m)^### (CaddySSE\w+)$`).FindAllStringSubmatch(string(page), -1) {
		if !slices.ContainsFunc(alerts, func(a alert) bool { return a.name == heading[1] }) {
			t.Errorf("paragraph of %s: got no alert with this name, want one", heading[1])
		}
	}
}

// load runs a server with a hub on disk and one in memory, with streams, publishes and refusals,
// and returns its metrics.
func load(t *testing.T) series {
	t.Helper()
	s := e2e.Start(t, e2e.Config{Hub: "store disk", Global: "sse chat"})
	client := s.Client(e2e.H1)
	defer client.Close()
	stream, err := client.Open(t.Context(), e2e.Identity{User: "alice"}, "")
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	publisher := s.Publisher()
	defer publisher.Close()
	for range 20 {
		if err := publisher.Publish(t.Context(), e2e.Event{}); err != nil {
			t.Fatal(err)
		}
	}
	for range 21 { // sse.connected is the first
		if _, err := stream.Next(); err != nil {
			t.Fatal(err)
		}
	}
	shown := scrape(t, fmt.Sprintf("127.0.0.1:%d", s.Admin))
	if len(shown["caddy_sse_connections"]) < 6 {
		t.Fatalf("metrics: got %v, want connections of both hubs", slices.Sorted(maps.Keys(shown)))
	}
	return shown
}

type panel struct {
	ID          int
	Type, Title string
	Description string
	GridPos     struct{ H, W, X, Y int }
	Targets     []struct{ Expr, LegendFormat string }
}

// TestDashboard: each panel uses metrics that a server has under load, in an expression that
// Prometheus accepts. No panel covers another.
func TestDashboard(t *testing.T) {
	text, err := os.ReadFile("../../docs/grafana/caddy-sse.json")
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		UID        string
		Templating struct {
			List []struct{ Name, Definition string }
		}
		Panels []panel
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	shown := load(t)
	var rules strings.Builder
	rules.WriteString("groups:\n- name: panels\n  rules:\n")
	replace := strings.NewReplacer("$__rate_interval", "5m", "$job", "caddy", "$instance", "n1", "$hub", "default")
	ids := make(map[int]bool)
	taken := make(map[[2]int]string)
	for i, p := range dashboard.Panels {
		if ids[p.ID] {
			t.Errorf("%s: got the id %d of another panel, want its own", p.Title, p.ID)
		}
		ids[p.ID] = true
		for x := range p.GridPos.W {
			for y := range p.GridPos.H {
				at := [2]int{p.GridPos.X + x, p.GridPos.Y + y}
				if other := taken[at]; other != "" || at[0] >= 24 {
					t.Fatalf("%s: got a place over %q or outside of the grid, want its own", p.Title, other)
				}
				taken[at] = p.Title
			}
		}
		if p.Type == "row" {
			continue
		}
		if p.Description == "" || len(p.Targets) == 0 {
			t.Errorf("%s: got no description or no query, want both", p.Title)
		}
		for j, target := range p.Targets {
			checkExpr(t, p.Title, target.Expr, shown)
			fmt.Fprintf(&rules, "  - record: panel%d_%d\n    expr: %q\n", i, j, replace.Replace(target.Expr))
			for _, label := range regexp.MustCompile(`\{\{(\w+)\}\}`).FindAllStringSubmatch(target.LegendFormat, -1) {
				if g := grouping.FindStringSubmatch(target.Expr); g != nil && !slices.Contains(strings.Split(g[1], ", "), label[1]) {
					t.Errorf("%s: got the label %s in its legend, want only labels of its query", p.Title, label[1])
				}
			}
		}
	}
	for _, v := range dashboard.Templating.List {
		if v.Definition != "" {
			checkExpr(t, "variable "+v.Name, v.Definition, shown)
		}
	}
	promtool(t, "check", "rules", write(t, t.TempDir(), "panels.yml", rules.String()))
}
