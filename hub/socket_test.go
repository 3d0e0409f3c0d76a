package hub

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"
)

// writerKind says what writes the streams of a test, and to which kind of connection.
type writerKind string

const (
	byGoroutine         writerKind = ""         // Stream.Serve
	byPool              writerKind = "detached" // Stream.ServeDetached
	bySweeper           writerKind = "tried"    // taken over: a fake socket whose writes do not block
	byBlockingGoroutine writerKind = "waited"   // taken over: a fake socket to which only goroutines write
	overTCP             writerKind = "TCP"      // taken over: a real socket; as byBlockingGoroutine in a bubble, and for streams that stay open
	overTLS             writerKind = "TLS"      // the same with TLS
)

// writerKindOf returns the kind that is in the name of a subtest of TestTakenOver.
func writerKindOf(t testing.TB) writerKind {
	rest, ok := strings.CutPrefix(t.Name(), "TestTakenOver/")
	if !ok {
		return byGoroutine
	}
	name, _, _ := strings.Cut(rest, "/")
	return writerKind(name)
}

// inBubble reports whether the test runs in a bubble of testing/synctest, where nothing
// may wait for a real socket.
func inBubble() bool { return time.Now().Year() < 2020 }

// The promises hold for connections that were taken over as well.
func TestTakenOver(t *testing.T) {
	whole := map[string]func(*testing.T){
		"Promise3":      TestPromise3AcknowledgedMeansKept,
		"Promise6":      TestPromise6OnlyTheAddressed,
		"Place":         TestPlace,
		"RetryIsRandom": TestRetryIsRandom,
	}
	cut := map[string]func(*testing.T){
		"Promise1": TestPromise1OnceInOrder,
		"Promise2": TestPromise2GapAlwaysTold,
	}
	open := map[string]func(*testing.T){
		"Promise5":                       TestPromise5NobodyWaitsForTheSlow,
		"Promise7":                       TestPromise7ReloadKeepsStreams,
		"Promise8":                       TestPromise8ExitIsQuick,
		"Promise10":                      TestPromise10HubsAreIslands,
		"CutRightAfterConnected":         TestCutRightAfterConnected,
		"EvictionBeforeTheFirstBlock":    TestEvictionBeforeTheFirstBlock,
		"HeartbeatComesEarly":            TestHeartbeatComesEarly,
		"Previous":                       TestPrevious,
		"Timeout":                        TestTimeout,
		"Gone":                           TestGone,
		"ClosingComesAfterPendingEvents": TestClosingComesAfterPendingEvents,
		"DisconnectTellsTheClient":       TestDisconnectTellsTheClient,
		"AbortIsRepeated":                TestAbortIsRepeated,
		"SwitchOfStores":                 TestSwitchOfStores,
		"TracedDelivery":                 TestTracedDelivery,
		"TracedDeliveryIsIncomplete":     TestTracedDeliveryIsIncomplete,
		"BeginWithTheSameEpoch":          TestBeginWithTheSameEpoch,
		"PollOfASlowClient":              TestPollOfASlowClient,
		"ExitDuringASlowPoll":            TestPromise8ExitDuringASlowPoll,
		"LoginEndsDuringAStall":          TestLoginEndsDuringAStall,
	}
	all := []map[string]func(*testing.T){whole, cut, open}
	for w, groups := range map[writerKind][]map[string]func(*testing.T){byPool: all, bySweeper: all, byBlockingGoroutine: all, overTCP: all[:2], overTLS: all[:1]} {
		t.Run(string(w), func(t *testing.T) {
			for _, tests := range groups {
				for name, test := range tests {
					t.Run(name, test)
				}
			}
		})
	}
}

// When the hub gets another store, open streams continue and clients get a gap.
func TestSwitchOfStores(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		v, lags := open(t, h, requestOf("alice")), open(t, h, requestOf("alice"))
		synctest.Wait()
		publish(t, h, "1")
		synctest.Wait()
		resume := lags.stall()
		publish(t, h, "2")
		synctest.Wait()
		useStore(t, h, NewMemory())
		publish(t, h, "3")
		synctest.Wait()
		want(t, "events and control events", v.client(t).data()+", "+v.client(t).controlSummary(), "1 2 3, sse.gap epoch")
		resume()
		synctest.Wait()
		want(t, "events and control events of the client that lagged", lags.client(t).data()+", "+lags.client(t).controlSummary(), "1 2 3, sse.gap epoch")
		want(t, "position of the client that lagged", lags.client(t).position, positionAt(h, 1))
	})
}

