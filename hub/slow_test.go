package hub

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http/httputil"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// A client that reads nothing occupies one goroutine and delays nobody. When it reads again, it
// gets everything that the history still holds.
func TestStalledAmongMany(t *testing.T) {
	overEachTransport(t, func(t *testing.T, kind writerKind) {
		const events, size = 60, 16 << 10
		for name, opts := range map[string]Options{"catches up": {}, "has lost some": {MaxEvents: 5}} {
			t.Run(name, func(t *testing.T) {
				h := newHub(t, opts)
				stalled := dial(t, h, requestOf("stalled"), kind)
				var others []*realClient
				for range 4 {
					others = append(others, dial(t, h, requestOf("other"), kind))
				}
				for i := range events {
					data := strings.Repeat("x", size)
					if i == events/2 {
						data = strings.Repeat("x", 1<<20-10)
					}
					publish(t, h, fmt.Sprint(i, ";", data))
					for _, p := range others {
						p.readUntil(t, fmt.Sprint("data: ", i, ";"))
						p.raw.Reset()
					}
				}
				waitForOneWriter(t)
				if lag := stalled.Info().Lag; lag < opts.MaxEvents || lag == 0 {
					t.Errorf("lag: got %d, want more than 0 and at least %d", lag, opts.MaxEvents)
				}
				publish(t, h, "the end")
				stalled.readUntil(t, "data: the end")
				if opts.MaxEvents > 0 {
					h.Shutdown()
					c := stalled.readRest(t)
					// More events may be evicted while the client catches up, so there may be
					// several gaps.
					gaps, closed := strings.CutSuffix(c.controlSummary(), ", sse.closing shutdown")
					if !closed || strings.ReplaceAll(gaps+", ", "sse.gap evicted, ", "") != "" {
						t.Errorf("control events: got %s, want gaps and then sse.closing", c.controlSummary())
					}
				}
				for _, p := range others {
					p.readUntil(t, "data: the end")
				}
				if opts.MaxEvents == 0 {
					want(t, "events", len((&client{t: t}).read(dechunk(stalled.raw.Bytes())).events), events+1)
				}
				eventually(t, "goroutines end", func() bool { return !strings.Contains(stacks(), "hub.(*Conn).writeBlocking(") })
			})
		}
	})
}

// waitForOneWriter waits until one goroutine writes: that of the client that is slow. Those of other
// clients may take a moment to end after their last write.
func waitForOneWriter(t *testing.T) {
	t.Helper()
	eventually(t, "one goroutine writes", func() bool { return strings.Count(stacks(), "hub.(*Conn).writeBlocking(") == 1 })
}

// trickle reads one byte a second from a connection, and everything once faster is closed.
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

// A client that reads one byte a second delays nobody. When it reads faster, it gets every event.
func TestByteASecond(t *testing.T) {
	overEachTransport(t, func(t *testing.T, kind writerKind) {
		const events, size = 40, 16 << 10
		h := newHub(t, Options{})
		slow, other := dial(t, h, requestOf("slow"), kind), dial(t, h, requestOf("other"), kind)
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		faster := make(chan struct{})
		source := trickle{io.TeeReader(slow.Conn, &slow.raw), tick.C, faster}
		for i := range events {
			publish(t, h, fmt.Sprint(i, ";", strings.Repeat("x", size)))
			other.readUntil(t, fmt.Sprint("data: ", i, ";"))
		}
		var firstBytes [3]byte
		if _, err := io.ReadFull(source, firstBytes[:]); err != nil {
			t.Fatal(err)
		}
		publish(t, h, "the end")
		other.readUntil(t, "data: the end")
		if lag := slow.Info().Lag; lag == 0 {
			t.Error("lag of the slow client: got 0, want more")
		}
		waitForOneWriter(t)
		close(faster)
		slow.in = bufio.NewReader(httputil.NewChunkedReader(bufio.NewReader(io.MultiReader(bytes.NewReader(firstBytes[:]), source))))
		slow.readUntil(t, "data: the end")
		c := (&client{t: t}).read(dechunk(slow.raw.Bytes()))
		want(t, "events", len(c.events), events+1)
		want(t, "control events", c.controlSummary(), "")
	})
}

// pendingEvents returns how many events c has still to be sent.
func (c *Conn) pendingEvents() int {
	h := c.hub
	h.mu.RLock()
	defer h.mu.RUnlock()
	n, cursor := 0, c.cursor.Load()
	for cursor < h.history.head {
		var b batch
		cursor = h.history.since(c.subscriptions, cursor, h.history.head, 0, time.Now(), &b)
		n += len(b.items)
	}
	return n
}

