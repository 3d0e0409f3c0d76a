package caddysse

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/ea766355/caddy-sse/hub"
)

// These tests compare docs/reference with the code: the tables have everything that the code has,
// and nothing else. e2e/recipes runs the examples of the pages.

// reference returns a page of docs/reference.
func reference(t *testing.T, page string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("docs", "reference", page))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// section returns the part of a page below a heading.
func section(t *testing.T, page, heading string) string {
	t.Helper()
	_, rest, ok := strings.Cut(page, "\n"+heading+"\n")
	if !ok {
		t.Fatalf("got no heading %q, want one", heading)
	}
	level, _, _ := strings.Cut(heading, " ")
	text, _, _ := strings.Cut(rest, "\n"+level+" ")
	return text
}

var code = regexp.MustCompile("`([\\w.]+)[^`]*`")

// names returns the words in code in the first cells of the tables with this header, sorted.
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

// wantSame checks that the page and the code have the same names.
func wantSame(t *testing.T, what string, shown, inCode []string) {
	t.Helper()
	shown, inCode = slices.Compact(slices.Sorted(slices.Values(shown))), slices.Compact(slices.Sorted(slices.Values(inCode)))
	if !slices.Equal(shown, inCode) {
		t.Errorf("%s of the page: got\n%q\nwant those of the code\n%q", what, shown, inCode)
	}
}

// TestReferenceHasAllOptions: the tables have the same options as the Caddyfile.
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
		wantSame(t, at.page+" "+at.heading, names(text, "option"), options[receiver])
	}
}

// TestReferenceHasTheDefaults: the tables have the defaults at the ends of the comments in the
// code.
func TestReferenceHasTheDefaults(t *testing.T) {
	rows := make(map[string]string) // last cell by option
	for page, heading := range map[string]string{"directives.md": "## sse", "hubs.md": "# Hubs"} {
		text, _, _ := strings.Cut(section(t, "\n"+reference(t, page), heading), "\n### ")
		for _, m := range regexp.MustCompile("(?m)^\\| `(\\w+)[^`]*` \\| .* \\| ([^|]*) \\|$").FindAllStringSubmatch(text, -1) {
			rows[m[1]] = m[2]
		}
	}
	// The Caddyfile has one option for some pairs of fields, and other words for sizes.
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
					t.Errorf("default of %s on the page: got %s, want %s", name, rows[name], want)
				}
				checked++
			}
			return false
		})
	}
	if checked != 20 {
		t.Errorf("fields with a default: got %d, want 20", checked)
	}
}

// read returns the text of a file.
func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestReferenceHasAllOptionsInJSON: the page on JSON names each option.
func TestReferenceHasAllOptionsInJSON(t *testing.T) {
	page := section(t, reference(t, "json.md"), "## Modules")
	for _, module := range []any{Handler{}, App{}, HubConfig{}, CORS{}, TestPage{}} {
		for _, field := range tagsOf(reflect.TypeOf(module), false) {
			if !strings.Contains(page, "`"+field+"`") {
				t.Errorf("json.md: got no option %s of %T, want it", field, module)
			}
		}
	}
}

// tagsOf returns the names of the fields of a struct in JSON. If deep, it also returns those of
// the structs in it.
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

// TestReferenceHasTheLimits: the limits of the page are the constants of the code.
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
			t.Errorf("limits.md: got no row that %s is %s, want one", what, number)
		}
	}
	for option, value := range map[string]int{"`history`": hub.DefaultMaxEvents, "`history_size`": hub.DefaultMaxBytes >> 20, "`max_event_size`": hub.DefaultMaxEventSize >> 20} {
		if m := regexp.MustCompile(`(?m)^\| .* \| ([\d,]+).* \| \[` + option + `\]`).FindStringSubmatch(page); m == nil || strings.ReplaceAll(m[1], ",", "") != fmt.Sprint(value) {
			t.Errorf("limits.md: got no row that the default of %s is %d, want one", option, value)
		}
	}
}

// TestReferenceQuotesTheLog: the code has the errors that the page quotes.
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
		t.Errorf("quotes: got %d, want at least 9", len(quotes))
	}
	for _, quote := range quotes {
		text := strings.NewReplacer("topic 1 of the query", "topic %d of the query").Replace(strings.TrimSpace(quote[1]))
		if !strings.Contains(all.String(), text) {
			t.Errorf("quote %q: got none in the code, want one", text)
		}
	}
}
