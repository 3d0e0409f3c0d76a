package recipes

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/ea766355/caddy-sse/e2e"
)

// checkTracing runs a config with tracing. The spans and attributes that the page names reach
// the endpoint that the environment names.
func checkTracing(t *testing.T, config string) {
	var mu sync.Mutex
	var exported bytes.Buffer
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		exported.Write(body)
	}))
	t.Cleanup(collector.Close)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.URL)
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "50") // milliseconds
	site, api := e2e.FreePort(t), e2e.FreePort(t)
	config = strings.Replace(config, "http://:9182", fmt.Sprintf("http://:%d", api), 1)
	back := serve(t, "", localize(config, "", site, ""))
	s := visitor{t: t, base: fmt.Sprintf("https://example.com:%d", site)}.open("/events", "")
	back.wait(1)
	resp, err := http.Post(fmt.Sprintf("http://127.0.0.1:%d/sse/broadcast", api), "application/json", strings.NewReader(`{"text":"x"}`))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	s.next()
	e2e.Wait(t, e2e.Patience, "the spans", func() error {
		mu.Lock()
		defer mu.Unlock()
		for _, name := range []string{"sse publish", "sse deliver", "sse.hub", "sse.id", "sse.events", "sse.deliveries"} {
			if !bytes.Contains(exported.Bytes(), []byte(name)) {
				return fmt.Errorf("the collector did not receive %q", name)
			}
		}
		return nil
	})
}
