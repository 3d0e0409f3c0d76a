package caddysse_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// block is the text up to an empty line, or a single colon.
type block struct {
	event, data, id, retry string
	hasID                  bool
	colon                  bool
	at                     time.Time
}

// stream is an open event stream. Its parser assumes only that lines end in LF.
type stream struct {
	testing.TB
	*http.Response
	connected block
	id        string // of the connection
	blocks    chan block
	cancel    context.CancelFunc
}

// open connects over cleartext HTTP/1.1, and reads the first block.
func (s *server) open(path string, headers ...string) *stream {
	s.Helper()
	return openWith(s, plain, "http://"+s.http+path, headers...)
}

func openWith(t testing.TB, client *http.Client, url string, headers ...string) *stream {
	t.Helper()
	st := connect(t, client, url, headers...)
	if st.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(st.Body)
		t.Fatalf("%s: status %d: %s", url, st.StatusCode, body)
	}
	st.start()
	return st
}

// start starts to read, and reads the first block.
func (st *stream) start() {
	st.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(st.blocks)
		st.read()
	}()
	st.Cleanup(func() { st.cancel(); <-done })
	st.connected = st.next()
	if st.connected.event == "sse.connected" {
		st.id = decode[struct{ ConnectionID string }](st, st.connected.data).ConnectionID
	}
}

// connect makes the request, and leaves the body unread.
func connect(t testing.TB, client *http.Client, url string, headers ...string) *stream {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	resp := request(ctx, t, client, "GET", url, "", headers)
	t.Cleanup(func() { cancel(); resp.Body.Close() })
	return &stream{TB: t, Response: resp, blocks: make(chan block, 1<<14), cancel: cancel}
}

func (st *stream) read() {
	lines := bufio.NewReader(st.Body)
	var b block
	var data []string
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return // what has no end is no line
		}
		line = line[:len(line)-1]
		if strings.Contains(line, "\r") {
			st.Errorf("CR on the wire: %q", line)
		}
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		if b.hasID && line != "" {
			st.Errorf("id is not the last line of its block: %q follows", line)
		}
		switch {
		case line == ":":
			st.blocks <- block{colon: true, at: time.Now()}
		case line == "":
			b.data, b.at = strings.Join(data, "\n"), time.Now()
			st.blocks <- b
			b, data = block{}, nil
		case name == "event":
			b.event = value
		case name == "data":
			data = append(data, value)
		case name == "id":
			b.id, b.hasID = value, true
		case name == "retry":
			b.retry = value
		default:
			st.Errorf("unknown field on the wire: %q", line)
		}
	}
}

// next returns the next block.
func (st *stream) next() block {
	st.Helper()
	b, err := st.wait()
	if err != nil {
		st.Fatal(err)
	}
	return b
}

func (st *stream) wait() (block, error) {
	select {
	case b, ok := <-st.blocks:
		if !ok {
			return b, errors.New("the stream has ended")
		}
		return b, nil
	case <-time.After(waitLimit):
		return block{}, errors.New("the stream is silent")
	}
}

// event returns the next block that is not a heartbeat.
func (st *stream) event() block {
	st.Helper()
	for {
		if b := st.next(); b.event != "" || b.data != "" {
			return b
		}
	}
}

// expect reads events, which must have this data.
func (st *stream) expect(data ...string) {
	st.Helper()
	for _, want := range data {
		if b := st.event(); b.data != want {
			st.Fatalf("event %q with data %.200q, want data %.200q", b.event, b.data, want)
		}
	}
}

// ended reads to the end of the stream, and returns the remaining blocks.
func (st *stream) ended() (blocks []block) {
	st.Helper()
	for {
		b, err := st.wait()
		if err != nil {
			if strings.Contains(err.Error(), "silent") {
				st.Fatal("the stream goes on, it should have ended")
			}
			return blocks
		}
		blocks = append(blocks, b)
	}
}

// in returns the same stream for a subtest.
func (st *stream) in(t testing.TB) *stream {
	sub := *st
	sub.TB = t
	return &sub
}

// close closes the connection, like a client that leaves.
func (st *stream) close() {
	st.cancel()
	for range st.blocks {
	}
}

// refused requests a stream, which must be refused. It fails at once if it is not.
func (s *server) refused(path string, headers ...string) answer {
	s.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
	defer cancel()
	resp := request(ctx, s, plain, "GET", "http://"+s.http+path, "", headers)
	return answer{resp.StatusCode, resp.Header, readAll(s, resp)}
}

// readAll reads a body that ends. It does not read the body of a stream.
func readAll(t testing.TB, resp *http.Response) string {
	t.Helper()
	defer resp.Body.Close()
	if resp.Request.Method != http.MethodHead && strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
		return "a stream"
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}
