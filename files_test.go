//go:build unix

package caddysse_test

import (
	"fmt"
	"net/http"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// limitFiles limits the open files of the process to some more than it has, plus 64.
func limitFiles(t *testing.T, some int) {
	t.Helper()
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	next, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	limit := before
	limit.Cur = uint64(int(next.Fd()) + some + 64)
	next.Close()
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
			t.Error(err)
		}
	})
}

// awaitSameFiles waits until the number of open files is the same for a while: each connection of an earlier
// test that is closed later makes room for a stream.
func awaitSameFiles(t *testing.T) {
	t.Helper()
	files, same := 0, 0
	eventually(t, "the connections of earlier tests to be closed", func() bool {
		names, err := os.ReadDir("/dev/fd")
		if err != nil {
			t.Fatal(err)
		}
		if same++; len(names) != files {
			files, same = len(names), 0
		}
		return same >= 50
	})
}

// TestStreamsSpareFiles: streams never use the last file descriptors, so that other requests still
// work. The server closes the connection of a rejected stream.
func TestStreamsSpareFiles(t *testing.T) {
	const (
		some = 40 // half of them are the clients'
		few  = 4
	)
	for _, name := range []string{"h1", "h1 TLS", "h2"} {
		t.Run(name, func(t *testing.T) {
			s := startTLS(t, "", bothWays(""))
			fresh := func() (*http.Client, string) {
				for _, p := range protocols(t) {
					if p.name == name {
						return p.client, p.url(s) + "/events"
					}
				}
				t.Fatalf("there is no protocol %s", name)
				return nil, ""
			}
			early, url := fresh()
			openWith(t, early, url)
			awaitSameFiles(t)
			limitFiles(t, some)
			var streams []*stream
			var clients []*http.Client // of the streams
			var last *stream
			var late *http.Client
			for range some {
				late, _ = fresh()
				if last = openWith(t, late, url); last.id == "" {
					break
				}
				streams, clients = append(streams, last), append(clients, late)
			}
			if last.connected.event != "sse.rejected" || len(streams) < some/4 {
				t.Fatalf("after %d streams came %+v", len(streams), last.connected)
			}
			last.ended()
			t.Logf("%d streams were admitted", len(streams))

			// Many more clients connect and are rejected. Each uses files for a moment. The files
			// of clients and of idle connections belong to this process, too. A few of them may be
			// closed meanwhile, which makes room.
			rejected := 1
			for range 2 * some {
				client, url := fresh()
				st := openWith(t, client, url)
				if st.id != "" {
					streams, clients = append(streams, st), append(clients, client)
					continue
				}
				st.ended()
				rejected++
			}
			if rejected < 2*some-few {
				t.Errorf("%d of %d were rejected", rejected, 2*some+1)
			}
			if got := s.send(`{"text":"still here"}`).Connections; got != len(streams)+1 {
				t.Errorf("it is for %d streams, want %d", got, len(streams)+1)
			}
			for _, st := range streams {
				st.expect("still here")
			}
			if n := s.metric(fmt.Sprintf(`caddy_sse_rejected_total{hub="default",reason=%q}`, "max_connections")); int(n) != rejected {
				t.Errorf("%v are counted as rejected, want %d", n, rejected)
			}
			if name == "h2" {
				if openWith(t, early, url).id == "" {
					t.Error("a stream on a connection of HTTP/2 that has long been there takes no file, and was rejected")
				}
			}

			// When some clients have left, others are admitted, also those that were rejected.
			for i, st := range streams[:len(streams)/2] {
				st.close()
				clients[i].CloseIdleConnections()
			}
			eventually(t, "those that left to be gone", func() bool {
				st := openWith(t, late, url)
				defer st.close()
				return st.id != ""
			})
		})
	}
}
