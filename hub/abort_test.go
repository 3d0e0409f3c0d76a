package hub

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A write may begin at the very moment of the cut, so that the cut comes too early for
// it. It is aborted soon after, and nothing is aborted once the stream has ended.
func TestCutIsRepeated(t *testing.T) {
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
		want(t, "ended", h.DisconnectHere(Filter{Users: []string{"alice"}}), 1)
		want(t, "reason", v.wait(), Disconnected)
		want(t, "it took", time.Since(began), closeGrace+closeGrace/8)
		time.Sleep(time.Minute)
		synctest.Wait()
		want(t, "cuts", v.aborts, 2)
	})
}

// A connection ends when its login expires, also while its client slowly takes an event.
func TestLoginEndsWithinAnEvent(t *testing.T) {
	overEachTransport(t, func(t *testing.T, kind writerKind) {
		const size = 12 << 20
		h := newHub(t, Options{MaxEventSize: size, MaxBytes: 2 * size})
		publish(t, h, strings.Repeat("x", size-1)) // before the login begins: it takes long on a busy machine
		r := requestOf("alice").at(Earliest)
		r.Expires = time.Now().Add(3 * time.Second)
		p := dial(t, h, r, kind)
		eventually(t, "it waits for the client", func() bool { return strings.Contains(stacks(), "hub.(*Conn).writeBlocking(") })
		<-time.After(time.Until(r.Expires))
		buf, taken := make([]byte, 64<<10), 0
		for h.Stats().Closed["expired"] == 0 {
			n, err := p.Conn.Read(buf)
			if taken += n; err != nil || taken > size/2 {
				t.Fatalf("after %d bytes it is still open: %v", taken, err)
			}
		}
	})
}

// The end of a connection is reported once, also before its first block.
func TestClosedIsToldOnce(t *testing.T) {
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
		want(t, "of other settings", c.reason, "")
		h.EndOf([]*Settings{defaultSettings, request.Settings}, Lifetime)
		want(t, "served until the end", opened.Serve(t.Context()), Lifetime)
		c = connect(t, h, request)
		h.Shutdown()
		want(t, "after the shutdown", c.Open(newTestSink()).ended, Shutdown)

		told := make([]string, len(closed))
		for i, reason := range closed {
			told[i] = string(reason)
		}
		want(t, "told", strings.Join(told, " "), "gone disconnected gone lifetime shutdown")
	})
}

// panics is a response writer that panics.
type panics struct{ *testSink }

func (panics) Write([]byte) (int, error) { panic("oh no") }
func (panics) Abort()                    {}

// A client that comes after Shutdown is told of that, also once the hub is closed.
func TestCloseAfterShutdown(t *testing.T) {
	h := New(Options{})
	useStore(t, h, NewMemory())
	h.Shutdown()
	h.EndStreams()
	if err := h.Close(); err != nil {
		t.Error(err)
	}
	_, err := h.Connect(t.Context(), requestOf("alice"))
	want(t, "refused", err.Error(), "connection refused: shutdown")
	_, err = h.Publish(t.Context(), Event{Data: []byte("x"), Targets: []Target{{}}})
	wantErr(t, err, ErrNotStored)
}

// Who reports that a stream was closed does not wait for the hub, which may be busy with
// the end of thousands.
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
