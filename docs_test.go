package caddysse

import (
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestReadmeHasTheFigures: the README has the figures of the last run of the benchmark.
func TestReadmeHasTheFigures(t *testing.T) {
	results := read(t, "bench/RESULTS.md")
	// figure returns a figure with its unit, or a dash for a server without this protocol.
	figure := func(heading, server string, column int, unit string) string {
		t.Helper()
		m := regexp.MustCompile(`(?m)^\| ` + server + ` \| (.*) \|$`).FindStringSubmatch(section(t, results, heading))
		if m == nil {
			t.Fatalf("%s: got no row of %s, want one", heading, server)
		}
		cells := strings.Split(m[1], " | ")
		if column >= len(cells) || cells[column] == "-" || cells[0] == "not of this kind" {
			return "–"
		}
		value, err := strconv.ParseFloat(cells[column], 64)
		if err != nil {
			t.Fatalf("%s: %s: %v", heading, server, err)
		}
		return fmt.Sprintf("%.1f %s", value, unit)
	}
	for _, row := range []struct {
		what, unit, heading string
		column              int
	}{
		{"CPU of a delivery, 5,000 streams at 5 events/s | HTTP/1.1, cleartext", "µs", "## Broadcast to 5,000 streams at 5 events/s, h1 cleartext", 0},
		{"CPU of a delivery, 2,000 streams at 5 events/s | HTTP/1.1, TLS", "µs", "## Broadcast to 2,000 streams at 5 events/s, h1 over TLS", 0},
		{"CPU of a delivery, 1,000 streams at 5 events/s | HTTP/2", "µs", "## Broadcast to 1,000 streams at 5 events/s, h2, a connection each", 0},
		{"CPU of a delivery, 1,000 streams at 5 events/s | HTTP/3", "µs", "## Broadcast to 1,000 streams at 5 events/s, h3, a connection each", 0},
		{"memory of an idle stream | HTTP/1.1, cleartext", "KB", "## Resident memory per idle connection", 0},
		{"memory of an idle stream | HTTP/1.1, TLS", "KB", "## Resident memory per idle connection", 3},
		{"memory of an idle stream | HTTP/2", "KB", "## Resident memory per idle connection", 6},
		{"memory of an idle stream | HTTP/3", "KB", "## Resident memory per idle connection", 9},
	} {
		cells := []string{row.what}
		for _, server := range []string{"caddy-sse", "Nchan", "Centrifuge", "empty Caddy handler"} {
			cells = append(cells, figure(row.heading, server, row.column, row.unit))
		}
		line := "| " + strings.Join(cells, " | ") + " |"
		if !strings.Contains(read(t, "README.md"), line+"\n") {
			t.Errorf("README: got no line\n%s\nwant it", line)
		}
	}
}

// TestDocsScalingHasTheFigures: the variables of docs/scaling.md are those of the last run of the benchmark,
// and its table on paper follows from them. Figures are rounded: they may differ by 4 %.
func TestDocsScalingHasTheFigures(t *testing.T) {
	results, page := read(t, "bench/RESULTS.md"), read(t, "docs/scaling.md")
	row := func(text, name string) []string {
		t.Helper()
		m := regexp.MustCompile(`(?m)^\| ` + regexp.QuoteMeta(name) + ` \| (.*) \|$`).FindStringSubmatch(text)
		if m == nil {
			t.Fatalf("got no row %q, want one", name)
		}
		return strings.Split(m[1], " | ")
	}
	number := func(cell string) float64 {
		t.Helper()
		n, err := strconv.ParseFloat(strings.ReplaceAll(regexp.MustCompile(`[\d.,]*\d`).FindString(cell), ",", ""), 64)
		if err != nil {
			t.Fatalf("%q has no number", cell)
		}
		return n
	}
	check := func(what, cell string, want float64) {
		t.Helper()
		if got := number(cell); math.Abs(got-want) > 0.04*want {
			t.Errorf("docs/scaling.md: %s: got %s, want %.3g", what, cell, want)
		}
	}

	memory := row(page, "memory of an idle connection, without the kernel's")
	delivery := row(page, "CPU of a delivery, at 5 events/s")
	connect := row(page, "CPU of a connect, without that of your authentication")
	measured := func(heading string) []string { return row(section(t, results, heading), "caddy-sse") }
	idle := measured("## Resident memory per idle connection")
	opened := measured("## Streams opened, 64 at a time: 5,000 over h1 cleartext, 1,000 over the others")
	for i, heading := range []string{
		"## Broadcast to 5,000 streams at 5 events/s, h1 cleartext", "## Broadcast to 2,000 streams at 5 events/s, h1 over TLS",
		"## Broadcast to 1,000 streams at 5 events/s, h2, a connection each", "## Broadcast to 1,000 streams at 5 events/s, h3, a connection each",
	} {
		check("memory of an idle connection", memory[i], number(idle[3*i]))
		check("CPU of a delivery", delivery[i], number(measured(heading)[0]))
		check("CPU of a connect", connect[i], number(opened[2*i]))
	}

	receive, bytes := number(row(page, "CPU to receive an event from NATS, for any receiver")[0]), number(row(page, "bytes from NATS for an event of 240 bytes")[0])
	for _, name := range []string{"10,000", "100,000", "1,000,000", "10,000,000"} {
		cells, streams := row(page, name), number(name)
		sizes, each := strings.Split(cells[0], " GB, "), strings.Split(cells[3], " MB/s, ")
		if len(sizes) != len(memory) || len(each) != 2 {
			t.Fatalf("docs/scaling.md: %s streams: got %q and %q, want figures in GB, and one in MB/s", name, cells[0], cells[3])
		}
		for i, cell := range sizes {
			check(name+" streams: memory in GB", cell, streams*number(memory[i])/1e6)
		}
		check(name+" streams: CPUs", cells[1], streams*(1./60+1./15)*number(delivery[0])/1e6)
		check(name+" streams: events", cells[2], streams/60)
		check(name+" streams: MB/s of each node", each[0], streams/60*bytes/1e6)
		check(name+" streams: % of a CPU of each node", each[1], streams/60*receive/1e4)
		check(name+" streams: a broadcast", cells[4], streams*number(delivery[0])/1e6)
	}
}

// TestDocsLink: each link from a page to a file of the repository or to a heading has a target.
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
				continue // a link to another site
			}
			file, anchor, _ := strings.Cut(m[1], "#")
			target := page
			if file != "" {
				target = filepath.Join(filepath.Dir(page), file)
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: the link %s has no file", page, m[1])
				continue
			}
			if anchor != "" && filepath.Ext(target) == ".md" && !slices.Contains(anchors(fenced.ReplaceAllString(read(t, target), "")), anchor) {
				t.Errorf("%s: the link %s has no heading", page, m[1])
			}
		}
	}
}

var (
	heading = regexp.MustCompile(`(?m)^#+ (.*)$`)
	dropped = regexp.MustCompile(`[^\p{L}\p{N}_\- ]`)
)

// anchors returns the anchors that GitHub gives to the headings of a page.
func anchors(page string) (found []string) {
	for _, m := range heading.FindAllStringSubmatch(page, -1) {
		found = append(found, strings.ReplaceAll(dropped.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-"))
	}
	return found
}
