package hub

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestMain fails the run when a goroutine is left over after the tests.
func TestMain(m *testing.M) {
	code := m.Run()
	if left := leftoverGoroutines(); code == 0 && left != "" {
		fmt.Fprintf(os.Stderr, "goroutines left over after the tests:\n\n%s\n", left)
		code = 1
	}
	os.Exit(code)
}

// leftover gives goroutines that are about to end a second to do so.
func leftoverGoroutines() string {
	deadline := time.Now().Add(time.Second)
	for {
		left := strings.Split(stacks(), "\n\n")[1:] // not this one
		left = slices.DeleteFunc(left, func(s string) bool { return strings.Contains(s, "os/signal.") })
		if len(left) == 0 || time.Now().After(deadline) {
			return strings.Join(left, "\n\n")
		}
		runtime.Gosched()
	}
}

// stacks is those of all goroutines, this one first.
func stacks() string {
	buf := make([]byte, 1<<20)
	return string(buf[:runtime.Stack(buf, true)])
}

// A wire is a Sink and what came out at the client's end.
type testSink struct {
	breakAt int           // bytes after which the connection breaks; 0: it never does
	timeout time.Duration // as Settings.Timeout; 0: a minute
	aborted chan struct{}

	mu            sync.Mutex
	taken         []byte
	last          *byte // where the bytes of the last Write began
	writes        int
	aborts        int
	ignoredAborts int           // as many cuts come too early for the write that they are for
	flushed       int           // how much of got has been flushed
	chunked       bool          // got is chunks
	stalled       chan struct{} // not nil: the client takes nothing until it is closed
}

var errBroken = errors.New("connection reset by peer")

func newTestSink() *testSink { return &testSink{aborted: make(chan struct{}), timeout: time.Minute} }

func (w *testSink) Write(p []byte) (int, error) {
	w.mu.Lock()
	stalled := w.stalled
	w.mu.Unlock()
	if stalled != nil {
		select {
		case <-stalled:
		case <-w.aborted:
			return 0, os.ErrDeadlineExceeded
		case <-time.After(w.timeout):
			return 0, os.ErrDeadlineExceeded
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.writes++
	w.last = &p[0]
	if w.chunked { // what is in the chunk
		w.last = &p[min(bytes.IndexByte(p, '\n')+1, len(p)-1)]
	}
	if w.breakAt > 0 && len(w.taken)+len(p) > w.breakAt {
		n := w.breakAt - len(w.taken)
		w.taken = append(w.taken, p[:n]...)
		return n, errBroken
	}
	w.taken = append(w.taken, p...)
	return len(p), nil
}

func (w *testSink) Flush() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.flushed = len(w.taken)
	return nil
}

// Abort ends the write that is under way, and no later one.
func (w *testSink) Abort() {
	w.mu.Lock()
	w.aborts++
	deaf := w.aborts <= w.ignoredAborts
	w.mu.Unlock()
	if deaf {
		return
	}
	select {
	case w.aborted <- struct{}{}:
	default:
	}
}

// stall makes the client take no bytes any more until the returned func is called.
func (w *testSink) stall() (resume func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	gate := make(chan struct{})
	w.stalled = gate
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.stalled = nil
		close(gate)
	}
}

// received is what the client has been sent and flushed so far.
func (w *testSink) received() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.body(w.taken[:w.flushed])
}

// all is every byte that was taken, flushed or not.
func (w *testSink) allBytes() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.body(w.taken)
}

func (w *testSink) body(p []byte) string {
	if w.chunked {
		return dechunk(p)
	}
	return string(p)
}

// message is a block that dispatches an event.
type message struct{ event, data, id string }

// client reads streams as the HTML standard says, and refuses what the engine
// should never send. It outlives connections.
type client struct {
	t             testing.TB
	position      string    // lastEventId: what it would send on its next connection
	retry         int       // milliseconds
	events        []message // that back ends published
	control       []message // of the hub itself
	ordered       []message // events, and sse.topics among them
	heartbeats    int       // bare comments
	positionMoves int       // blocks with nothing but an id
}

