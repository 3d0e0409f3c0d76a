package caddysse

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/ea766355/caddy-sse/hub"
)

// The reference is held against the code here: that nothing is missing from its tables,
// and nothing in them is not there. e2e/recipes runs what it shows.

// reference is a page of docs/reference.
func reference(t *testing.T, page string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("docs", "reference", page))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// section is the part of a page below a heading.
func section(t *testing.T, page, heading string) string {
	t.Helper()
	_, rest, ok := strings.Cut(page, "\n"+heading+"\n")
	if !ok {
		t.Fatalf("there is no heading %q", heading)
	}
	level, _, _ := strings.Cut(heading, " ")
	text, _, _ := strings.Cut(rest, "\n"+level+" ")
	return text
}

var code = regexp.MustCompile("`([\\w.]+)[^`]*`")

// names are the words in code in the first cells of the tables with this header, sorted.
func names(text, header string) []string {
	var found []string
	in := false
	for line := range strings.Lines(text) {
		switch line = strings.TrimSpace(line); {
		case !strings.HasPrefix(line, "|"):
			in = false
		case strings.HasPrefix(line, "| "+header+" |"):
			in = true
		case in:
			cell, _, _ := strings.Cut(strings.TrimPrefix(line, "| "), " | ")
			for _, m := range code.FindAllStringSubmatch(cell, -1) {
				found = append(found, m[1])
			}
		}
	}
	slices.Sort(found)
	return found
}

// same complains of what is in one list alone.
func same(t *testing.T, what string, shown, there []string) {
	t.Helper()
	shown, there = slices.Compact(slices.Sorted(slices.Values(shown))), slices.Compact(slices.Sorted(slices.Values(there)))
	if !slices.Equal(shown, there) {
		t.Errorf("%s: the page has\n%q\nand the code\n%q", what, shown, there)
	}
}

// TestReferenceHasAllOptions: the tables have the options that the Caddyfile has.
func TestReferenceHasAllOptions(t *testing.T) {
	options := make(map[string][]string) // by receiver
	for _, d := range source(t, "caddyfile.go").Decls {
		f, ok := d.(*ast.FuncDecl)
		if !ok || f.Name.Name != "UnmarshalCaddyfile" {
			continue
		}
		receiver := f.Recv.List[0].Type.(*ast.StarExpr).X.(*ast.Ident).Name
		clauses(f, func(c *ast.CaseClause) { options[receiver] = append(options[receiver], texts(c.List...)...) })
	}
	options["CORS"] = []string{"headers"}
	for _, m := range regexp.MustCompile(`option == "(\w+)"`).FindAllStringSubmatch(read(t, "store/nats/module.go"), -1) {
		options["nats"] = append(options["nats"], m[1])
	}
	for receiver, at := range map[string]struct{ page, heading string }{
		"Handler": {"directives.md", "## sse"}, "TestPage": {"directives.md", "## sse_test"}, "CORS": {"directives.md", "## sse_cors"},
		"HubConfig": {"hubs.md", "# Hubs"}, "nats": {"stores.md", "## nats"},
	} {
		text := section(t, "\n"+reference(t, at.page), at.heading)
		same(t, at.page+" "+at.heading, names(text, "option"), options[receiver])
	}
}

