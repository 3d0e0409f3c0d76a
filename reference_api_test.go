package caddysse

import (
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/ea766355/caddy-sse/hub"
)

// TestReferenceHasAllMetrics: the page has all metrics, with their labels and reasons.
func TestReferenceHasAllMetrics(t *testing.T) {
	page := reference(t, "metrics.md")
	var inCode, labelled []string
	for _, m := range regexp.MustCompile(`desc\("(\w+)", ".*?"(?:, "(\w+)")?\)`).FindAllStringSubmatch(read(t, "metrics.go"), -1) {
		inCode = append(inCode, "caddy_sse_"+m[1])
		if m[2] != "" {
			labelled = append(labelled, "caddy_sse_"+m[1]+" "+m[2])
		}
	}
	wantSame(t, "metrics", names(page, "metric | type"), inCode)
	var shown []string
	for _, m := range regexp.MustCompile("(?m)^\\| `(\\w+)` \\| \\w+ \\| \\[?`(protocol|reason)`").FindAllStringSubmatch(page, -1) {
		shown = append(shown, m[1]+" "+m[2])
	}
	wantSame(t, "metrics with labels", shown, labelled)

	all := reasons()
	errors := section(t, reference(t, "errors.md"), "## Reasons")
	var known []string
	for metric, inCode := range all {
		m := regexp.MustCompile("(?m)^\\| `" + metric + "` \\| (`.*) \\|$").FindStringSubmatch(section(t, page, "## Reasons"))
		if m == nil {
			t.Fatalf("reasons of %s: got no row, want one", metric)
		}
		var shown []string
		for _, m := range code.FindAllStringSubmatch(m[1], -1) {
			if m[1] != "hub" {
				shown = append(shown, m[1])
			}
		}
		wantSame(t, "reasons of "+metric, shown, inCode)
		known = append(known, inCode...)
	}
	wantSame(t, "reasons", names(errors, "reason"), known)
}

// reasons returns all reasons in labels, by metric.
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

// TestReferenceHasAllOfTheAPI: each call has a heading, and each field of its response has a row
// below it.
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
			continue // the page refers to the response of another call, or to another page
		}
		for _, field := range tagsOf(reflect.TypeOf(answer), true) {
			everything = append(everything, field)
			if !strings.Contains(shown[operation], "`"+field+"`") {
				t.Errorf("fields of %s on the page: got no %s, want it", operation, field)
			}
		}
	}
	events := section(t, page, "## `GET /sse/events`")
	wantSame(t, "events", names(events, "field"), tagsOf(reflect.TypeFor[eventView](), false))
	for _, field := range append(names(page, "field"), names(page, "field of a row")...) {
		if !slices.Contains(everything, field) && !strings.Contains(events, "`"+field+"`") {
			t.Errorf("fields on the page: got %s, want only those of the code", field)
		}
	}
	for _, field := range tagsOf(reflect.TypeFor[whyAnswer](), true) {
		if !strings.Contains(read(t, "docs/why.md"), field) && !strings.Contains(read(t, "docs/openapi.yaml"), field+":") {
			t.Errorf("fields of showWhy on the page: got no %s, want it", field)
		}
	}
}
