package hub

import (
	"fmt"
	"math/rand/v2"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"
)

func TestPromise1OnceInOrder(t *testing.T) {
	alice := func() Request {
		r := requestOf("alice", "news", "news/*")
		r.Session = "s1"
		return r
	}
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		v := open(t, h, alice())
		for i := range 50 {
			publish(t, h, fmt.Sprint("a", i), user("alice"), topic("news/x"), Target{Session, "s1"}, Target{})
			publish(t, h, fmt.Sprint("b", i), user("bob"))
			publish(t, h, fmt.Sprint("c", i), Target{Connection, v.ID()})
		}
		synctest.Wait()
		var all, kept []string
		for i := range 50 {
			all = append(all, fmt.Sprint("a", i), fmt.Sprint("c", i))
			kept = append(kept, fmt.Sprint("a", i))
		}
		want(t, "live", v.client(t).data(), strings.Join(all, " "))

		v.goAway()
		c := read(t, h, alice().at(Position{Epoch: h.history.epoch, Seq: 0}.String()))
		want(t, "after the connection ended", c.data(), strings.Join(kept, " "))
		want(t, "no gap for events of the ended connection", c.controlSummary(), "")
	})

	t.Run("cut after each byte", func(t *testing.T) {
		h := newHub(t, Options{})
		start := h.Stats().Head.String()
		for i := range 5 {
			publish(t, h, fmt.Sprint(i), user("alice"))
			publish(t, h, "not for her", user("bob"))
		}
		whole := readOnce(t, h, alice().at(start), newTestSink())
		for n := 1; n <= len(whole); n++ {
			w := newTestSink()
			w.breakAt = n
			c := (&client{t: t, position: start}).read(readOnce(t, h, alice().at(start), w))
			c.resume(h, alice()).resume(h, alice())
			want(t, fmt.Sprint("cut after byte ", n), c.data()+c.controlSummary(), "0 1 2 3 4")
		}
	})

	t.Run("publishers and cuts at random", func(t *testing.T) {
		const publishers, each = 4, 200
		h := newHub(t, Options{})
		first := publish(t, h, "start").Position.String()
		var publishing, reading sync.WaitGroup
		published := make(chan struct{})
		for p := range publishers {
			publishing.Go(func() {
				for i := range each {
					publish(t, h, fmt.Sprintf("%d/%d", p, i), []Target{{}, user("alice"), topic("news/1")}[i%3])
				}
			})
		}
		clients := make([]*client, 4)
		for i := range clients {
			reading.Go(func() {
				c := &client{t: t, position: first}
				clients[i] = c
				all := false // everything is published
				for news := true; news || !all; {
					select {
					case <-published:
						all = true
					default:
					}
					w := newTestSink()
					if !all {
						w.breakAt = 1 + rand.IntN(3000)
					}
					before := len(c.events)
					c.read(readOnce(t, h, alice().at(c.position), w)) // on a busy machine closeGrace may cut it
					news = len(c.events) > before
				}
			})
		}
		publishing.Wait()
		close(published)
		reading.Wait()
		for _, c := range clients {
			want(t, "events", len(c.events), publishers*each)
			want(t, "distinct", len(slices.Compact(slices.Sorted(strings.SplitSeq(c.data(), " ")))), publishers*each)
			want(t, "order of the events", c.data(), clients[0].data())
			want(t, "gaps", c.controlSummary(), "")
		}
	})
}

