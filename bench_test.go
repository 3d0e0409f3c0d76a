package caddysse_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	caddysse "github.com/ea766355/caddy-sse"
)

// discardWriter is a response writer without costs.
type discardWriter struct {
	header http.Header
	status int
}

func (w *discardWriter) Header() http.Header         { return w.header }
func (w *discardWriter) WriteHeader(status int)      { w.status = status }
func (w *discardWriter) Write(p []byte) (int, error) { return len(p), nil }

// BenchmarkPublishRequest measures the share of this module in a publish over the admin endpoint:
// the handler from the request to the answer, without net/http and Caddy's log.
func BenchmarkPublishRequest(b *testing.B) {
	start(b, "", bothWays(""))
	handler := new(caddysse.AdminAPI).Routes()[0].Handler
	payload := strings.Repeat("x", 200)
	bodies := map[string]string{
		"user":          fmt.Sprintf(`{"user":"alice","type":"order_update","data":{"orderId":"123","status":%q}}`, payload),
		"user with key": fmt.Sprintf(`{"user":"alice","type":"order_update","data":{"orderId":"123","status":%q},"key":"0192f0c4-1"}`, payload),
	}
	for name, body := range bodies {
		b.Run(name, func(b *testing.B) {
			r, err := http.NewRequest("POST", "/sse/send", nil)
			if err != nil {
				b.Fatal(err)
			}
			r.Header.Set("Content-Type", "application/json")
			w := &discardWriter{header: make(http.Header)}
			var reader bytes.Reader
			r.Body = io.NopCloser(&reader)
			read := []byte(body)
			b.ReportAllocs()
			for b.Loop() {
				clear(w.header)
				w.status = 0
				reader.Reset(read)
				if err := handler.ServeHTTP(w, r); err != nil || w.status != http.StatusOK {
					b.Fatal(w.status, err)
				}
			}
		})
	}
}
