package e2e

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// TestPromise8ExitIsQuickForStuckConnections ends the server when the sockets accept no more
// data, not only a single stream of a connection.
func TestPromise8ExitIsQuickForStuckConnections(t *testing.T) {
	for _, protocol := range []Protocol{H1, H1TLS, H2} {
		t.Run(string(protocol), func(t *testing.T) {
			s := Start(t, Config{Stream: "connection_timeout 10m"})
			p := s.Publisher()
			proxy := proxyTo(t, s, protocol)
			c := s.ClientVia(proxy.Addr, protocol)
			t.Cleanup(c.Close)
			f := Follow(t, c, Identity{User: "stuck"})
			AwaitOpen(t, []*Follower{f})
			proxy.Hold()
			// More than the buffers of sockets and flow control.
			for range 20 {
				if err := p.Publish(t.Context(), slices.Repeat([]Event{{Size: 1 << 19}}, 2)...); err != nil {
					t.Fatal(err)
				}
			}
			if lag, open := s.Lag(f.Identity.User); !open || lag == 0 {
				t.Errorf("lag: got %d (open: %t), want more than 0, or nothing is stuck", lag, open)
			}
			t.Logf("the exit took %s", s.Terminate(5*time.Second))
		})
	}
}

// TestPromise8ExitIsQuickForLateConnections ends the server during the handshake of a client. The
// handshake ends after the shutdown has begun.
func TestPromise8ExitIsQuickForLateConnections(t *testing.T) {
	for _, protocol := range []Protocol{H1TLS, H2} {
		t.Run(string(protocol), func(t *testing.T) {
			s := Start(t, Config{Stream: "retry 20ms 200ms"})
			// The requests that check whether it serves are still running.
			files, same := s.Files(), 0
			Wait(t, Patience, "the server to be quiet", func() error {
				before := files
				if files = s.Files(); files == before {
					same++
				} else {
					same = 0
				}
				if same < 20 {
					return fmt.Errorf("it has %d files, and had %d", files, before)
				}
				return nil
			})
			proxy := proxyTo(t, s, protocol)
			proxy.Hold()
			c := s.ClientVia(proxy.Addr, protocol)
			t.Cleanup(c.Close)
			f := Follow(t, c, Identity{})
			Wait(t, Patience, "the server to accept the connection", func() error {
				if n := s.Files(); n <= files {
					return fmt.Errorf("it has %d files, and had %d", n, files)
				}
				return nil
			})
			if opened, _ := f.Streams(); opened != 0 {
				t.Errorf("streams during the handshake: got %d, want 0", opened)
			}
			time.AfterFunc(time.Second, proxy.Release)
			t.Logf("the exit took %s", s.Terminate(5*time.Second))
		})
	}
}

// proxyTo returns a proxy in front of the port of a protocol.
func proxyTo(t *testing.T, s *Server, protocol Protocol) *Proxy {
	t.Helper()
	port := s.HTTPS
	if protocol == H1 {
		port = s.HTTP
	}
	return NewProxy(t, fmt.Sprintf("127.0.0.1:%d", port), 0, Faults{})
}
