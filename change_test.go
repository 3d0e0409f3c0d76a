package caddysse

import (
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	"github.com/ea766355/caddy-sse/hub"
)

// TestLargeChange: a change of topics with far too many names takes no memory for each of them.
func TestLargeChange(t *testing.T) {
	for _, element := range []string{`1,`, `"a",`} {
		body := `{"add":[` + strings.Repeat(element, 8<<20/len(element)-10) + `"b"]}`
		r := httptest.NewRequest("PATCH", "/sse/connections?all=true", strings.NewReader(body))
		r.Header.Set("Content-Type", typeJSON)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err := readChange(httptest.NewRecorder(), r, new(hub.TopicChange))
		runtime.ReadMemStats(&after)
		if err == nil {
			t.Error("the change is accepted")
		}
		if n := after.TotalAlloc - before.TotalAlloc; n > 25*uint64(len(body)) {
			t.Errorf("%d bytes are allocated for a body of %d bytes", n, len(body))
		}
	}
}
