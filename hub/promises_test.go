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
		want(t, "its events are no gap", c.controlSummary(), "")
	})

	t.Run("cut at every byte", func(t *testing.T) {
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
				for done := false; !done; {
					select {
					case <-published:
						done = true // after one more look
					default:
					}
					w := newTestSink()
					if !done {
						w.breakAt = 1 + rand.IntN(3000)
					}
					c.read(readOnce(t, h, alice().at(c.position), w))
				}
			})
		}
		publishing.Wait()
		close(published)
		reading.Wait()
		for _, c := range clients {
			want(t, "events", len(c.events), publishers*each)
			want(t, "distinct", len(slices.Compact(slices.Sorted(strings.SplitSeq(c.data(), " ")))), publishers*each)
			want(t, "the same order for all", c.data(), clients[0].data())
			want(t, "gaps", c.controlSummary(), "")
		}
	})
}

func TestPromise2GapAlwaysTold(t *testing.T) {
	// Ten events stay of thirteen; the three that went were bob's.
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
		want(t, "told", c.controlSummary(), "sse.gap epoch")
		want(t, "then what history holds", c.data(), "0 2 4 6 8")
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
			want(t, fmt.Sprintf("told for %.40q", position), c.controlSummary()+": "+c.data(), "sse.gap invalid: 0 2 4 6 8")
		}
		want(t, "counted", h.Stats().Gaps["invalid"], uint64(len(garbage)))
	})
	t.Run("evicted", func(t *testing.T) {
		h := full(t, ten)
		for seq := range uint64(3) {
			c := read(t, h, requestOf("bob").at(Position{Epoch: h.history.epoch, Seq: seq}.String()))
			want(t, "told", c.controlSummary()+": "+c.data(), "sse.gap evicted: 1 3 5 7 9")
			want(t, "resumed", strings.Contains(c.control[0].data, `"resumed":false`), true)
		}
		want(t, "counted", h.Stats().Gaps["evicted"], 3)
	})
	t.Run("only to whom it concerns", func(t *testing.T) {
		h := full(t, ten)
		for seq := range uint64(4) {
			c := read(t, h, requestOf("alice", "bob").at(Position{Epoch: h.history.epoch, Seq: seq}.String()))
			want(t, "alice is told", c.controlSummary(), "")
			want(t, "and gets", c.data(), "0 2 4 6 8")
			want(t, "resumed", strings.Contains(c.control[0].data, `"resumed":true`), true)
		}
		want(t, "bob at the edge is told", read(t, h, requestOf("bob").at(Position{Epoch: h.history.epoch, Seq: 3}.String())).controlSummary(), "")
	})
	t.Run("again when the telling was cut", func(t *testing.T) {
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
			publish(t, h, "held") // what their writes are stuck with
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
	t.Run("below the floor in doubt", func(t *testing.T) {
		h := newHub(t, Options{MaxEvents: 1})
		for range 3 {
			publish(t, h, "d", user("dave"))
		}
		publish(t, h, "0", user("bob"))
		h.history.rotateEvicted()
		h.history.rotateEvicted() // forgets that the three were dave's
		publish(t, h, "1", user("alice"))
		c := read(t, h, requestOf("alice").at(Position{Epoch: h.history.epoch, Seq: 2}.String()))
		want(t, "told", c.controlSummary()+": "+c.data(), "sse.gap evicted: 1")
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
	want(t, "seen after refusals", read(t, h, requestOf("alice").at(Earliest)).data(), "")

	for i := range 20 {
		r := publish(t, h, fmt.Sprint(i), user("alice"))
		c := read(t, h, requestOf("alice").at(Position{Epoch: h.history.epoch, Seq: r.Position.Seq - 1}.String()))
		want(t, "kept", c.data(), fmt.Sprint(i))
		want(t, "its position", c.events[0].id, r.Position.String())
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
		visits := make([]*servedConn, 20)
		for i := range visits {
			visits[i] = open(t, h, requestOf(fmt.Sprint(i)))
		}
		synctest.Wait()
		for range 3 {
			publish(t, h, "the same bytes for all")
			synctest.Wait()
			block := h.history.entry(h.history.head).frame.block()
			for _, v := range visits {
				want(t, "bytes are those in history", v.last, unsafe.SliceData(block))
			}
		}
	})

	t.Run("to one or to many costs the publisher the same", func(t *testing.T) {
		allocs := func(n int) float64 {
			h := newHub(t, Options{MaxEvents: 64})
			for range n {
				connect(t, h, requestOf("alice", "news/*"))
			}
			event, news := Event{Targets: []Target{{}}}, Event{Targets: []Target{topic("news/x")}}
			for range 200 { // fills history, and grows what grows
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
		w.taken = make([]byte, 0, 4<<20) // so that memory does not grow for what it keeps
		quick := serve(t, connect(t, h, requestOf("quick")), w)
		synctest.Wait()
		resume := slow.stall()
		began := time.Now()
		held := strings.Repeat("x", 1000)
		heap := func() uint64 {
			var m runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&m)
			return m.HeapAlloc
		}
		var before uint64
		for i := range 3000 {
			if i == 200 { // history is full, and the slow one is stuck
				before = heap()
			}
			publish(t, h, held)
			synctest.Wait()
			if !h.mu.TryLock() {
				t.Fatal("the lock is held during a write")
			}
			h.mu.Unlock()
		}
		want(t, "events of the quick one", len(quick.client(t).events), 3000)
		want(t, "events of the slow one", len(slow.client(t).events), 0)
		want(t, "time that passed for the quick one", time.Since(began), 0)
		if grown := int64(heap() - before); grown > 1<<20 {
			t.Errorf("memory grew by %d bytes", grown)
		}
		resume()
		synctest.Wait()
		want(t, "the slow one is told", slow.client(t).controlSummary(), "sse.gap evicted")
		want(t, "and gets what is left, after what it was stuck with", len(slow.client(t).events), 101)
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
		want(t, "told", keeps.client(t).controlSummary(), "")
		resume()
		synctest.Wait()
		want(t, "the one that lags", lags.client(t).controlSummary(), "sse.gap evicted")

		h.EndStreams()
		want(t, "nothing serves the hub", keeps.wait(), HubClosed)
		want(t, "told", keeps.client(t).controlSummary(), "sse.closing hub_closed")
		publish(t, h, "meanwhile")
		want(t, "served again", keeps.client(t).resume(h, requestOf("alice")).data(), keeps.client(t).data()+" meanwhile")
	})
}

func TestPromise8ExitIsQuick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		var visits []*servedConn
		for range 100 {
			visits = append(visits, open(t, h, requestOf("alice")))
		}
		slow := open(t, h, requestOf("alice"))
		synctest.Wait()
		slow.stall()
		began := time.Now()
		publish(t, h, "the last")
		h.Shutdown()
		delays := make(map[int]bool)
		for _, v := range visits {
			want(t, "reason", v.wait(), Shutdown)
			c := v.client(t)
			want(t, "told", c.data()+", "+c.controlSummary(), "the last, sse.closing shutdown")
			want(t, "the delay is in the event, too", strings.Contains(c.control[1].data, fmt.Sprintf(`"retryMs":%d}`, c.retry)), true)
			if c.retry < 1000 || c.retry > 5000 {
				t.Errorf("delay of %d ms", c.retry)
			}
			delays[c.retry] = true
		}
		if len(delays) < 50 {
			t.Errorf("100 clients have %d different delays", len(delays))
		}
		want(t, "time for those who listen", time.Since(began), 0)
		want(t, "reason of the stalled", slow.wait(), Shutdown)
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("the stalled write was aborted after %v", took)
		}
		_, err := h.Connect(t.Context(), requestOf("alice"))
		want(t, "admission", err.Error(), "connection refused: shutdown")
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