// read takes the stream of one connection from its beginning. What follows the
// last complete block was cut off, and is discarded. [HTML spec 9.2.6]
func (c *client) read(stream string) *client {
	c.t.Helper()
	last := int64(-1) // seq of the last id in this connection
	var epoch string
	untold := false // sse.connected had no id, so that sse.gap must follow
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
			c.t.Fatalf("sse.connected is the first block and no other, but: %q", text)
		}
		if untold && (m.event == "" && m.id == "" || strings.HasPrefix(m.event, "sse.") && m.event != "sse.gap") {
			c.t.Fatalf("sse.connected had no id, but neither a gap nor a state follows: %q", text)
		}
		untold = m.event == "sse.connected" && m.id == ""
		if farewell := m.event == "sse.closing" || m.event == "sse.rejected"; !untold && farewell != (m.id == "") {
			c.t.Fatalf("a block has an id unless it is a farewell, but: %q", text)
		}
		if m.id != "" {
			p, ok := ParsePosition(m.id)
			if !ok || len(p.Epoch) != 8 {
				c.t.Fatalf("not a position: %q", m.id)
			}
			if m.event == "sse.gap" && p.Epoch != epoch {
				last = -1 // positions begin anew
			}
			epoch = p.Epoch
			if seq := int64(p.Seq); seq < last || seq == last && m.event != "sse.gap" {
				c.t.Fatalf("position %d after %d: %q", seq, last, text)
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

// block takes one block apart. Its lines are in this order: retry, event, data,
// id.
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

// data is the payloads of the published events.
func (c *client) data() string { return payloads(c.events) }

// told is the names of the control events with their reasons, but without
// sse.connected, which always comes.
func (c *client) controlSummary() string {
	var told []string
	for _, m := range c.control {
		if m.event == "sse.connected" {
			continue
		}
		_, reason, _ := strings.Cut(m.data, `"reason":"`)
		reason, _, _ = strings.Cut(reason, `"`)
		told = append(told, m.event+" "+reason)
	}
	return strings.Join(told, ", ")
}

func payloads(events []message) string {
	var data []string
	for _, m := range events {
		data = append(data, m.data)
	}
	return strings.Join(data, " ")
}

var defaultSettings = &Settings{Heartbeat: 15 * time.Second, Timeout: time.Minute, RetryMin: time.Second, RetryMax: 5 * time.Second}

func newHub(t testing.TB, opts Options) *Hub {
	t.Helper()
	h := New(opts)
	if way := wayOf(t); way != served && (inBubble() || way == tried) {
		withoutEpoll(h)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	useStore(t, h, NewMemory())
	return h
}

// use gives h a store, and waits until it is open.
func useStore(t testing.TB, h *Hub, store Store) {
	t.Helper()
	if err := h.Use(store); err != nil {
		t.Fatal(err)
	}
	if err := h.await(t.Context(), func() bool { return h.source.open && h.source.problem == nil }); err != nil {
		t.Fatal(err)
	}
}

// as is a request of a user, for topics of which each may be a pattern.
func requestOf(user string, topics ...string) Request {
	r := Request{Identity: Identity{User: user}, Settings: defaultSettings, Protocol: "h1"}
	for _, s := range topics {
		topic, err := ParseTopic(s)
		if err != nil {
			panic(err)
		}
		r.Topics = append(r.Topics, topic)
	}
	return r
}

func (r Request) at(position string) Request     { r.Position = position; return r }
func (r Request) with(settings Settings) Request { r.Settings = &settings; return r }

func user(name string) Target  { return Target{User, name} }
func topic(name string) Target { return Target{Topic, name} }

// publish sends data to the targets, or to all if there is none.
func publish(t testing.TB, h *Hub, data string, targets ...Target) Receipt {
	t.Helper()
	if len(targets) == 0 {
		targets = []Target{{}}
	}
	receipts, err := h.Publish(t.Context(), Event{Data: []byte(data), Targets: targets})
	if err != nil {
		t.Fatal(err)
	}
	return receipts[0]
}

// visit is a connection that is being served.
type servedConn struct {
	Pending
	*testSink
	socket *fakeSocket // of one that was taken over
	cancel context.CancelFunc
	ended  chan struct{}
	reason Reason // once ended is closed
}

// open connects and serves until the test ends or leave is called.
func open(t testing.TB, h *Hub, r Request) *servedConn {
	t.Helper()
	c, err := h.Connect(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return serve(t, c, newTestSink())
}

// stream is all of a stream to w.
func (p Pending) stream(ctx context.Context, w Sink) Reason { return p.Open(w).Serve(ctx) }

func serve(t testing.TB, c Pending, w *testSink) *servedConn {
	ctx, cancel := context.WithCancel(context.Background())
	w.timeout = c.settings.Timeout
	v := &servedConn{Pending: c, testSink: w, cancel: cancel, ended: make(chan struct{})}
	if way := wayOf(t); way != served {
		v.takeOver(ctx, way)
		t.Cleanup(func() { v.goAway() })
		return v
	}
	go func() {
		defer close(v.ended)
		v.reason = c.stream(ctx, w)
	}()
	t.Cleanup(func() { v.goAway() })
	return v
}

// leave ends the visit as a client that goes away.
func (v *servedConn) goAway() Reason {
	v.cancel()
	return v.wait()
}

// ending is why the visit has ended, as it must have by now.
func (v *servedConn) endedBy(t testing.TB) Reason {
	t.Helper()
	synctest.Wait()
	select {
	case <-v.ended:
	default:
		t.Fatal("the stream goes on")
	}
	return v.reason
}

func (v *servedConn) wait() Reason {
	<-v.ended
	return v.reason
}

// client is a new one that has read the stream so far.
func (v *servedConn) client(t testing.TB) *client {
	t.Helper()
	return (&client{t: t}).read(v.received())
}

// resume connects the client, with the position that it has, for as long as it
// takes to send it what there is.
func (c *client) resume(h *Hub, r Request) *client {
	c.t.Helper()
	return c.read(readOnce(c.t, h, r.at(c.position), newTestSink()))
}

// read is a new client that has resumed as r says.
func read(t testing.TB, h *Hub, r Request) *client {
	t.Helper()
	return (&client{t: t}).read(readOnce(t, h, r, newTestSink()))
}

// take connects, is sent what there is, and goes.
func readOnce(t testing.TB, h *Hub, r Request, w *testSink) string {
	t.Helper()
	c, err := h.Connect(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if way := wayOf(t); way != served {
		return takeOverWhole(t, c, w, way)
	}
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	c.stream(gone, w)
	return w.allBytes()
}

func want[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %#v, want %#v", what, got, want)
	}
}

func wantErr(t testing.TB, err, target error) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Errorf("got error %v, want %v", err, target)
	}
}

// connect is a connection that nobody serves.
func connect(t testing.TB, h *Hub, r Request) Pending {
	t.Helper()
	c, err := h.Connect(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// eventually waits for what nothing tells of.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not after 20 seconds: %s", what)
		}
		<-tick.C
	}
}

// recordOf is an event as a store has it that stored it now.
func recordOf(seq uint64, e Event) Record {
	if e.At.IsZero() {
		e.At = time.Now()
	}
	return Record{Seq: seq, At: time.Now(), Data: encodeEvent(&e)}
}

// at is the position that has the seq, as a client knows it.
func positionAt(h *Hub, seq uint64) string {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.history.position(seq).String()
}
