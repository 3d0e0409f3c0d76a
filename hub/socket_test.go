package hub

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http/httputil"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"
)

// way is how the streams of a test are written.
type way string

const (
	served  way = ""       // by Serve
	tried   way = "tried"  // taken over, to a connection that takes bytes without waiting
	waited  way = "waited" // taken over, to one that does not: all is written by goroutines that wait
	overTCP way = "TCP"    // taken over, to a real socket; in a bubble, and where streams stay open: waited
	overTLS way = "TLS"    // the same with TLS
)

// wayOf is in the name of a test of TestTakenOver.
func wayOf(t testing.TB) way {
	rest, ok := strings.CutPrefix(t.Name(), "TestTakenOver/")
	if !ok {
		return served
	}
	name, _, _ := strings.Cut(rest, "/")
	return way(name)
}

// inBubble reports whether time is that of testing/synctest, where nobody may wait
// for a socket.
func inBubble() bool { return time.Now().Year() < 2020 }

// The promises hold for connections that are taken over as for others.
func TestTakenOver(t *testing.T) {
	whole := map[string]func(*testing.T){
		"Promise3":            TestPromise3AcknowledgedMeansKept,
		"Promise6":            TestPromise6OnlyTheAddressed,
		"Place":               TestPlace,
		"RetryIsDrawnForEach": TestRetryIsDrawnForEach,
	}
	cut := map[string]func(*testing.T){
		"Promise1": TestPromise1OnceInOrder,
		"Promise2": TestPromise2GapAlwaysTold,
	}
	open := map[string]func(*testing.T){
		"Promise5":                    TestPromise5NobodyWaitsForTheSlow,
		"Promise7":                    TestPromise7ReloadKeepsStreams,
		"Promise8":                    TestPromise8ExitIsQuick,
		"Promise10":                   TestPromise10HubsAreIslands,
		"CutRightAfterConnected":      TestCutRightAfterConnected,
		"EvictionBeforeTheFirstBlock": TestEvictionBeforeTheFirstBlock,
		"HeartbeatComesEarly":         TestHeartbeatComesEarly,
		"Previous":                    TestPrevious,
		"Timeout":                     TestTimeout,
		"Gone":                        TestGone,
		"FarewellComesAfterWhatIsDue": TestFarewellComesAfterWhatIsDue,
		"DisconnectTellsTheClient":    TestDisconnectTellsTheClient,
		"SwitchOfStores":              TestSwitchOfStores,
		"BeginWithTheSameEpoch":       TestBeginWithTheSameEpoch,
	}
	all := []map[string]func(*testing.T){whole, cut, open}
	for w, groups := range map[way][]map[string]func(*testing.T){tried: all, waited: all, overTCP: all[:2], overTLS: all[:1]} {
		t.Run(string(w), func(t *testing.T) {
			for _, tests := range groups {
				for name, test := range tests {
					t.Run(name, test)
				}
			}
		})
	}
}

// Open streams go on when the hub gets another store, and are told.
func TestSwitchOfStores(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		v, lags := open(t, h, as("alice")), open(t, h, as("alice"))
		synctest.Wait()
		publish(t, h, "1")
		synctest.Wait()
		resume := lags.stall()
		publish(t, h, "2")
		synctest.Wait()
		use(t, h, NewMemory())
		publish(t, h, "3")
		synctest.Wait()
		want(t, "got", v.client(t).data()+", "+v.client(t).told(), "1 2 3, sse.gap epoch")
		resume()
		synctest.Wait()
		want(t, "the one that lagged got", lags.client(t).data()+", "+lags.client(t).told(), "1 2 3, sse.gap epoch")
		want(t, "its position", lags.client(t).position, Position{h.history.epoch, 1}.String())
	})
}