// TestReferenceHasTheDefaults: the tables have the defaults that the comments in the code
// end with.
func TestReferenceHasTheDefaults(t *testing.T) {
	rows := make(map[string]string) // of options: the last cell
	for page, heading := range map[string]string{"directives.md": "## sse", "hubs.md": "# Hubs"} {
		text, _, _ := strings.Cut(section(t, "\n"+reference(t, page), heading), "\n### ")
		for _, m := range regexp.MustCompile("(?m)^\\| `(\\w+)[^`]*` \\| .* \\| ([^|]*) \\|$").FindAllStringSubmatch(text, -1) {
			rows[m[1]] = m[2]
		}
	}
	// The Caddyfile has one option for two fields, and other words for sizes.
	written := strings.NewReplacer("retry_min", "retry", "history_age", "history")
	words := map[string]string{
		"no limit": "none", "false; they are refused with status 401": "off: 401", "1s and 5s": "`1s 5s`",
		"10000": "`10000 24h`", "24h": "`10000 24h`", "67108864 (64 MiB)": "`64MiB`", "1048576 (1 MiB)": "`1MiB`",
		"none; the history is in memory": "`memory`", "none": "none",
	}
	checked := 0
	for file, of := range map[string]string{"module.go": "Handler", "app.go": "HubConfig"} {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok || spec.Name.Name != of {
				return true
			}
			for _, field := range spec.Type.(*ast.StructType).Fields.List {
				_, def, documented := strings.Cut(strings.Join(strings.Fields(field.Doc.Text()), " "), "Default: ")
				if field.Tag == nil || !documented {
					continue
				}
				name, _, _ := strings.Cut(reflect.StructTag(strings.Trim(field.Tag.Value, "`")).Get("json"), ",")
				name = written.Replace(name)
				def = strings.TrimSuffix(def, ".")
				want, ok := words[def]
				if !ok {
					want = "`" + strings.Trim(def, `"`) + "`"
				}
				if rows[name] != want {
					t.Errorf("the default of %s is %s, and the page has %s", name, want, rows[name])
				}
				checked++
			}
			return false
		})
	}
	if checked != 20 {
		t.Errorf("%d fields have a default", checked)
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestReferenceHasAllOptionsInJSON: the page on JSON names each of them.
func TestReferenceHasAllOptionsInJSON(t *testing.T) {
	page := section(t, reference(t, "json.md"), "## Modules")
	for _, module := range []any{Handler{}, App{}, HubConfig{}, CORS{}, TestPage{}} {
		for _, field := range tagsOf(reflect.TypeOf(module), false) {
			if !strings.Contains(page, "`"+field+"`") {
				t.Errorf("%T has the option %s, and json.md does not", module, field)
			}
		}
	}
}

// tagsOf are the names of the fields of a struct in JSON, and deep also of what is
// in it.
func tagsOf(of reflect.Type, deep bool) (fields []string) {
	switch of.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		return tagsOf(of.Elem(), deep)
	case reflect.Struct:
	default:
		return nil
	}
	for f := range of.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name != "" && name != "-" {
			fields = append(fields, name)
		}
		if deep && (name != "" || f.Anonymous) {
			fields = append(fields, tagsOf(f.Type, deep)...)
		}
	}
	return fields
}

// TestReferenceHasAllMetrics: the page has all metrics, with their labels and reasons.
func TestReferenceHasAllMetrics(t *testing.T) {
	page := reference(t, "metrics.md")
	var there, labelled []string
	for _, m := range regexp.MustCompile(`desc\("(\w+)", ".*?"(?:, "(\w+)")?\)`).FindAllStringSubmatch(read(t, "metrics.go"), -1) {
		there = append(there, "caddy_sse_"+m[1])
		if m[2] != "" {
			labelled = append(labelled, "caddy_sse_"+m[1]+" "+m[2])
		}
	}
	same(t, "metrics", names(page, "metric | type"), there)
	var shown []string
	for _, m := range regexp.MustCompile("(?m)^\\| `(\\w+)` \\| \\w+ \\| \\[?`(protocol|reason)`").FindAllStringSubmatch(page, -1) {
		shown = append(shown, m[1]+" "+m[2])
	}
	same(t, "metrics with labels", shown, labelled)

	all := reasons()
	errors := section(t, reference(t, "errors.md"), "## Reasons")
	var known []string
	for metric, there := range all {
		m := regexp.MustCompile("(?m)^\\| `" + metric + "` \\| (`.*) \\|$").FindStringSubmatch(section(t, page, "## Reasons"))
		if m == nil {
			t.Fatalf("the reasons of %s are missing", metric)
		}
		var shown []string
		for _, m := range code.FindAllStringSubmatch(m[1], -1) {
			if m[1] != "hub" {
				shown = append(shown, m[1])
			}
		}
		same(t, "reasons of "+metric, shown, there)
		known = append(known, there...)
	}
	same(t, "reasons", names(errors, "reason"), known)
}

// reasons are all reasons in labels, by metric.
func reasons() map[string][]string {
	h := hub.New(hub.Options{})
	defer h.Close()
	stats := h.Stats()
	rejected := slices.Collect(maps.Keys(stats.Rejected))
	return map[string][]string{
		"caddy_sse_connections_closed_total": slices.Collect(maps.Keys(stats.Closed)),
		"caddy_sse_rejected_total":           append(rejected, slices.Collect(maps.Values(streamRefusals))...),
		"caddy_sse_gaps_total":               slices.Collect(maps.Keys(stats.Gaps)),
		"caddy_sse_publishes_refused_total": append(slices.Collect(maps.Values(publishRefusals)),
			notStored, storeUncertain, canceled, "unknown_hub"),
	}
}