// A history that begins again with the same epoch continues from what the hub has. A
// client gets a gap only if the hub does not have everything before.
func TestBeginWithTheSameEpoch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		record := func(seq uint64) Record {
			return recordOf(seq, Event{Data: fmt.Append(nil, seq), Targets: []Target{{}}})
		}
		v, lags := open(t, h, requestOf("alice")), open(t, h, requestOf("alice"))
		synctest.Wait()
		resume := lags.stall()
		for i := range 5 {
			publish(t, h, fmt.Sprint(i+1))
			synctest.Wait() // the client that lags is stuck in the first event
		}
		feed{h}.Begin(h.history.epoch, 3)
		feed{h}.Deliver([]Record{record(3), record(4)})
		feed{h}.Deliver([]Record{record(5), record(6)})
		feed{h}.Begin(h.history.epoch, 7)
		feed{h}.Deliver([]Record{record(7)})
		synctest.Wait()
		want(t, "events and control events", v.client(t).data()+", "+v.client(t).controlSummary(), "1 2 3 4 5 6 7, ")
		resume()
		synctest.Wait()
		want(t, "events and control events of the client that lagged", lags.client(t).data()+", "+lags.client(t).controlSummary(), "1 2 3 4 5 6 7, ")

		feed{h}.Begin(h.history.epoch, 9)
		feed{h}.Deliver([]Record{record(9)})
		synctest.Wait()
		want(t, "events and control events without number 8", v.client(t).data()+", "+v.client(t).controlSummary(), "1 2 3 4 5 6 7 9, sse.gap evicted")
	})
}

// A batch has the same blocks with chunks as without, for every combination of parts.
func TestBatchOnTheWire(t *testing.T) {
	for before := range 2 {
		for items := range 4 {
			for after := range 3 {
				b := new(batch)
				b.before = append(b.before, strings.Repeat("event: sse.gap\n\n", before)...)
				for i := range items {
					e := &Event{Data: bytes.Repeat([]byte{'x'}, 1<<(6*i)), Targets: []Target{{}}}
					b.add(&entry{frame: encode(recordOf(uint64(i+1), *e), "abcdefgh", time.Now()).frame()}, uint64(i+1))
				}
				b.after = append(b.after, strings.Repeat(":\n", min(after, 1))...)
				b.final = after == 2
				if !b.hasBlocks() {
					continue
				}
				var plain bytes.Buffer
				if _, err := b.writeTo(&plain); err != nil {
					t.Fatal(err)
				}
				p, from, to := b.chunks()
				name := fmt.Sprint(before, items, after)
				want(t, name+" has the same blocks", dechunk(p) == plain.String(), true)
				want(t, name+" is final", final(p), b.final)
				want(t, name+" ends with a whole chunk", bytes.HasSuffix(p, []byte("\r\n")), true)
				want(t, name+" before", dechunk(p[:from]), string(b.before))
				want(t, name+" after", dechunk(p[to:]), string(b.after))
			}
		}
	}
}

func TestStreamEndsWithFinalChunk(t *testing.T) {
	overEachTransport(t, func(t *testing.T, kind writerKind) {
		h := newHub(t, Options{})
		p := dial(t, h, requestOf("alice"), kind)
		publish(t, h, "1")
		p.readUntil(t, "data: 1")
		publish(t, h, "2")
		h.DisconnectHere(Filter{})
		want(t, "reason", p.wait(), Disconnected)
		c := p.readRest(t)
		want(t, "events and control events", c.data()+", "+c.controlSummary(), "1 2, sse.closing disconnected")
		events, sent := p.Sent()
		want(t, "events", events, 2)
		want(t, "bytes", sent, uint64(p.raw.Len()))
	})
}