// A history that begins again with the same positions goes on, from what it has; it
// is a gap only where it has not all that was before.
func TestBeginWithTheSameEpoch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		record := func(seq uint64) Record {
			return Record{seq, Event{Data: fmt.Append(nil, seq), Targets: []Target{{}}, At: time.Now()}}
		}
		v, lags := open(t, h, as("alice")), open(t, h, as("alice"))
		synctest.Wait()
		resume := lags.stall()
		for i := range 5 {
			publish(t, h, fmt.Sprint(i+1))
			synctest.Wait() // the first is what the write of the one that lags is stuck with
		}
		feed{h}.Begin(h.history.epoch, 3)
		feed{h}.Deliver([]Record{record(3), record(4)})
		feed{h}.Deliver([]Record{record(5), record(6)})
		feed{h}.Begin(h.history.epoch, 7)
		feed{h}.Deliver([]Record{record(7)})
		synctest.Wait()
		want(t, "got", v.client(t).data()+", "+v.client(t).told(), "1 2 3 4 5 6 7, ")
		resume()
		synctest.Wait()
		want(t, "the one that lagged got", lags.client(t).data()+", "+lags.client(t).told(), "1 2 3 4 5 6 7, ")

		feed{h}.Begin(h.history.epoch, 9)
		feed{h}.Deliver([]Record{record(9)})
		synctest.Wait()
		want(t, "without number 8, got", v.client(t).data()+", "+v.client(t).told(), "1 2 3 4 5 6 7 9, sse.gap evicted")
	})
}

// dechunk reads chunks [RFC 9112 7.1] with the reader of the standard library. The
// last one may be cut off; nothing but the end follows the final one.
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

// final reports whether the stream has a final chunk.
func final(p []byte) bool { return bytes.HasSuffix(p, []byte("\r\n0\r\n\r\n")) }

// far is the server's end of a wire. It takes what the wire takes: without a
// deadline as a socket that does not wait, with one as one that does.
type far struct {
	*wire
	ctx   context.Context // ends when the client leaves
	ended chan struct{}

	mu     sync.Mutex
	waits  bool
	times  []time.Time // of writes
	atMost func() int  // of a write that does not wait; nil: any number
}

func (f *far) Read([]byte) (int, error) {
	select {
	case <-f.ctx.Done():
	case <-f.ended:
	}
	return 0, io.EOF
}

func (f *far) Write(p []byte) (n int, err error) {
	f.mu.Lock()
	waits := f.waits
	f.mu.Unlock()
	f.wire.mu.Lock()
	stalled := f.stalled != nil
	f.wire.mu.Unlock()
	if !waits {
		if stalled {
			return 0, nil
		}
		if f.atMost != nil {
			p = p[:min(len(p), f.atMost())]
		}
		if len(p) == 0 {
			return 0, nil
		}
	}
	n, err = f.wire.Write(p)
	_ = f.Flush()
	f.mu.Lock()
	f.times = append(f.times, time.Now())
	f.mu.Unlock()
	return n, err
}

func (f *far) SetWriteDeadline(t time.Time) error {
	if t.Unix() == 1 {
		f.Cut()
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.waits = !t.IsZero()
	return nil
}

func (f *far) LocalAddr() net.Addr             { return nil }
func (f *far) RemoteAddr() net.Addr            { return nil }
func (f *far) SetDeadline(time.Time) error     { return nil }
func (f *far) SetReadDeadline(time.Time) error { return nil }
func (f *far) Close() error                    { return nil }

// reports makes v end when its connection does.
func (v *visit) reports() {
	settings := *v.settings
	settings.Closed = func(_ *Conn, reason Reason) {
		v.reason = reason
		close(v.ended)
	}
	v.settings = &settings
}

// takeOver serves v by a connection that was taken over.
func (v *visit) takeOver(ctx context.Context, w way) {
	v.reports()
	v.chunked = true
	tcp := new(net.TCPConn)
	if w == tried {
		tcp = idleTCP()
	}
	v.far = &far{wire: v.wire, ctx: ctx, ended: v.ended}
	v.TakeOver(v.far, tcp)
}

// takeOverWhole takes c over, sends it what there is, and leaves the farewell out.
func takeOverWhole(t testing.TB, c *Conn, w *wire, kind way) string {
	t.Helper()
	v := &visit{Conn: c, wire: w, ended: make(chan struct{})}
	if (kind == overTCP || kind == overTLS) && !inBubble() {
		v.reports()
		near, conn, tcp := pair(t, kind)
		v.TakeOver(conn, tcp)
		c.hub.finish(c, Disconnected)
		got, err := io.ReadAll(near)
		if err != nil {
			t.Error(err)
		}
		if err := near.Close(); err != nil {
			t.Error(err)
		}
		w.got, w.chunked = got, true
		if w.breakAt > 0 {
			w.got = got[:min(w.breakAt, len(got))]
		}
	} else {
		v.takeOver(context.Background(), kind)
		c.hub.finish(c, Disconnected)
	}
	<-v.ended
	all := w.all()
	if i := strings.LastIndex(all, "retry: "); strings.Contains(all[max(i, 0):], "event: sse.closing\ndata: {\"reason\":\"disconnected\"") && strings.HasSuffix(all, "\n\n") {
		return all[:i]
	}
	return all
}

// certificate is for the server's end of TLS.
var certificate = sync.OnceValue(func() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
})