// A client reads 1 KB while 1,000 values of 100 slots are published. It never has more than 100
// values pending. In the end it has the newest value of each slot, and no gap.
func TestSlotsOfSlow(t *testing.T) {
	overEachTransport(t, func(t *testing.T, kind writerKind) {
		const slots, updates, second = 100, 5000, 1000
		h := newHub(t, Options{})
		slow := dial(t, h, requestOf("slow"), kind)
		state := make(map[string]string)
		most := 0
		for i := range updates {
			slot := fmt.Sprint("slot ", rand.IntN(slots))
			state[slot] = fmt.Sprint(slot, "=", i, ";", strings.Repeat("x", 200))
			e := Event{Slot: slot, Data: []byte(state[slot]), Targets: []Target{{}}}
			if _, err := h.Publish(t.Context(), e); err != nil {
				t.Fatal(err)
			}
			pending := slow.pendingEvents()
			if most = max(most, pending); pending > slots {
				t.Fatalf("pending values after %d updates: got %d, want at most %d", i+1, pending, slots)
			}
			if i%second == second-1 {
				if _, err := io.CopyN(io.Discard, slow.in, 1<<10); err != nil {
					t.Fatal(err)
				}
			}
		}
		if most < slots/2 {
			t.Errorf("most pending values: got %d, want at least %d (the client was not slow)", most, slots/2)
		}
		publish(t, h, "the end")
		slow.readUntil(t, "data: the end")
		c := (&client{t: t}).read(dechunk(slow.raw.Bytes()))
		want(t, "control events", c.controlSummary(), "")
		seen := make(map[string]string)
		for _, e := range c.events {
			if slot, _, ok := strings.Cut(e.data, "="); ok {
				seen[slot] = e.data
			}
		}
		if !maps.Equal(seen, state) {
			t.Errorf("state of the client: got %d slots that are not all the newest, want the newest value of each of %d", len(seen), len(state))
		}
		t.Logf("the client was sent %d of %d updates", len(c.events)-1, updates)
	})
}

func TestTimeoutOfStalled(t *testing.T) {
	overEachTransport(t, func(t *testing.T, kind writerKind) {
		h := newHub(t, Options{})
		shortTimeout := *defaultSettings
		shortTimeout.Timeout = 200 * time.Millisecond
		p, other := dial(t, h, requestOf("stalled").with(shortTimeout), kind), dial(t, h, requestOf("other").with(shortTimeout), kind)
		began := time.Now()
		for i := range 40 {
			publish(t, h, fmt.Sprint(i, ";", strings.Repeat("x", 32<<10)))
			other.readUntil(t, fmt.Sprint("data: ", i, ";")) // so its socket is never full
		}
		want(t, "reason", p.wait(), Timeout)
		if took := time.Since(began); took < shortTimeout.Timeout {
			t.Errorf("ended after %v, want at least %v", took, shortTimeout.Timeout)
		}
		want(t, "counted", h.Stats().Closed["timeout"], 1)
		want(t, "the other", h.Stats().Connections["h1"], 1)
		if _, err := io.Copy(io.Discard, p.in); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("end of a dropped stream: got error %v, want %v", err, io.ErrUnexpectedEOF)
		}
		want(t, "has sse.closing", strings.Contains(dechunk(p.raw.Bytes()), "sse.closing"), false)
	})
}

// A write that was aborted does not continue when the client reads a part of it.
func TestAbortEndsWrite(t *testing.T) {
	for range 10 {
		clientEnd, tcp := tcpPair(t)
		s := newSocket(tcp, tcp)
		s.unsent = make([]byte, 64<<20)
		written := make(chan error, 1)
		go func() {
			var err error
			for err == nil {
				_, err = s.writePiece(time.Minute)
			}
			written <- err
		}()
		buf := make([]byte, 100_000)
		if _, err := io.ReadFull(clientEnd, buf); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the write waits", func() bool { return strings.Contains(stacks(), "waitWrite") })
		// The hub aborts repeatedly as well: the socket may have just taken a piece, and the next
		// piece sets its own deadline.
		var err error
		eventually(t, "the write is aborted", func() bool {
			s.Abort()
			select {
			case err = <-written:
				return true
			default:
				return false
			}
		})
		wantErr(t, err, os.ErrDeadlineExceeded)
		clientEnd.Close()
		s.close()
	}
}

func TestCloseWhileSomeClientsStall(t *testing.T) {
	h := New(Options{})
	useStore(t, h, NewMemory())
	var reading sync.WaitGroup
	var stalled []*realClient
	for i := range 500 {
		kind := overTCP
		if i%10 == 1 {
			kind = overTLS
		}
		p := dial(t, h, requestOf(fmt.Sprint("u", i)), kind)
		if i%100 < 2 {
			stalled = append(stalled, p)
			continue
		}
		reading.Go(func() {
			if got := p.readRest(t).controlSummary(); got != "sse.closing hub_closed" {
				t.Errorf("control events: got %q, want %q", got, "sse.closing hub_closed")
			}
		})
	}
	for range 20 {
		for _, p := range stalled {
			publish(t, h, strings.Repeat("x", 32<<10), user(p.identity.User))
		}
	}
	// A client of dial may take nothing for an hour, so Close returns because it aborts the writes.
	if err := h.Close(); err != nil {
		t.Error(err)
	}
	for _, s := range []string{"hub.(*Conn).writeBlocking", "hub.(*sweeper).run", "departures", "wakeSubscribers"} {
		want(t, "goroutines left of "+s, strings.Count(stacks(), s), 0)
	}
	want(t, "open", h.Stats().Connections["h1"], 0)
	reading.Wait()
}
