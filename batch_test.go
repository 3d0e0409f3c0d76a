package caddysse

import (
	"bytes"
	"fmt"
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