// TestReferenceHasAllOfTheAPI: each call has a heading, and each field of its answer a
// row below it.
func TestReferenceHasAllOfTheAPI(t *testing.T) {
	page := reference(t, "api.md")
	d := readOpenAPI(t)
	shown := make(map[string]string) // operation -> section
	for path := range d.at(d.root, "paths") {
		for method := range d.at(d.root, "paths", path) {
			if method == "parameters" {
				continue
			}
			operation, _ := d.at(d.root, "paths", path, method)["operationId"].(string)
			shown[operation] = section(t, page, "## `"+strings.ToUpper(method)+" "+path+"`")
		}
	}
	everything := []string{
		"hub", "limit", "after", "next", "missing", "add", "remove", "user", "session", "topic",
		"connection", "id", "type", "data", "text", "slot", "key", "ttl",
	}
	for operation, answer := range answers {
		if answer == nil || slices.Contains([]string{"broadcast", "disconnectOne", "changeTopicsOfOne", "showWhy"}, operation) {
			continue // the page says that the answer is that of another, or where it stands
		}
		for _, field := range tagsOf(reflect.TypeOf(answer), true) {
			everything = append(everything, field)
			if !strings.Contains(shown[operation], "`"+field+"`") {
				t.Errorf("%s: the answer has %s, and the page does not", operation, field)
			}
		}
	}
	events := section(t, page, "## `GET /sse/events`")
	same(t, "events", names(events, "field"), tagsOf(reflect.TypeFor[eventView](), false))
	for _, field := range append(names(page, "field"), names(page, "field of a row")...) {
		if !slices.Contains(everything, field) && !strings.Contains(events, "`"+field+"`") {
			t.Errorf("the page has a field %s", field)
		}
	}
	for _, field := range tagsOf(reflect.TypeFor[whyAnswer](), true) {
		if !strings.Contains(read(t, "docs/why.md"), field) && !strings.Contains(read(t, "docs/openapi.yaml"), field+":") {
			t.Errorf("the answer of showWhy has %s, and the page does not", field)
		}
	}
}

// TestReferenceHasTheLimits: those that have a name in the code are those of the page.
func TestReferenceHasTheLimits(t *testing.T) {
	page := reference(t, "limits.md")
	for what, limit := range map[string]int{
		"targets of one event":                             hub.MaxTargets,
		"the name of a user, connection, session or topic": hub.MaxNameLength,
		"`key`":                                    hub.MaxKeyLength,
		"`slot`":                                   hub.MaxSlotLength,
		"how long a `key` is remembered":           int(hub.KeyLifetime.Minutes()),
		"`max_event_size`":                         hub.MaxEventSizeLimit >> 30,
		"events of a batch":                        maxBatch,
		"body of a batch":                          maxBatchBytes >> 20,
		"topics that a client asks for":            maxAskedTopics,
		"names in `grants`":                        maxGrants,
		"topics that `PATCH` adds, or removes":     maxChange,
		"rows of a listing":                        maxPage,
		"rows of `GET /sse/why`":                   maxRows,
		"filters of `GET /sse/events`":             maxAskedTopics,
		"`expires`":                                int(maxLogin.Hours() / 24 / 365),
		"`ttl`":                                    int(maxTTL.Hours() / 24 / 365),
		"Caddy events that wait for slow handlers": maxReports,
		"a publish tries to reach the store":       int(hub.PublishTimeout.Seconds()),
	} {
		number := fmt.Sprint(limit)
		if limit >= 1000 {
			number = fmt.Sprintf("%d,%03d", limit/1000, limit%1000)
		}
		if !regexp.MustCompile(`(?m)^\| ` + regexp.QuoteMeta(what) + ` \| ` + number + `\b`).MatchString(page) {
			t.Errorf("limits.md does not say that %s is %s", what, number)
		}
	}
	for option, value := range map[string]int{"`history`": hub.DefaultMaxEvents, "`history_size`": hub.DefaultMaxBytes >> 20, "`max_event_size`": hub.DefaultMaxEventSize >> 20} {
		if m := regexp.MustCompile(`(?m)^\| .* \| ([\d,]+).* \| \[` + option + `\]`).FindStringSubmatch(page); m == nil || strings.ReplaceAll(m[1], ",", "") != fmt.Sprint(value) {
			t.Errorf("limits.md does not say that the default of %s is %d", option, value)
		}
	}
}