func TestPromise2GapAlwaysTold(t *testing.T) {
	// Thirteen events are published and ten are retained. The three that are evicted were for bob.
	full := func(t *testing.T, opts Options) *Hub {
		h := newHub(t, opts)
		for range 3 {
			publish(t, h, "b", user("bob"))
		}
		for i := range 10 {
			publish(t, h, fmt.Sprint(i), user([]string{"alice", "bob"}[i%2]))
		}
		return h
	}
	ten := Options{MaxEvents: 10}

	t.Run("epoch", func(t *testing.T) {
		h := full(t, ten)
		c := read(t, h, requestOf("alice").at("abcdefgh-3"))
		want(t, "control events", c.controlSummary(), "sse.gap epoch")
		want(t, "retained events", c.data(), "0 2 4 6 8")
		want(t, "counted", h.Stats().Gaps["epoch"], 1)
	})
	t.Run("invalid", func(t *testing.T) {
		h := full(t, ten)
		garbage := []string{
			"-", "x", "42", "-1", "a--1", h.history.epoch, h.history.epoch + "-", h.history.epoch + "--1", h.history.epoch + "-+1", h.history.epoch + "-01",
			h.history.epoch + "-14", h.history.epoch + "-18446744073709551615", h.history.epoch + "-18446744073709551616", h.history.epoch + "-1 ", "\xff\xfe\x00",
			strings.Repeat("9", 1<<16), "EARLIEST", "earliest-x",
		}
		for _, position := range garbage {
			c := read(t, h, requestOf("alice").at(position))
			want(t, fmt.Sprintf("control events and events at %.40q", position), c.controlSummary()+": "+c.data(), "sse.gap invalid: 0 2 4 6 8")
		}
		want(t, "counted", h.Stats().Gaps["invalid"], uint64(len(garbage)))
	})
	t.Run("evicted", func(t *testing.T) {
		h := full(t, ten)
		for seq := range uint64(3) {
			c := read(t, h, requestOf("bob").at(Position{Epoch: h.history.epoch, Seq: seq}.String()))
			want(t, "control events", c.controlSummary()+": "+c.data(), "sse.gap evicted: 1 3 5 7 9")
			want(t, "resumed", strings.Contains(c.control[0].data, `"resumed":false`), true)
		}
		want(t, "counted", h.Stats().Gaps["evicted"], 3)
	})
	t.Run("no gap for others", func(t *testing.T) {
		h := full(t, ten)
		for seq := range uint64(4) {
			c := read(t, h, requestOf("alice", "bob").at(Position{Epoch: h.history.epoch, Seq: seq}.String()))
			want(t, "control events of alice", c.controlSummary(), "")
			want(t, "events of alice", c.data(), "0 2 4 6 8")
			want(t, "resumed", strings.Contains(c.control[0].data, `"resumed":true`), true)
		}
		want(t, "control events of bob at the last evicted event", read(t, h, requestOf("bob").at(Position{Epoch: h.history.epoch, Seq: 3}.String())).controlSummary(), "")
	})
	t.Run("again if the connection ended before the gap arrived", func(t *testing.T) {
		h := full(t, ten)
		const stale = "abcdefgh-3"
		whole := readOnce(t, h, requestOf("alice").at(stale), newTestSink())
		for n := 1; n <= len(whole); n++ {
			w := newTestSink()
			w.breakAt = n
			c := (&client{t: t, position: stale}).read(readOnce(t, h, requestOf("alice").at(stale), w))
			c.resume(h, requestOf("alice"))
			want(t, fmt.Sprint("cut after byte ", n), c.controlSummary()+": "+c.data(), "sse.gap epoch: 0 2 4 6 8")
		}
	})
	t.Run("to an open stream that lags", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := newHub(t, ten)
			alice, carol := open(t, h, requestOf("alice")), open(t, h, requestOf("carol"))
			synctest.Wait()
			resumeAlice, resumeCarol := alice.stall(), carol.stall()
			publish(t, h, "held") // their writes are stuck in this event
			synctest.Wait()
			publish(t, h, "lost", user("alice"))
			for i := range 10 {
				publish(t, h, fmt.Sprint(i), user("bob"))
			}
			publish(t, h, "end")
			resumeAlice()
			resumeCarol()
			synctest.Wait()
			want(t, "alice", alice.client(t).data()+", "+alice.client(t).controlSummary(), "held end, sse.gap evicted")
			want(t, "carol, who lost nothing", carol.client(t).data()+", "+carol.client(t).controlSummary(), "held end, ")
		})
	})
	t.Run("in doubt below the floor", func(t *testing.T) {
		h := newHub(t, Options{MaxEvents: 1})
		for range 3 {
			publish(t, h, "d", user("dave"))
		}
		publish(t, h, "0", user("bob"))
		h.history.rotateEvicted()
		h.history.rotateEvicted() // the history forgets that the three were dave's
		publish(t, h, "1", user("alice"))
		c := read(t, h, requestOf("alice").at(Position{Epoch: h.history.epoch, Seq: 2}.String()))
		want(t, "control events", c.controlSummary()+": "+c.data(), "sse.gap evicted: 1")
		c = read(t, h, requestOf("alice").at(Position{Epoch: h.history.epoch, Seq: 3}.String()))
		want(t, "at the floor", c.controlSummary()+": "+c.data(), ": 1")
	})
}

