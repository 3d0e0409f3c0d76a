package natsstore

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/ea766355/caddy-sse/hub"
)

// fakeServer accepts the first connection as a NATS server does, and then closes it. It calls fail for
// each later connection. It returns the URL, and a channel that gets a value for each of these.
func fakeServer(t *testing.T, fail func(conn net.Conn)) (url string, failed chan struct{}) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	failed = make(chan struct{}, 100)
	var running sync.WaitGroup
	running.Go(func() {
		for i := 0; ; i++ {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			if i > 0 {
				failed <- struct{}{}
				running.Go(func() {
					fail(conn)
					_ = conn.Close()
				})
				continue
			}
			_, _ = io.WriteString(conn, "INFO {\"max_payload\":1048576,\"headers\":true}\r\n")
			_, _ = conn.Read(make([]byte, 1000)) // CONNECT
			_, _ = io.WriteString(conn, "PONG\r\n")
			_, _ = conn.Read(make([]byte, 1000))
			_ = conn.Close()
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		running.Wait()
	})
	return "nats://" + listener.Addr().String(), failed
}

// awaitAttempts waits for n values of the channel of fakeServer.
func awaitAttempts(t *testing.T, n int, failed <-chan struct{}) {
	t.Helper()
	timeout, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for range n {
		select {
		case <-failed:
		case <-timeout.Done():
			t.Fatal("timed out waiting for attempts to connect")
		}
	}
}

// TestRepeatedProblemsAreLoggedOnce: errors of the network that differ only in ports and times are
// logged once.
func TestRepeatedProblemsAreLoggedOnce(t *testing.T) {
	url, failed := fakeServer(t, func(conn net.Conn) {
		_, _ = io.WriteString(conn, "INFO {\"max_payload\":1048576}\r\n")
		_, _ = conn.Read(make([]byte, 1000))
		_ = conn.(*net.TCPConn).SetLinger(0) // the client sees a reset
	})
	n := startNode(t, newStream(), 1, someOptions, url)
	awaitAttempts(t, 6, failed)
	countResets := func() (resets int) {
		n.store.mu.Lock()
		defer n.store.mu.Unlock()
		for problem := range n.logged {
			if strings.Contains(problem, "reset by peer") {
				resets++
			}
		}
		return resets
	}
	for countResets() == 0 { // the client of NATS reports each attempt on another goroutine
		awaitAttempts(t, 1, failed)
	}
	if resets := countResets(); resets > 2 {
		n.store.mu.Lock()
		defer n.store.mu.Unlock()
		t.Errorf("logged resets after 6 attempts: got %d, want 1 of a read, 1 of a write, or both: %v", resets, n.logged)
	}
}

// TestReasonOfAFailedReconnect: if a server that is back cannot be used, the status says why.
func TestReasonOfAFailedReconnect(t *testing.T) {
	url, _ := fakeServer(t, func(conn net.Conn) {
		_, _ = io.WriteString(conn, "INFO {\"max_payload\":1048576,\"tls_required\":true}\r\nno TLS\r\n")
		_, _ = conn.Read(make([]byte, 1000))
	})
	n := startNode(t, newStream(), 1, someOptions, url)
	n.await("the reason", func() bool { return n.problem != nil && strings.Contains(n.problem.Error(), "tls") })
}

// TestSilentServerDoesNotBlock: Retain and Writable return at once while the client of NATS waits for a
// server, and holds its lock. The hub holds its own lock while it calls Retain.
func TestSilentServerDoesNotBlock(t *testing.T) {
	url, failed := fakeServer(t, func(net.Conn) { <-t.Context().Done() })
	n := startNode(t, newStream(), 1, someOptions, url)
	n.await("the loss of NATS", func() bool { return n.problem != nil })
	stop := make(chan struct{})
	var calling sync.WaitGroup
	var spent time.Duration // in calls
	start := time.Now()
	calling.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			if _, err := n.Append(ctx, []hub.Entry{entry("a", "")}); !errors.Is(err, hub.ErrNotStored) {
				t.Errorf("error of Append: got %v, want ErrNotStored", err)
			}
			cancel()
		}
	})
	calling.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
			began := time.Now()
			n.Retain(hub.Options{MaxEvents: 1000 + i}, 1)
			_, _ = n.Writable()
			spent += time.Since(began)
		}
	})
	awaitAttempts(t, 4, failed)
	close(stop)
	calling.Wait()
	// If they waited for the lock, they would do that for most of the time.
	if elapsed := time.Since(start); spent > elapsed/3 {
		t.Errorf("time in calls of Retain and Writable: got %v of %v, want less than a third", spent, elapsed)
	}
}

// TestRefusalAtOnce: a server may refuse something as soon as the node has connected, while the store is being
// opened.
func TestRefusalAtOnce(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer conn.Close()
				_, _ = io.WriteString(conn, "INFO {\"max_payload\":1048576,\"headers\":true}\r\n")
				_, _ = conn.Read(make([]byte, 1000)) // CONNECT
				_, _ = io.WriteString(conn, "PONG\r\n-ERR 'Permissions Violation for Publish to \"a\"'\r\n")
				_, _ = io.Copy(io.Discard, conn)
			})
		}
	})
	defer running.Wait()
	defer listener.Close()
	noted := make(chan struct{})
	signal := func(o *nats.Options) error {
		handle := o.AsyncErrorCB
		o.AsyncErrorCB = func(c *nats.Conn, sub *nats.Subscription, err error) {
			handle(c, sub, err)
			noted <- struct{}{}
		}
		return nil
	}
	for range 20 {
		s, err := open(config{servers: []string{"nats://" + listener.Addr().String()}, stream: newStream(), replicas: 1, hub: "test", options: []nats.Option{signal}})
		if err != nil {
			t.Fatal(err)
		}
		<-noted
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}
