package caddysse

import (
	"bytes"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/ea766355/caddy-sse/hub"
)

// largeBatch is a batch of many events to many users.
func largeBatch(events int) []byte {
	names := make([]string, hub.MaxTargets)
	for i := range names {
		names[i] = fmt.Sprintf(`"%05d"`, i)
	}
	line := fmt.Sprintf("{\"user\":[%s],\"data\":1}\n", strings.Join(names, ","))
	return bytes.Repeat([]byte(line), events)
}

// The names in a list share one allocation.
func TestNamesAreReadTogether(t *testing.T) {
	body := largeBatch(1)
	allocs := testing.AllocsPerRun(100, func() {
		var event hub.Event
		if err := readEvent(&event, body, false); err != nil || len(event.Targets) != hub.MaxTargets || event.Targets[7].Name != "00007" {
			t.Fatal(err)
		}
	})
	if allocs > 50 {
		t.Errorf("an event for %d users takes %v allocations to read", hub.MaxTargets, allocs)
	}
}

// The names in the query of a stream are compared with the parameters once: a client may send
// thousands of names.
func TestNamesInAQueryAreReadOnce(t *testing.T) {
	const names = 1000
	query := url.Values{}
	for i := range names {
		query.Set(fmt.Sprint("a", i), "")
	}
	r := &http.Request{URL: &url.URL{RawQuery: query.Encode()}}
	parse := testing.AllocsPerRun(10, func() {
		if _, err := url.ParseQuery(r.URL.RawQuery); err != nil {
			t.Fatal(err)
		}
	})
	allocs := testing.AllocsPerRun(10, func() {
		if _, err := streamQuery(r); err != nil {
			t.Fatal(err)
		}
	})
	if got := (allocs - parse) / names; got > 2 {
		t.Errorf("a name takes %v allocations to compare, want at most 2", got)
	}
}