// pair is a connection over loopback: the client's end, what TakeOver writes to,
// and the TCP connection below that.
func pair(t testing.TB, kind way) (near, conn net.Conn, tcp *net.TCPConn) {
	t.Helper()
	near, tcp = tcpPair(t)
	if kind != overTLS {
		return near, tcp, tcp
	}
	server := tls.Server(tcp, &tls.Config{Certificates: []tls.Certificate{certificate()}})
	client := tls.Client(near, &tls.Config{InsecureSkipVerify: true})
	shaken := make(chan error)
	go func() { shaken <- server.Handshake() }()
	if err := errors.Join(client.Handshake(), <-shaken); err != nil {
		t.Fatal(err)
	}
	return client, server, tcp
}

func tcpPair(t testing.TB) (near, far *net.TCPConn) {
	t.Helper()
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if near, err = net.DialTCP("tcp", nil, l.Addr().(*net.TCPAddr)); err != nil {
		t.Fatal(err)
	}
	if far, err = l.AcceptTCP(); err != nil {
		t.Fatal(err)
	}
	// Little is needed to fill it.
	if err := far.SetWriteBuffer(128 << 10); err != nil {
		t.Fatal(err)
	}
	return near, far
}

// peer is a real client of a connection that was taken over.
type peer struct {
	*visit
	net.Conn
	tcp *net.TCPConn // the client's
	raw bytes.Buffer
	in  *bufio.Reader
}

// dial connects and takes over. The client's end is closed when the test ends.
func dial(t testing.TB, h *Hub, r Request, kind way) *peer {
	t.Helper()
	p := &peer{visit: &visit{Conn: connect(t, h, r), ended: make(chan struct{})}}
	p.reports()
	near, conn, tcp := pair(t, kind)
	p.use(near)
	p.visit.TakeOver(conn, tcp)
	t.Cleanup(func() {
		near.Close()
		<-p.ended
	})
	return p
}

func (p *peer) use(near net.Conn) {
	p.Conn = near
	p.tcp, _ = near.(*net.TCPConn)
	if c, ok := near.(*tls.Conn); ok {
		p.tcp = c.NetConn().(*net.TCPConn)
	}
	p.in = bufio.NewReader(httputil.NewChunkedReader(bufio.NewReader(io.TeeReader(near, &p.raw))))
}

// block reads the next block.
func (p *peer) block() (string, error) {
	var block strings.Builder
	for {
		line, err := p.in.ReadString('\n')
		block.WriteString(line)
		if err != nil || line == "\n" || block.String() == ":\n" {
			return block.String(), err
		}
	}
}

// until reads blocks up to one that contains s.
func (p *peer) until(t testing.TB, s string) {
	t.Helper()
	for {
		block, err := p.block()
		if err != nil {
			t.Fatalf("no %q: %v", s, err)
		}
		if strings.Contains(block, s) {
			return
		}
	}
}

// rest reads to the end and is the client that has read it all.
func (p *peer) rest(t testing.TB) *client {
	t.Helper()
	if _, err := io.Copy(io.Discard, p.in); err != nil {
		t.Errorf("the stream did not end with a final chunk: %v", err)
	}
	want(t, "final chunk", final(p.raw.Bytes()), true)
	if n, err := p.Conn.Read(make([]byte, 1)); n > 0 || err != io.EOF {
		t.Errorf("after the end: %d, %v", n, err)
	}
	return (&client{t: t}).read(dechunk(p.raw.Bytes()))
}

func eachKind(t *testing.T, test func(t *testing.T, kind way)) {
	for _, kind := range []way{overTCP, overTLS} {
		t.Run(string(kind), func(t *testing.T) { test(t, kind) })
	}
}

