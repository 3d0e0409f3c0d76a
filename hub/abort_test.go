package hub

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A write may begin at the moment of the abort, so that the abort comes too early for it. The hub
// soon aborts again. It aborts nothing after the stream has ended.
func TestAbortIsRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		v := open(t, h, requestOf("alice"))
		synctest.Wait()
		v.mu.Lock()
		v.ignoredAborts = 1
		v.mu.Unlock()
		v.stall()
		publish(t, h, "1")
		synctest.Wait()
		began := time.Now()
		want(t, "connections that were ended", h.DisconnectHere(Filter{Users: []string{"alice"}}), 1)
		want(t, "reason", v.wait(), Disconnected)
		want(t, "time until the end", time.Since(began), closeGrace+closeGrace/8)
		time.Sleep(time.Minute)
		synctest.Wait()
		want(t, "aborts", v.aborts, 2)
	})
}

// A connection ends when its login expires, even while its client reads an event slowly.
func TestLoginEndsWithinAnEvent(t *testing.T) {
	overEachTransport(t, func(t *testing.T, kind writerKind) {
		const size = 12 << 20
		h := newHub(t, Options{MaxEventSize: size, MaxBytes: 2 * size})
		publish(t, h, strings.Repeat("x", size-1)) // before the login begins, because this takes long on a busy machine
		r, waits := requestOf("alice").at(Earliest), false
		var p *realClient
		var expired int64
		for login := 3 * time.Second; !waits; login *= 2 { // a busy machine may need longer than a login
			expired = h.Stats().Closed["expired"]
			r.Expires = time.Now().Add(login)
			p = dial(t, h, r, kind)
			eventually(t, "the write waits for the client", func() bool {
				waits = strings.Contains(stacks(), "hub.(*Conn).writeBlocking(")
				return waits || h.Stats().Closed["expired"] > expired
			})
		}
		<-time.After(time.Until(r.Expires))
		buf, received := make([]byte, 64<<10), 0
		for h.Stats().Closed["expired"] == expired {
			n, err := p.Conn.Read(buf)
			if received += n; err != nil || received > size/2 {
				t.Fatalf("the stream is still open after %d bytes, or broke: %v", received, err)
			}
		}
	})
}

// The hub reports the end of a connection once, even before its first block.
func TestClosedIsCalledOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		var closed []Reason
		settings := *defaultSettings
		settings.Closed = func(_ *Conn, reason Reason) { closed = append(closed, reason) }
		request := requestOf("alice").with(settings)

		connect(t, h, request).Cancel()
		c := connect(t, h, request)
		h.finish(c.Conn, Disconnected)
		c.Open(newTestSink())
		func() {
			defer func() { _ = recover() }()
			connect(t, h, request).Open(panics{})
		}()
		c = connect(t, h, request)
		opened := c.Open(newTestSink())
		h.EndOf([]*Settings{defaultSettings}, Lifetime)
		want(t, "reason after EndOf other settings", c.reason, "")
		h.EndOf([]*Settings{defaultSettings, request.Settings}, Lifetime)
		want(t, "reason after EndOf its settings", opened.Serve(t.Context()), Lifetime)
		c = connect(t, h, request)
		h.Shutdown()
		want(t, "reason after the shutdown", c.Open(newTestSink()).ended, Shutdown)

		got := make([]string, len(closed))
		for i, reason := range closed {
			got[i] = string(reason)
		}
		want(t, "reported reasons", strings.Join(got, " "), "gone disconnected gone lifetime shutdown")
	})
}

// panics is a response writer that panics.
type panics struct{ *testSink }

func (panics) Write([]byte) (int, error) { panic("oh no") }
func (panics) Abort()                    {}

// A client that connects after Shutdown gets the reason shutdown, even once the hub is closed.
func TestCloseAfterShutdown(t *testing.T) {
	h := New(Options{})
	useStore(t, h, NewMemory())
	h.Shutdown()
	h.EndStreams()
	if err := h.Close(); err != nil {
		t.Error(err)
	}
	_, err := h.Connect(t.Context(), requestOf("alice"))
	want(t, "error of Connect", err.Error(), "connection refused: shutdown")
	_, err = h.Publish(t.Context(), Event{Data: []byte("x"), Targets: []Target{{}}})
	wantErr(t, err, ErrNotStored)
}

// A report of a closed stream does not wait for the lock of the hub, which may be busy with the
// end of thousands.
func TestAboutTakesNoLock(t *testing.T) {
	h := newHub(t, Options{})
	c := connect(t, h, requestOf("alice", "news"))
	info := c.Info()
	h.mu.Lock()
	about := c.About()
	h.mu.Unlock()
	info.Position, info.Topics = "", nil
	want(t, "about", fmt.Sprint(about), fmt.Sprint(info))
}
