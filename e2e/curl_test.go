package e2e

import (
	"bufio"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestCurl: curl reads streams as the documentation says.
func TestCurl(t *testing.T) {
	s := Start(t, Config{})
	p := s.Publisher()
	for _, test := range []struct {
		version string
		args    []string
	}{
		{"1.1", []string{fmt.Sprintf("http://127.0.0.1:%d/events", s.HTTP)}},
		{"2", []string{
			"--http2", "--cacert", filepath.Join(s.dir, "data/caddy/pki/authorities/local/root.crt"),
			"--resolve", fmt.Sprintf("localhost:%d:127.0.0.1", s.HTTPS), fmt.Sprintf("https://localhost:%d/events", s.HTTPS),
		}},
	} {
		t.Run("HTTP "+test.version, func(t *testing.T) {
			curl := exec.CommandContext(t.Context(), "curl", append([]string{"-N", "-sS", "-i"}, test.args...)...)
			out, err := curl.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := curl.Start(); err != nil {
				t.Fatal("the tests need curl: ", err)
			}
			defer func() {
				_ = curl.Process.Kill()
				_ = curl.Wait()
			}()
			lines := bufio.NewScanner(out)
			expect := func(want string) {
				t.Helper()
				for lines.Scan() {
					if strings.HasPrefix(lines.Text(), want) {
						return
					}
				}
				t.Fatalf("curl's output ended before %q: %v", want, lines.Err())
			}
			expect("HTTP/" + test.version + " 200")
			expect("retry: ")
			expect("event: sse.connected")
			expect("id: ")
			if err := p.Publish(t.Context(), Event{To: Everybody}); err != nil {
				t.Fatal(err)
			}
			entry := p.Ledger.entries[p.Ledger.Len()-1]
			expect("data: " + payload(entry.N, 0))
			expect("id: " + entry.Position.String())
		})
	}
}
