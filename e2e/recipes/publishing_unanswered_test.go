package recipes

import (
	"fmt"
	"net"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/ea766355/caddy-sse/e2e"
)

// shortTimeouts shortens the timeouts of the page.
var shortTimeouts = strings.NewReplacer(
	"timeout=12", "timeout=1", "'timeout' => 12", "'timeout' => 1", "timeout(12)", "timeout(1)", "12 * time.Second", "time.Second",
	"timeout(12_000)", "timeout(1_000)", "ofSeconds(12)", "ofSeconds(1)", "--max-time 12", "--max-time 1",
)

// TestPublishingWithoutAnAnswer: if no answer comes, the code of each language ends with an error that
// says what has failed, and shows neither a status nor earlier receipts.
func TestPublishingWithoutAnAnswer(t *testing.T) {
	page := recipes(t, "publishing.md")
	code := make(map[string]string)
	for name := range languages {
		long := take(t, page, name)
		if code[name] = shortTimeouts.Replace(long); code[name] == long {
			t.Fatalf("%s: got no timeout of 12 s, want one", name)
		}
	}
	closing := newClosingServer(t)
	for _, test := range []struct{ fault, scheme, addr string }{
		{"no server", "http", fmt.Sprintf("127.0.0.1:%d", e2e.FreePort(t))},
		{"a name that is not found", "http", "nothing.invalid:80"},
		{"a host that drops packets", "http", listenDeaf(t)},
		{"an end in the TLS handshake", "https", closing.addr},
	} {
		t.Run(test.fault, func(t *testing.T) {
			t.Parallel()
			var running sync.WaitGroup
			for name := range languages {
				cmd := publisher(t, name, strings.Replace(code[name], "http://localhost", test.scheme+"://localhost", 1), test.addr, "order_update")
				running.Go(func() { // most of the time it waits
					out, err := cmd.CombinedOutput()
					says := "not published"
					if name == "go" {
						says = `Post "` + test.scheme
					}
					text := string(out)
					if err == nil || !strings.Contains(text, says) || strings.Contains(text, "published: 503") || strings.Contains(text, "earlier") {
						t.Errorf("%s: got %v, want an error with %q, and neither a status nor earlier receipts\n%s", name, err, says, text)
					}
				})
			}
			running.Wait()
		})
	}
	t.Cleanup(func() {
		// On a busy machine some attempts run out of time before the handshake.
		if n, want := closing.count(), 4*len(languages); n < want {
			t.Errorf("connections that ended in the handshake: got %d, want at least %d", n, want)
		}
	})
}

// listenDeaf returns an address that answers no packet, because its queue of connections is full.
func listenDeaf(t *testing.T) (addr string) {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	syscall.CloseOnExec(fd)
	t.Cleanup(func() { _ = syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	addr = fmt.Sprintf("127.0.0.1:%d", name.(*syscall.SockaddrInet4).Port)
	conn, err := net.Dial("tcp", addr) // a queue of the length 0 takes one connection
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return addr
}

// closingServer closes each connection when it has read the first bytes.
type closingServer struct {
	addr  string
	mu    sync.Mutex
	conns int
}

func newClosingServer(t *testing.T) *closingServer {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &closingServer{addr: listener.Addr().String()}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns++
			s.mu.Unlock()
			_, _ = conn.Read(make([]byte, 1<<14))
			_ = conn.Close()
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		running.Wait()
	})
	return s
}

func (s *closingServer) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conns
}

// TestPublishingFiles: curl publishes each line of a file that is not blank, also a last line without a
// line break. A file without events is an error.
func TestPublishingFiles(t *testing.T) {
	code := take(t, recipes(t, "publishing.md"), "curl")
	lines := regexp.MustCompile(`(?s)^cat > events.ndjson <<END\n.*?\nEND\n`)
	if !lines.MatchString(code) {
		t.Fatalf("curl: got no events in the code, want some:\n%s", code)
	}
	code = strings.Replace(code, "--retry 5", "--retry 0", 1)
	s := e2e.Start(t, e2e.Config{})
	admin := fmt.Sprintf("127.0.0.1:%d", s.Admin)
	nowhere, _ := fake(t, status(http.StatusOK, ""))
	for _, test := range []struct {
		file, text, addr string
		published        bool
	}{
		{"the last line has no line break", `{"user":"bob","data":1}\n{"user":"bob","data":2}`, admin, true},
		{"blank lines", `\n{"user":"bob","data":1}\r\n \r\n\n{"user":"bob","data":2}\n\n`, admin, true},
		{"empty", "", admin, false},
		{"empty, where no route is", "", nowhere, false},
	} {
		t.Run(test.file, func(t *testing.T) {
			text := lines.ReplaceAllLiteralString(code, "printf '"+test.text+"' > events.ndjson\n")
			out, err := runPublisher(t, "curl", text, test.addr, "order_update")
			if says := strings.Contains(out, "not published"); (err == nil) != test.published || says == test.published || strings.Contains(out, "earlier") {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}