// Whatever the shape of a batch, it is the same blocks as chunks.
func TestBatchOnTheWire(t *testing.T) {
	for before := range 2 {
		for items := range 4 {
			for after := range 3 {
				b := new(batch)
				b.before = append(b.before, strings.Repeat("event: sse.gap\n\n", before)...)
				for i := range items {
					e := &Event{Data: bytes.Repeat([]byte{'x'}, 1<<(6*i)), Targets: []Target{{}}}
					b.add(&entry{frame: encode(e, "abcdefgh").finish(uint64(i + 1))}, uint64(i+1))
				}
				b.after = append(b.after, strings.Repeat(":\n", min(after, 1))...)
				b.final = after == 2
				if !b.pending() {
					continue
				}
				var plain bytes.Buffer
				if _, err := b.writeTo(&plain); err != nil {
					t.Fatal(err)
				}
				p, from, to := b.wire()
				name := fmt.Sprint(before, items, after)
				want(t, name, dechunk(p) == plain.String(), true)
				want(t, name+" is final", final(p), b.final)
				want(t, name+" ends with a whole chunk", bytes.HasSuffix(p, []byte("\r\n")), true)
				want(t, name+" before", dechunk(p[:from]), string(b.before))
				want(t, name+" after", dechunk(p[to:]), string(b.after))
			}
		}
	}
}

func TestStreamEndsWithFinalChunk(t *testing.T) {
	eachKind(t, func(t *testing.T, kind way) {
		h := newHub(t, Options{})
		p := dial(t, h, as("alice"), kind)
		publish(t, h, "1")
		p.until(t, "data: 1")
		publish(t, h, "2")
		h.Disconnect(Filter{})
		want(t, "reason", p.wait(), Disconnected)
		c := p.rest(t)
		want(t, "got", c.data()+", "+c.told(), "1 2, sse.closing disconnected")
		events, sent := p.Sent()
		want(t, "events", events, 2)
		want(t, "bytes", sent, uint64(p.raw.Len()))
	})
}

// Bytes that the client sends are of no interest, and do not turn the end into a
// reset.
func TestClientThatTalks(t *testing.T) {
	eachKind(t, func(t *testing.T, kind way) {
		h := newHub(t, Options{})
		p := dial(t, h, as("alice"), kind)
		for range 20 {
			if _, err := p.Conn.Write(make([]byte, 1000)); err != nil {
				t.Fatal(err)
			}
		}
		publish(t, h, "1")
		p.until(t, "data: 1")
		want(t, "open", h.Stats().Connections["h1"], 1)
		if _, err := p.Conn.Write([]byte("GET / HTTP/1.1\r\n\r\n")); err != nil {
			t.Fatal(err)
		}
		h.Shutdown()
		want(t, "told", p.rest(t).told(), "sse.closing shutdown")
	})
}

// One that takes nothing has one goroutine, and delays nobody. Later it gets what
// history still holds.
func TestStalledAmongMany(t *testing.T) {
	eachKind(t, func(t *testing.T, kind way) {
		const events, size = 60, 16 << 10
		for name, opts := range map[string]Options{"catches up": {}, "has lost some": {MaxEvents: 5}} {
			t.Run(name, func(t *testing.T) {
				h := newHub(t, opts)
				stalled := dial(t, h, as("stalled"), kind)
				var others []*peer
				for range 4 {
					others = append(others, dial(t, h, as("other"), kind))
				}
				for i := range events {
					data := strings.Repeat("x", size)
					if i == events/2 {
						data = strings.Repeat("x", 1<<20-10)
					}
					publish(t, h, fmt.Sprint(i, ";", data))
					for _, p := range others {
						p.until(t, fmt.Sprint("data: ", i, ";"))
						p.raw.Reset()
					}
				}
				want(t, "goroutines", strings.Count(stacks(), "hub.(*Conn).drain("), 1)
				if lag := stalled.Info().Lag; lag < opts.MaxEvents || lag == 0 {
					t.Errorf("lag %d", lag)
				}
				publish(t, h, "the end")
				stalled.until(t, "data: the end")
				if opts.MaxEvents > 0 {
					h.Shutdown()
					c := stalled.rest(t)
					want(t, "told", c.told(), "sse.gap evicted, sse.closing shutdown")
				}
				for _, p := range others {
					p.until(t, "data: the end")
				}
				if opts.MaxEvents == 0 {
					want(t, "events", len((&client{t: t}).read(dechunk(stalled.raw.Bytes())).events), events+1)
				}
				eventually(t, "goroutines end", func() bool { return !strings.Contains(stacks(), "hub.(*Conn).drain(") })
			})
		}
	})
}

