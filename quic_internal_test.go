package caddysse

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/ea766355/caddy-sse/hub"
)

// openQUIC opens a stream of an HTTP/3 server. It returns the two ends of the stream. The client does
// not end its request, so that the server has to forget that it waits for more. leave cancels
// the request. freed is closed when the server's request is no longer in memory.
func openQUIC(t *testing.T, timeout time.Duration) (s *quicStream, body io.ReadCloser, leave func(), freed chan struct{}) {
	t.Helper()
	certified := httptest.NewTLSServer(nil)
	certified.Close()
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	taken := make(chan *quicStream, 1)
	freed = make(chan struct{})
	server := &http3.Server{
		TLSConfig: http3.ConfigureTLSConfig(&tls.Config{Certificates: certified.TLS.Certificates}),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			runtime.AddCleanup(r, func(freed chan struct{}) { close(freed) }, freed)
			taken <- takeQUICStream(w.(http3.HTTPStreamer), timeout)
		}),
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(udp) }()
	client := &http3.Transport{
		TLSClientConfig: certified.Client().Transport.(*http.Transport).TLSClientConfig,
		QUICConfig:      &quic.Config{InitialStreamReceiveWindow: 64 << 10, MaxStreamReceiveWindow: 64 << 10},
	}
	t.Cleanup(func() {
		client.Close()
		server.Close()
		<-served
		udp.Close()
	})
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	unfinished, rest := io.Pipe()
	t.Cleanup(func() { rest.Close() })
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+udp.LocalAddr().String(), unfinished)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	return <-taken, resp.Body, cancel, freed
}

// What is written to a stream over HTTP/3 arrives, whatever its size.
func TestQUICStreamSendsEverySize(t *testing.T) {
	s, body, _, _ := openQUIC(t, time.Minute)
	var sent bytes.Buffer
	var sending sync.WaitGroup
	sending.Go(func() {
		for _, size := range []int{1, 60, 64, packetSize - 4, packetSize - 3, packetSize - 2, packetSize, maxChunk, maxChunk + 1, 5*maxChunk + 7, 300} {
			p := bytes.Repeat([]byte{'a' + byte(size%26)}, size)
			sent.Write(p)
			if n, err := s.Write(p); n != size || err != nil {
				t.Errorf("writing %d bytes: got %d, %v", size, n, err)
			}
		}
		s.close("")
	})
	got, err := io.ReadAll(body)
	sending.Wait()
	if err != nil || !bytes.Equal(got, sent.Bytes()) {
		t.Errorf("received: got %d bytes, %v, want the %d that were sent", len(got), err, sent.Len())
	}
}

// The server forgets a stream that has ended, in whatever way it ended. The client is told whether
// the stream was complete.
func TestQUICStreamIsForgotten(t *testing.T) {
	const timeout = 50 * time.Millisecond
	fill := func(s *quicStream) {
		for range 100 {
			if _, err := s.Write(make([]byte, maxChunk)); err != nil {
				return
			}
		}
		t.Error("a client that reads nothing has taken everything")
	}
	for name, c := range map[string]struct {
		end      func(s *quicStream, leave func())
		complete bool
	}{
		"the hub ends it":       {func(*quicStream, func()) {}, true},
		"the client leaves":     {func(s *quicStream, leave func()) { leave(); <-s.stream.Context().Done() }, false},
		"the client is stalled": {func(s *quicStream, _ func()) { fill(s) }, false},
		"the hub aborts it": {func(s *quicStream, _ func()) {
			s.guard.timeout = time.Hour
			go s.Abort()
			fill(s)
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			s, body, leave, _ := openQUIC(t, timeout)
			_, openStreams := s.connection()
			if openStreams == nil {
				t.Fatal("the private fields of quic-go are not those that connection reads")
			}
			if n := openStreams(); n != 1 {
				t.Fatalf("open streams: got %d, want 1", n)
			}
			c.end(s, leave)
			s.close(hub.Gone)
			if _, err := io.ReadAll(body); (err == nil) != c.complete {
				t.Errorf("error of the client: got %v, want none: %t", err, c.complete)
			}
			look := time.NewTicker(time.Millisecond)
			defer look.Stop()
			for began := time.Now(); openStreams() > 0; <-look.C {
				if time.Since(began) > 30*time.Second {
					t.Fatalf("open streams after the end: got %d, want 0", openStreams())
				}
			}
		})
	}
}

// A stream that was taken over keeps nothing of its request in memory.
func TestQUICStreamKeepsNoRequest(t *testing.T) {
	s, _, _, freed := openQUIC(t, time.Minute)
	for range 1000 {
		runtime.GC()
		select {
		case <-freed:
			s.close("")
			return
		default:
		}
	}
	t.Error("the request is still in memory")
	runtime.KeepAlive(s)
}