func TestPromise3AcknowledgedMeansKept(t *testing.T) {
	h := newHub(t, Options{MaxEventSize: 10})
	before := h.Stats()
	valid := Event{Data: []byte("x"), Targets: []Target{user("alice")}}
	reserved, large := valid, valid
	reserved.Type, large.Data = "sse.gap", make([]byte, 11)

	for _, batch := range [][]Event{{reserved}, {valid, reserved}, {valid, valid, large}, {large, valid}} {
		if receipts, err := h.Publish(t.Context(), batch...); err == nil || receipts != nil {
			t.Errorf("accepted: %v", receipts)
		}
	}
	want(t, "head after refusals", h.Stats().Head, before.Head)
	want(t, "published after refusals", h.Stats().Published, 0)
	want(t, "events after refusals", read(t, h, requestOf("alice").at(Earliest)).data(), "")

	for i := range 20 {
		r := publish(t, h, fmt.Sprint(i), user("alice"))
		c := read(t, h, requestOf("alice").at(Position{Epoch: h.history.epoch, Seq: r.Position.Seq - 1}.String()))
		want(t, "event", c.data(), fmt.Sprint(i))
		want(t, "id", c.events[0].id, r.Position.String())
	}

	h.Close()
	_, err := h.Publish(t.Context(), valid)
	wantErr(t, err, ErrNotStored)
	h.Shutdown()
	_, err = h.Publish(t.Context(), valid)
	wantErr(t, err, ErrNotStored)
	want(t, "head after Close", h.Stats().Head.Seq, 20)
}

func TestPromise4EncodedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		streams := make([]*servedConn, 20)
		for i := range streams {
			streams[i] = open(t, h, requestOf(fmt.Sprint(i)))
		}
		synctest.Wait()
		for range 3 {
			publish(t, h, "the same bytes for all")
			synctest.Wait()
			block := h.history.entry(h.history.head).frame.block()
			for _, v := range streams {
				want(t, "the bytes that were written are those of the history", v.last, unsafe.SliceData(block))
			}
		}
	})

	t.Run("a publish costs the same for one subscriber and for many", func(t *testing.T) {
		allocs := func(n int) float64 {
			h := newHub(t, Options{MaxEvents: 64})
			for range n {
				connect(t, h, requestOf("alice", "news/*"))
			}
			event, news := Event{Targets: []Target{{}}}, Event{Targets: []Target{topic("news/x")}}
			for range 200 { // fills the history, so that buffers have their final size
				publish(t, h, "x")
			}
			return testing.AllocsPerRun(200, func() {
				if _, err := h.Publish(t.Context(), event, news); err != nil {
					t.Error(err)
				}
			})
		}
		if one, many := allocs(1), allocs(1000); many > one+1 {
			t.Errorf("allocations: %v for one subscriber, %v for 1000", one, many)
		}
	})
}

