package caddysse

import (
	"cmp"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestMonitoringHasTheLog: the table of the log has each line of the code at its level, and
// no other.
func TestMonitoringHasTheLog(t *testing.T) {
	loggers := map[string]string{ // by file; of others it is the handler
		"app.go": "sse", "report.go": "sse", "unguarded.go": "sse", "grace.go": "sse", "events.go": "sse",
	}
	logged := regexp.MustCompile(`(?:\.(Error|Warn|Info|Debug)\(|\b(report)\{)"([^"]+)"`)
	lines := make(map[string][]string) // by logger and level
	for dir, logger := range map[string]string{".": "http.handlers.sse", "store/disk": "sse.stores.disk", "store/nats": "sse.stores.nats"} {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			for _, m := range logged.FindAllStringSubmatch(read(t, file), -1) {
				name, level := cmp.Or(loggers[file], logger), strings.ToLower(m[1])
				if m[2] == "report" {
					level = "debug"
				}
				lines[name+" "+level] = append(lines[name+" "+level], m[3])
			}
		}
	}
	// A stream of all events has no handler of its own to log with.
	lines["sse error"] = append(lines["sse error"], "cannot stream")
	rows := make(map[string]bool)
	for _, m := range regexp.MustCompile("(?m)^\\| `([\\w.]+)` \\| (\\w+) \\| (`.*`) \\|$").FindAllStringSubmatch(section(t, read(t, "docs/monitoring.md"), "## Caddy-sse's log"), -1) {
		row := m[1] + " " + m[2]
		rows[row] = true
		begins := strings.Split(strings.Trim(m[3], "`"), "`, `")
		for _, begin := range begins {
			if !slices.ContainsFunc(lines[row], func(line string) bool { return strings.HasPrefix(line, begin) }) {
				t.Errorf("%s: no line begins with %q", row, begin)
			}
		}
		for _, line := range lines[row] {
			if !slices.ContainsFunc(begins, func(begin string) bool { return strings.HasPrefix(line, begin) }) {
				t.Errorf("%s: the page does not have %q", row, line)
			}
		}
	}
	for row := range lines {
		if !rows[row] {
			t.Errorf("the page has no row of %s", row)
		}
	}
}
