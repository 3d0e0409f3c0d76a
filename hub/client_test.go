package hub

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http/httputil"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// message is a block that dispatches an event in a browser.
type message struct{ event, data, id string }

// client reads streams as the HTML standard says, and fails the test when it reads what
// the engine must never send. It lives longer than a connection, like a browser's
// EventSource.
type client struct {
	t             testing.TB
	position      string    // the last event id, which its next connection sends
	retry         int       // milliseconds
	events        []message // published events
	control       []message // events of the hub itself
	ordered       []message // published events, and sse.topics among them
	heartbeats    int       // number of comments
	positionMoves int       // number of blocks that have only an id
}

// read reads the stream of one connection from its beginning. It ignores an incomplete
// last block. [HTML spec 9.2.6]
func (c *client) read(stream string) *client {
	c.t.Helper()
	last := int64(-1) // seq of the last id in this connection
	var epoch string
	mustFollow := false // sse.connected had no id, so sse.gap or a state must follow
	for first := true; ; first = false {
		if rest, ok := strings.CutPrefix(stream, ":\n"); ok {
			stream = rest
			c.heartbeats++
			continue
		}
		text, rest, complete := strings.Cut(stream, "\n\n")
		if !complete {
			return c
		}
		stream = rest
		m, data := c.block(text)

		if first != (m.event == "sse.connected") && m.event != "sse.rejected" {
			c.t.Fatalf("got %q, want sse.connected as the first block and nowhere else", text)
		}
		if mustFollow && (m.event == "" && m.id == "" || strings.HasPrefix(m.event, "sse.") && m.event != "sse.gap") {
			c.t.Fatalf("got %q after sse.connected without an id, want a gap or a state", text)
		}
		mustFollow = m.event == "sse.connected" && m.id == ""
		if isLast := m.event == "sse.closing" || m.event == "sse.rejected"; !mustFollow && isLast != (m.id == "") {
			c.t.Fatalf("got %q, want an id in every block except the last one of a stream", text)
		}
		if m.id != "" {
			p, ok := ParsePosition(m.id)
			if !ok || len(p.Epoch) != 8 {
				c.t.Fatalf("id: got %q, want a position", m.id)
			}
			if m.event == "sse.gap" && p.Epoch != epoch {
				last = -1 // another history: positions begin again
			}
			epoch = p.Epoch
			if seq := int64(p.Seq); seq < last || seq == last && m.event != "sse.gap" {
				c.t.Fatalf("position after %d: got %d in %q, want a later one", last, seq, text)
			}
			last = int64(p.Seq)
			c.position = m.id
		}
		switch {
		case !data:
			c.positionMoves++
		case strings.HasPrefix(m.event, "sse."):
			c.control = append(c.control, m)
			if m.event == EventTopics {
				c.ordered = append(c.ordered, m)
			}
		default:
			c.events = append(c.events, m)
			c.ordered = append(c.ordered, m)
		}
	}
}

// block parses one block. Its lines must have this order: retry, event, data, id.
func (c *client) block(text string) (m message, data bool) {
	c.t.Helper()
	stage := 0
	for line := range strings.SplitSeq(text, "\n") {
		name, value, _ := strings.Cut(line, ": ")
		at := slices.Index([]string{"retry", "event", "data", "id"}, name)
		if at < 0 || at < stage || at == stage && name == "id" && m.id != "" {
			c.t.Fatalf("line %q is out of place in %q", line, text)
		}
		stage = at
		switch name {
		case "retry":
			n, err := strconv.Atoi(value)
			if err != nil {
				c.t.Fatalf("line %q: %v", line, err)
			}
			c.retry = n
		case "event":
			m.event = value
		case "data":
			if data {
				m.data += "\n"
			}
			data = true
			m.data += value
		case "id":
			m.id = value
		}
	}
	return m, data
}

// data returns the payloads of the published events.
func (c *client) data() string { return payloads(c.events) }

// controlSummary returns the names and reasons of the control events, without
// sse.connected, which every stream has.
func (c *client) controlSummary() string {
	var summary []string
	for _, m := range c.control {
		if m.event == "sse.connected" {
			continue
		}
		_, reason, _ := strings.Cut(m.data, `"reason":"`)
		reason, _, _ = strings.Cut(reason, `"`)
		summary = append(summary, m.event+" "+reason)
	}
	return strings.Join(summary, ", ")
}

func payloads(events []message) string {
	var data []string
	for _, m := range events {
		data = append(data, m.data)
	}
	return strings.Join(data, " ")
}

// resume connects with the client's position, reads what is pending, and leaves.
func (c *client) resume(h *Hub, r Request) *client {
	c.t.Helper()
	return c.read(readOnce(c.t, h, r.at(c.position), newTestSink()))
}

// read returns a new client that has connected with r, has read what is pending, and has left.
func read(t testing.TB, h *Hub, r Request) *client {
	t.Helper()
	return (&client{t: t}).read(readOnce(t, h, r, newTestSink()))
}

// readOnce connects, is sent what is pending, and leaves. It returns the stream.
func readOnce(t testing.TB, h *Hub, r Request, w *testSink) string {
	t.Helper()
	c, err := h.Connect(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if kind := writerKindOf(t); kind != byGoroutine {
		return takeOverWhole(t, c, w, kind)
	}
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	c.stream(gone, w)
	return w.allBytes()
}

// dechunk decodes chunks [RFC 9112 7.1] with the standard library. The last chunk may be
// incomplete. Nothing may follow a final chunk.
func dechunk(p []byte) string {
	r := bytes.NewReader(p)
	b := bufio.NewReader(r)
	body, err := io.ReadAll(httputil.NewChunkedReader(b))
	rest, _ := io.ReadAll(b)
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
	case err != nil:
		panic(fmt.Sprintf("chunks: %v: %q", err, p))
	case len(p) > 0 && !strings.HasPrefix("\r\n", string(rest)):
		panic(fmt.Sprintf("after the final chunk: %q", rest))
	}
	return string(body)
}

// final reports whether the stream ends with a final chunk.
func final(p []byte) bool { return bytes.HasSuffix(p, []byte("\r\n0\r\n\r\n")) }