// TestReferenceQuotesTheLog: what the log says in the page, and how refusals begin, is in
// the code.
func TestReferenceQuotesTheLog(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, file := range files {
		if !strings.HasSuffix(file, "_test.go") {
			all.WriteString(read(t, file))
		}
	}
	page := reference(t, "errors.md")
	quotes := regexp.MustCompile("(?m)^\\| `([^`]+)` \\| .* \\|$").FindAllStringSubmatch(section(t, page, "## Errors of the config"), -1)
	quotes = append(quotes, regexp.MustCompile("(?m)^\\| 40\\d `([^`…]*?)(?: …|…)` ").FindAllStringSubmatch(page, -1)...)
	if len(quotes) < 9 {
		t.Errorf("there are %d quotes", len(quotes))
	}
	for _, quote := range quotes {
		text := strings.NewReplacer("topic 1 of the query", "topic %d of the query").Replace(strings.TrimSpace(quote[1]))
		if !strings.Contains(all.String(), text) {
			t.Errorf("the page quotes %q, which is not in the code", text)
		}
	}
}

// TestReadmeHasTheFigures: those of the README are those of the last run of the benchmark.
func TestReadmeHasTheFigures(t *testing.T) {
	results := read(t, "bench/RESULTS.md")
	figure := func(heading, server string, column int) float64 {
		t.Helper()
		m := regexp.MustCompile(`(?m)^\| ` + server + ` \| (.*) \|$`).FindStringSubmatch(section(t, results, heading))
		if m == nil {
			t.Fatalf("%s: there is no %s", heading, server)
		}
		value, err := strconv.ParseFloat(strings.Split(m[1], " | ")[column], 64)
		if err != nil {
			t.Fatalf("%s: %s: %v", heading, server, err)
		}
		return value
	}
	for _, row := range []struct {
		what, unit, heading string
		column              int
	}{
		{"CPU of a delivery, 5,000 streams at 5 events/s | HTTP/1.1, cleartext", "µs", "## Broadcast to 5,000 streams at 5 events/s, h1 cleartext", 0},
		{"CPU of a delivery, 2,000 streams at 5 events/s | HTTP/1.1, TLS", "µs", "## Broadcast to 2,000 streams at 5 events/s, h1 over TLS", 0},
		{"CPU of a delivery, 1,000 streams at 5 events/s | HTTP/2", "µs", "## Broadcast to 1,000 streams at 5 events/s, h2, a connection each", 0},
		{"memory of an idle stream | HTTP/1.1, cleartext", "KB", "## Resident memory per idle connection", 0},
		{"memory of an idle stream | HTTP/1.1, TLS", "KB", "## Resident memory per idle connection", 2},
		{"memory of an idle stream | HTTP/2", "KB", "## Resident memory per idle connection", 4},
	} {
		cells := []string{row.what}
		for _, server := range []string{"caddy-sse", "Nchan", "Centrifuge", "empty Caddy handler"} {
			cells = append(cells, fmt.Sprintf("%.1f %s", figure(row.heading, server, row.column), row.unit))
		}
		line := "| " + strings.Join(cells, " | ") + " |"
		if !strings.Contains(read(t, "README.md"), line+"\n") {
			t.Errorf("the README does not have\n%s", line)
		}
	}
}

// TestDocsLink: each link from a page to a file of the repository, or to a heading,
// leads there.
func TestDocsLink(t *testing.T) {
	var pages []string
	for _, folder := range []string{".", "docs", "client", "bench", "e2e"} {
		err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case d.IsDir() && path != folder && (folder != "docs" || d.Name() == "node_modules"):
				return fs.SkipDir
			case filepath.Ext(path) == ".md":
				pages = append(pages, path)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	fenced := regexp.MustCompile("(?ms)^```.*?^```$")
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	for _, page := range pages {
		text := fenced.ReplaceAllString(read(t, page), "")
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			if strings.Contains(m[1], ":") || strings.HasPrefix(m[1], "<") {
				continue // of another site
			}
			file, anchor, _ := strings.Cut(m[1], "#")
			target := page
			if file != "" {
				target = filepath.Join(filepath.Dir(page), file)
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s links to %s, which is not there", page, m[1])
				continue
			}
			if anchor != "" && filepath.Ext(target) == ".md" && !slices.Contains(anchors(fenced.ReplaceAllString(read(t, target), "")), anchor) {
				t.Errorf("%s links to %s: there is no such heading", page, m[1])
			}
		}
	}
}

var (
	heading = regexp.MustCompile(`(?m)^#+ (.*)$`)
	dropped = regexp.MustCompile(`[^\p{L}\p{N}_\- ]`)
)

// anchors are those that GitHub gives to headings.
func anchors(page string) (found []string) {
	for _, m := range heading.FindAllStringSubmatch(page, -1) {
		found = append(found, strings.ReplaceAll(dropped.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-"))
	}
	return found
}
