//go:build linux

package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

// TestPromise12ProcessTakesWhatTheDocsSay fills histories of several shapes, and compares the
// memory of the process with the formula of docs/scaling.md: the idle process plus 2.5 times
// history_size. Go's collector lets the heap grow to twice the live heap, and to more while
// much is published.
func TestPromise12ProcessTakesWhatTheDocsSay(t *testing.T) {
	const size = 128 << 20
	for _, shape := range []struct {
		name   string
		events int // more than fit into the history
		event  func(i int) string
	}{
		{"1 KB events to one topic", 200_000, func(int) string {
			return fmt.Sprintf(`{"topic":"news/1","data":"%s"}`, strings.Repeat("x", 1000))
		}},
		{"tiny events to distinct users", 600_000, func(i int) string {
			return fmt.Sprintf(`{"user":"user-%d","data":1}`, i)
		}},
	} {
		t.Run(shape.name, func(t *testing.T) {
			s := Start(t, Config{Plain: true, Hub: fmt.Sprintf("history 10000000\n history_size %dMiB", size>>20)})
			idle := s.Resident()
			const batch = 1000
			for first := 0; first < shape.events; first += batch {
				var body bytes.Buffer
				for i := first; i < first+batch; i++ {
					fmt.Fprintln(&body, shape.event(i))
				}
				resp, err := http.Post(fmt.Sprintf("http://127.0.0.1:%d/sse/send", s.Admin), "application/x-ndjson", &body)
				if err != nil {
					t.Fatal(err)
				}
				answer, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				if resp.StatusCode != http.StatusOK {
					t.Fatalf("batch %d: %s %.300s", first/batch, resp.Status, answer)
				}
			}
			if n := s.Status().Bytes; n < size*9/10 {
				t.Fatalf("bytes of the history: got %d, want at least %d (it is not full)", n, size*9/10)
			}
			took := s.Peak()
			documented := idle + size*5/2
			ratio := float64(took) / float64(documented)
			t.Logf("idle %d MiB, at most %d MiB: %.2f of what the docs say; live heap %d MiB", idle>>20, took>>20, ratio, s.Heap()>>20)
			if ratio < 0.8 || ratio > 1.2 {
				t.Errorf("memory of the process: got %d MiB, want within 20%% of the %d MiB of the docs", took>>20, documented>>20)
			}
		})
	}
}