// The hub ignores bytes that a client sends. They do not turn the end of the stream into a reset.
func TestBytesFromTheClient(t *testing.T) {
	overEachTransport(t, func(t *testing.T, kind writerKind) {
		h := newHub(t, Options{})
		p := dial(t, h, requestOf("alice"), kind)
		for range 20 {
			if _, err := p.Conn.Write(make([]byte, 1000)); err != nil {
				t.Fatal(err)
			}
		}
		publish(t, h, "1")
		p.readUntil(t, "data: 1")
		want(t, "open", h.Stats().Connections["h1"], 1)
		if _, err := p.Conn.Write([]byte("GET / HTTP/1.1\r\n\r\n")); err != nil {
			t.Fatal(err)
		}
		h.Shutdown()
		want(t, "control events", p.readRest(t).controlSummary(), "sse.closing shutdown")
	})
}

func TestTakeOverAfterClose(t *testing.T) {
	overEachTransport(t, func(t *testing.T, kind writerKind) {
		h := New(Options{})
		useStore(t, h, NewMemory())
		p := &realClient{servedConn: &servedConn{Pending: connect(t, h, requestOf("alice")), ended: make(chan struct{})}}
		p.endOnClosed()
		clientEnd, conn, tcp := connPair(t, kind)
		defer clientEnd.Close()
		p.attach(clientEnd)
		if err := h.Close(); err != nil {
			t.Error(err)
		}
		p.servedConn.TakeOver(conn, tcp)
		select {
		case <-p.ended:
		default:
			t.Error("the connection after TakeOver: got still open, want ended")
		}
		want(t, "reason", p.reason, HubClosed)
		want(t, "control events", p.readRest(t).controlSummary(), "sse.closing hub_closed")
	})
}

// Goroutines write where non-blocking writes are not possible.
func TestTakeOverWithoutNonBlockingWrites(t *testing.T) {
	overEachTransport(t, func(t *testing.T, kind writerKind) {
		h := newHub(t, Options{})
		p := &realClient{servedConn: &servedConn{Pending: connect(t, h, requestOf("alice")), ended: make(chan struct{})}}
		p.endOnClosed()
		clientEnd, conn, tcp := connPair(t, kind)
		defer clientEnd.Close()
		p.attach(clientEnd)
		p.servedConn.Conn.takeOver(&socket{conn: conn, tcp: tcp, fd: -1})
		for i := range 20 {
			publish(t, h, fmt.Sprint(i, ";", strings.Repeat("x", 100_000)))
			p.readUntil(t, fmt.Sprint("data: ", i, ";"))
		}
		clientEnd.Close()
		want(t, "reason", p.wait(), Gone)
	})
}

// Connections with the same cursor and the same pending events are sent the same joined bytes,
// regardless of other connections.
func TestBatchIsShared(t *testing.T) {
	h := newHub(t, Options{})
	var conns []*Conn
	for _, name := range []string{"alice", "bob", "carol", "alice"} {
		c := connect(t, h, requestOf(name))
		c.written = time.Now()
		conns = append(conns, c.Conn)
	}
	publish(t, h, "1")
	publish(t, h, "for carol", user("carol"))
	publish(t, h, "2")
	b := new(batch)
	bytesFor := func(c *Conn) string {
		c.compose(time.Now(), b)
		p, _, _ := b.chunks()
		return dechunk(p)
	}
	address := func(c *Conn) *byte {
		c.compose(time.Now(), b)
		p, _, _ := b.chunks()
		return unsafe.SliceData(p)
	}
	first := address(conns[0])
	b.memo.joined[0] = '!' // to detect another join
	c := conns[1].compose(time.Now(), b)
	p, _, _ := b.chunks()
	want(t, "the same bytes", unsafe.SliceData(p) == first && p[0] == '!', true)
	want(t, "cursor after the look-up", c.cursor, 3)
	want(t, "events for carol", strings.Count(bytesFor(conns[2]), "data: "), 3)
	want(t, "alice gets the event for carol", strings.Contains(bytesFor(conns[3]), "carol"), false)
	useStore(t, h, NewMemory())
	publish(t, h, "3")
	want(t, "events of the previous history", strings.Contains(bytesFor(conns[3]), "data: 2"), false)
}