func TestPromise5NobodyWaitsForTheSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{MaxEvents: 100})
		slow := open(t, h, requestOf("slow"))
		w := newTestSink()
		w.taken = make([]byte, 0, 4<<20) // so that the memory of this buffer does not grow
		quick := serve(t, connect(t, h, requestOf("quick")), w)
		synctest.Wait()
		resume := slow.stall()
		began := time.Now()
		text := strings.Repeat("x", 1000)
		heap := func() uint64 {
			var m runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&m)
			return m.HeapAlloc
		}
		var before uint64
		for i := range 3000 {
			if i == 200 { // the history is full, and the slow client is stuck
				before = heap()
			}
			publish(t, h, text)
			synctest.Wait()
			if !h.mu.TryLock() {
				t.Fatal("the lock is held during a write")
			}
			h.mu.Unlock()
		}
		want(t, "events of the quick client", len(quick.client(t).events), 3000)
		want(t, "events of the slow client while it is stuck", len(slow.client(t).events), 0)
		want(t, "time that the quick client waited", time.Since(began), 0)
		if grown := int64(heap() - before); grown > 1<<20 {
			t.Errorf("growth of memory: got %d bytes, want at most %d", grown, 1<<20)
		}
		resume()
		synctest.Wait()
		want(t, "control events of the slow client", slow.client(t).controlSummary(), "sse.gap evicted")
		want(t, "events of the slow client: the one that it was stuck in, and the retained ones", len(slow.client(t).events), 101)
	})
}

func TestPromise7ReloadKeepsStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		keeps, lags := open(t, h, requestOf("alice")), open(t, h, requestOf("alice"))
		synctest.Wait()
		resume := lags.stall()
		for i := range 40 {
			publish(t, h, fmt.Sprint(i))
			synctest.Wait()
			if i%10 == 9 {
				h.SetOptions(Options{MaxEvents: 10 - i/10})
			}
		}
		synctest.Wait()
		want(t, "retained", h.Stats().Events, 7)
		want(t, "events", len(keeps.client(t).events), 40)
		want(t, "control events", keeps.client(t).controlSummary(), "")
		resume()
		synctest.Wait()
		want(t, "control events of the client that lags", lags.client(t).controlSummary(), "sse.gap evicted")

		h.EndStreams()
		want(t, "reason when nothing serves the hub", keeps.wait(), HubClosed)
		want(t, "control events", keeps.client(t).controlSummary(), "sse.closing hub_closed")
		publish(t, h, "meanwhile")
		want(t, "events when the hub is served again", keeps.client(t).resume(h, requestOf("alice")).data(), keeps.client(t).data()+" meanwhile")
	})
}

func TestPromise8ExitIsQuick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		var streams []*servedConn
		for range 100 {
			streams = append(streams, open(t, h, requestOf("alice")))
		}
		slow := open(t, h, requestOf("alice"))
		synctest.Wait()
		slow.stall()
		began := time.Now()
		publish(t, h, "the last")
		h.Shutdown()
		delays := make(map[int]bool)
		for _, v := range streams {
			want(t, "reason", v.wait(), Shutdown)
			c := v.client(t)
			want(t, "control events", c.data()+", "+c.controlSummary(), "the last, sse.closing shutdown")
			want(t, "sse.closing has the same delay", strings.Contains(c.control[1].data, fmt.Sprintf(`"retryMs":%d}`, c.retry)), true)
			if c.retry < 1000 || c.retry > 5000 {
				t.Errorf("delay: got %d ms, want 1,000 to 5,000", c.retry)
			}
			delays[c.retry] = true
		}
		if len(delays) < 50 {
			t.Errorf("different delays of 100 clients: got %d, want at least 50", len(delays))
		}
		want(t, "time until the clients that read have ended", time.Since(began), 0)
		want(t, "reason of the stalled client", slow.wait(), Shutdown)
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("the stalled write was aborted after %v, want at most %v", took, 3*time.Second)
		}
		_, err := h.Connect(t.Context(), requestOf("alice"))
		want(t, "error of Connect", err.Error(), "connection refused: shutdown")
		publish(t, h, "goes on")
		want(t, "connections", h.Stats().Connections["h1"], 0)
	})
}

func TestPromise9EngineNeverImportsCaddy(t *testing.T) {
	deps, err := exec.CommandContext(t.Context(), "go", "list", "-deps", ".").CombinedOutput()
	if err != nil || !strings.Contains(string(deps), "caddy-sse/hub") {
		t.Fatalf("%v: %s", err, deps)
	}
	for path := range strings.Lines(string(deps)) {
		if strings.Contains(path, "caddyserver") || strings.Contains(path, "zap") || strings.Contains(path, "prometheus") {
			t.Errorf("imports %s", path)
		}
	}
}