// trickle is a connection of which a byte a second is read, until it is closed.
type trickle struct {
	io.Reader
	seconds <-chan time.Time
	faster  <-chan struct{}
}

func (r trickle) Read(p []byte) (int, error) {
	select {
	case <-r.faster:
	case <-r.seconds:
		p = p[:1]
	}
	return r.Reader.Read(p)
}

// A client that reads a byte a second delays nobody, and when it reads faster it
// has missed nothing.
func TestByteASecond(t *testing.T) {
	eachKind(t, func(t *testing.T, kind way) {
		const events, size = 40, 16 << 10
		h := newHub(t, Options{})
		slow, other := dial(t, h, as("slow"), kind), dial(t, h, as("other"), kind)
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		faster := make(chan struct{})
		source := trickle{io.TeeReader(slow.Conn, &slow.raw), tick.C, faster}
		for i := range events {
			publish(t, h, fmt.Sprint(i, ";", strings.Repeat("x", size)))
			other.until(t, fmt.Sprint("data: ", i, ";"))
		}
		var some [3]byte
		if _, err := io.ReadFull(source, some[:]); err != nil {
			t.Fatal(err)
		}
		publish(t, h, "the end")
		other.until(t, "data: the end")
		if lag := slow.Info().Lag; lag == 0 {
			t.Error("it was not slow")
		}
		want(t, "goroutines", strings.Count(stacks(), "hub.(*Conn).drain("), 1)
		close(faster)
		slow.in = bufio.NewReader(httputil.NewChunkedReader(bufio.NewReader(io.MultiReader(bytes.NewReader(some[:]), source))))
		slow.until(t, "data: the end")
		c := (&client{t: t}).read(dechunk(slow.raw.Bytes()))
		want(t, "events", len(c.events), events+1)
		want(t, "told", c.told(), "")
	})
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

func TestTimeoutOfStalled(t *testing.T) {
	eachKind(t, func(t *testing.T, kind way) {
		h := newHub(t, Options{})
		hasty := *usual
		hasty.Timeout = 200 * time.Millisecond
		p, other := dial(t, h, as("stalled").with(hasty), kind), dial(t, h, as("other").with(hasty), kind)
		go io.Copy(io.Discard, other.in)
		began := time.Now()
		for range 40 {
			publish(t, h, strings.Repeat("x", 32<<10))
		}
		want(t, "reason", p.wait(), Timeout)
		if took := time.Since(began); took < hasty.Timeout {
			t.Errorf("after %v", took)
		}
		want(t, "counted", h.Stats().Closed["timeout"], 1)
		want(t, "the other", h.Stats().Connections["h1"], 1)
		if _, err := io.Copy(io.Discard, p.in); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("a stream that was dropped ended with %v", err)
		}
		want(t, "told", strings.Contains(dechunk(p.raw.Bytes()), "sse.closing"), false)
	})
}

// A write that has been cut off does not go on because the client took a part of it.
func TestCutEndsDrain(t *testing.T) {
	for range 10 {
		near, tcp := tcpPair(t)
		s := newSocket(tcp, tcp)
		s.rest = make([]byte, 64<<20)
		drained := make(chan error, 1)
		go func() {
			_, err := s.drain(time.Minute)
			drained <- err
		}()
		buf := make([]byte, 100_000)
		if _, err := io.ReadFull(near, buf); err != nil {
			t.Fatal(err)
		}
		eventually(t, "it waits", func() bool { return strings.Contains(stacks(), "waitWrite") })
		// As it is cut off in the hub: again and again, for the case that the socket
		// has just taken a piece and the next one sets its own deadline.
		var err error
		eventually(t, "it is cut off", func() bool {
			s.Cut()
			select {
			case err = <-drained:
				return true
			default:
				return false
			}
		})
		wantErr(t, err, os.ErrDeadlineExceeded)
		near.Close()
		s.close()
	}
}