// Connections share a batch if they have pending events in the same topics, in any order of their
// requests. Other connections do not share it.
func TestBatchIsSharedByTopics(t *testing.T) {
	h := newHub(t, Options{})
	names := []string{"a", "b", "c", "d"}
	var conns []*Conn
	for i := range 300 {
		requested := slices.Clone(names)
		rand.Shuffle(len(requested), func(i, j int) { requested[i], requested[j] = requested[j], requested[i] })
		c := connect(t, h, requestOf("", requested[:2+i%3]...))
		c.written = time.Now()
		conns = append(conns, c.Conn)
		if i%3 == 0 { // the earlier connections have this pending event
			publish(t, h, fmt.Sprint(i), topic(names[rand.N(4)]), topic(names[rand.N(4)]))
			c := conns[rand.N(len(conns))]
			if _, err := h.ChangeTopics(t.Context(), TopicChange{
				Filter: Filter{IDs: []string{c.ID()}}, Add: names[3:], Remove: names[:i%2],
			}); err != nil {
				t.Fatal(err)
			}
		}
	}
	b, lookUps, shared := new(batch), 0, 0
	for range 20 {
		for _, c := range conns {
			c.cursor.Store(rand.Uint64N(3) * h.history.head / 4)
		}
		slices.SortFunc(conns, func(a, b *Conn) int { return cmp.Compare(a.cursor.Load(), b.cursor.Load()) })
		for _, c := range conns {
			b.memo.joinedItems = -1
			h.lookUp(c, time.Now(), b)
			if b.memo.joinedItems == -1 {
				shared++
			}
			var alone batch
			h.lookUp(c, time.Now(), &alone)
			if lookUps++; !slices.EqualFunc(b.items, alone.items, func(a, b item) bool { return a.seq == b.seq }) {
				t.Fatalf("events of a connection with topics %v: got %d with a shared batch, want the %d without", c.topics, len(b.items), len(alone.items))
			}
		}
	}
	if shared < lookUps/10 {
		t.Errorf("shared batches: got %d of %d look-ups, want at least %d", shared, lookUps, lookUps/10)
	}
}

// discardConn is a connection that accepts every write and keeps nothing.
type discardConn struct{ net.Conn }

func (discardConn) Write(p []byte) (int, error)      { return len(p), nil }
func (discardConn) SetWriteDeadline(time.Time) error { return nil }

// The first block may be sent with the header of the response. It is sent once. Blocks that must
// follow it directly are sent with it, or the block is not sent with the header.
func TestGreet(t *testing.T) {
	h := newHub(t, Options{MaxEvents: 4})
	first := publish(t, h, "0")
	for i := range 6 {
		publish(t, h, fmt.Sprint(i+1))
	}
	last := publish(t, h, "7")
	withState := requestOf("alice")
	withState.State = true
	for name, try := range map[string]struct {
		request Request
		greets  bool
		events  string
	}{
		"at the head":  {requestOf("alice"), true, ""},
		"up to date":   {requestOf("alice").at(last.Position.String()), true, ""},
		"resumes":      {requestOf("alice").at(fmt.Sprint(last.Position.Epoch, "-", last.Position.Seq-1)), true, "7"},
		"after a gap":  {requestOf("alice").at(first.Position.String()), false, "4,5,6,7"},
		"with a state": {withState, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			overEachTransport(t, func(t *testing.T, kind writerKind) {
				c := connect(t, h, try.request)
				var greeting bytes.Buffer
				c.Greet(&greeting)
				want(t, "sse.connected is in the greeting", greeting.Len() > 0, try.greets)
				if greeting.Len() > 0 {
					_, bytes := c.Sent()
					want(t, "counted bytes", int(bytes), greeting.Len())
				}
				p := &realClient{servedConn: &servedConn{Pending: c, ended: make(chan struct{})}}
				p.endOnClosed()
				clientEnd, conn, tcp := connPair(t, kind)
				defer clientEnd.Close()
				p.attach(clientEnd)
				p.servedConn.TakeOver(conn, tcp)
				h.finish(c.Conn, Disconnected)
				<-p.ended
				if _, err := io.Copy(io.Discard, p.in); err != nil {
					t.Error(err)
				}
				all := greeting.String() + dechunk(p.raw.Bytes())
				want(t, "number of sse.connected", strings.Count(all, "event: sse.connected\n"), 1)
				want(t, "the stream begins with sse.connected", strings.HasPrefix(all, "retry: "), true)
				var data []string
				for line := range strings.Lines(all) {
					if text, ok := strings.CutPrefix(line, "data: "); ok && !strings.HasPrefix(text, "{") {
						data = append(data, strings.TrimSpace(text))
					}
				}
				want(t, "events", strings.Join(data, ","), try.events)
			})
		})
	}
}