func TestCloseWithManyOfWhichSomeStall(t *testing.T) {
	h := New(Options{})
	use(t, h, NewMemory())
	var reading sync.WaitGroup
	var stalled []*peer
	for i := range 500 {
		kind := overTCP
		if i%10 == 1 {
			kind = overTLS
		}
		p := dial(t, h, as(fmt.Sprint("u", i)), kind)
		if i%100 < 2 {
			stalled = append(stalled, p)
			continue
		}
		reading.Go(func() {
			if told := p.rest(t).told(); told != "sse.closing hub_closed" {
				t.Errorf("told %q", told)
			}
		})
	}
	for range 20 {
		for _, p := range stalled {
			publish(t, h, strings.Repeat("x", 32<<10), user(p.identity.User))
		}
	}
	began := time.Now()
	if err := h.Close(); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 2*farewell {
		t.Errorf("took %v", took)
	}
	for _, s := range []string{"hub.(*Conn).drain", "hub.(*sweeper).run", "departures", "wakeListeners"} {
		want(t, "goroutines left of "+s, strings.Count(stacks(), s), 0)
	}
	want(t, "open", h.Stats().Connections["h1"], 0)
	reading.Wait()
}

func TestTakeOverAfterClose(t *testing.T) {
	eachKind(t, func(t *testing.T, kind way) {
		h := New(Options{})
		use(t, h, NewMemory())
		p := &peer{visit: &visit{Conn: connect(t, h, as("alice")), ended: make(chan struct{})}}
		p.reports()
		near, conn, tcp := pair(t, kind)
		defer near.Close()
		p.use(near)
		if err := h.Close(); err != nil {
			t.Error(err)
		}
		p.visit.TakeOver(conn, tcp)
		select {
		case <-p.ended:
		default:
			t.Error("it is not over when TakeOver returns")
		}
		want(t, "reason", p.reason, HubClosed)
		want(t, "told", p.rest(t).told(), "sse.closing hub_closed")
	})
}

// Where there is no write that does not wait, goroutines write.
func TestTakeOverWithoutTry(t *testing.T) {
	eachKind(t, func(t *testing.T, kind way) {
		h := newHub(t, Options{})
		p := &peer{visit: &visit{Conn: connect(t, h, as("alice")), ended: make(chan struct{})}}
		p.reports()
		near, conn, tcp := pair(t, kind)
		defer near.Close()
		p.use(near)
		p.visit.Conn.takeOver(&socket{conn: conn, tcp: tcp, fd: -1})
		for i := range 20 {
			publish(t, h, fmt.Sprint(i, ";", strings.Repeat("x", 100_000)))
			p.until(t, fmt.Sprint("data: ", i, ";"))
		}
		near.Close()
		want(t, "reason", p.wait(), Gone)
	})
}

// Who stands at the same place is sent the same bytes, whoever else there is.
func TestBatchIsShared(t *testing.T) {
	h := newHub(t, Options{})
	var conns []*Conn
	for _, name := range []string{"alice", "bob", "carol", "alice"} {
		c := connect(t, h, as(name))
		c.written = time.Now()
		conns = append(conns, c)
	}
	publish(t, h, "1")
	publish(t, h, "for carol", user("carol"))
	publish(t, h, "2")
	b := new(batch)
	bytesFor := func(c *Conn) string {
		c.compose(time.Now(), b)
		p, _, _ := b.wire()
		return dechunk(p)
	}
	address := func(c *Conn) *byte {
		c.compose(time.Now(), b)
		p, _, _ := b.wire()
		return unsafe.SliceData(p)
	}
	first := address(conns[0])
	b.shared.joined[0] = '!' // so that one that is joined again tells
	c := conns[1].compose(time.Now(), b)
	p, _, _ := b.wire()
	want(t, "the same bytes", unsafe.SliceData(p) == first && p[0] == '!', true)
	want(t, "looked up to", c.cursor, 3)
	want(t, "carol gets her own", strings.Count(bytesFor(conns[2]), "data: "), 3)
	want(t, "and alice does not get hers", strings.Contains(bytesFor(conns[3]), "carol"), false)
	use(t, h, NewMemory())
	publish(t, h, "3")
	want(t, "of another history", strings.Contains(bytesFor(conns[3]), "data: 2"), false)
}

// noBytes is a connection that takes everything.
type noBytes struct{ net.Conn }

func (noBytes) Write(p []byte) (int, error)      { return len(p), nil }
func (noBytes) SetWriteDeadline(time.Time) error { return nil }

// untilClosed is a context that ends with the channel.
func untilClosed(gone chan struct{}) context.Context { return endedBy{context.Background(), gone} }

type endedBy struct {
	context.Context
	gone chan struct{}
}

func (e endedBy) Done() <-chan struct{} { return e.gone }
