package hub

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

const someTrace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

// deliveryLog has the deliveries that a hub has reported. Any goroutine may use it.
type deliveryLog struct {
	mu   sync.Mutex
	list []Delivery
}

func (l *deliveryLog) add(d Delivery) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, d)
}

func (l *deliveryLog) all() []Delivery {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.list)
}

// reportTo makes a hub report to a new log.
func reportTo(h *Hub) *deliveryLog {
	log := new(deliveryLog)
	h.ReportDeliveries(log.add)
	return log
}

func publishTraced(t *testing.T, h *Hub, targets ...Target) Position {
	t.Helper()
	receipts, err := h.Publish(t.Context(), Event{Data: []byte("x"), Trace: someTrace, Targets: targets})
	if err != nil {
		t.Fatal(err)
	}
	return receipts[0].Position
}

// running returns how many deliveries are measured now.
func running(h *Hub) int {
	h.traces.mu.Lock()
	defer h.traces.mu.Unlock()
	return len(h.traces.running)
}

// A delivery is reported once, when all connections have the event, with the times of the
// first and the last write. Replays, events without a trace, and events for nobody here
// are not reported.
func TestTracedDelivery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		got := reportTo(h)
		open(t, h, requestOf("alice"))
		slow := open(t, h, requestOf("alice"))
		open(t, h, requestOf("bob"))
		synctest.Wait()
		resume := slow.stall()
		before := publish(t, h, "the one that the slow client is stuck in", user("alice")).Position
		synctest.Wait()
		time.Sleep(time.Second)
		begun := time.Now()
		p := publishTraced(t, h, user("alice"))
		publishTraced(t, h, user("nobody"))
		time.Sleep(2 * time.Second)
		replayed := open(t, h, requestOf("alice").at(before.String()))
		synctest.Wait()
		want(t, "replayed", replayed.client(t).data(), "x")
		want(t, "reported while one connection does not have it", len(got.all()), 0)
		resume()
		synctest.Wait()
		list := got.all()
		if len(list) != 1 {
			t.Fatalf("reported: %+v", list)
		}
		if !list[0].First.Equal(begun) || !list[0].Last.Equal(begun.Add(2*time.Second)) {
			t.Errorf("written from %v to %v, published at %v", list[0].First, list[0].Last, begun)
		}
		list[0].First, list[0].Last = time.Time{}, time.Time{}
		want(t, "report", list[0], Delivery{Trace: someTrace, Position: p, Writes: 2})
		want(t, "running", running(h), 0)
	})
}

// A delivery that some connections do not get is reported after traceTimeout, without
// them. A delivery that no connection gets is not reported.
func TestTracedDeliveryIsIncomplete(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		got := reportTo(h)
		open(t, h, requestOf("alice"))
		leaves, stuck := open(t, h, requestOf("alice")), open(t, h, requestOf("alice", "news"))
		synctest.Wait()
		leaves.stall()
		resume := stuck.stall()
		publish(t, h, "y", user("alice"))
		synctest.Wait()
		p := publishTraced(t, h, user("alice"))
		publishTraced(t, h, topic("news"))
		h.finish(leaves.Conn, Replaced)
		time.Sleep(closeGrace)
		want(t, "it has left", leaves.endReason(t), Replaced)
		time.Sleep(traceTimeout - closeGrace - 1)
		synctest.Wait()
		want(t, "reported before the timeout", len(got.all()), 0)
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		resume()
		synctest.Wait()
		want(t, "got", stuck.client(t).data(), "y x x")
		list := got.all()
		if len(list) != 1 || list[0].Position != p || list[0].Writes != 1 {
			t.Errorf("reported: %+v", list)
		}
	})
}

// A connection that several targets of an event match is written to once, and counts once.
func TestTracedDeliveryToSeveralTargets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		got := reportTo(h)
		open(t, h, requestOf("alice", "news"))
		synctest.Wait()
		publishTraced(t, h, user("alice"), topic("news"))
		time.Sleep(traceTimeout)
		synctest.Wait()
		if list := got.all(); len(list) != 1 || list[0].Writes != 1 {
			t.Errorf("reported: %+v", list)
		}
	})
}

// However many events are traced, at most tracesAtOnce are measured at a time. All that are
// measured are reported, at the latest when the hub is closed.
func TestTracesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		open(t, h, requestOf("alice"))
		stuck := open(t, h, requestOf("alice"))
		synctest.Wait()
		stuck.stall()
		publishTraced(t, h, user("alice"))
		want(t, "running, though nobody wants reports", running(h), 0)
		got := reportTo(h)
		for range tracesAtOnce + 100 {
			publishTraced(t, h, user("alice"))
			want(t, "too many", running(h) > tracesAtOnce, false)
		}
		synctest.Wait()
		want(t, "running", running(h), tracesAtOnce)
		time.Sleep(traceTimeout)
		synctest.Wait()
		want(t, "reports", len(got.all()), tracesAtOnce)
		want(t, "left", running(h), 0)
		publishTraced(t, h, user("alice"))
		synctest.Wait()
		want(t, "reports before the hub is closed", len(got.all()), tracesAtOnce)
		began := time.Now()
		if err := h.Close(); err != nil {
			t.Fatal(err)
		}
		want(t, "reports of a hub that is closed", len(got.all()), tracesAtOnce+1)
		want(t, "Close waited for clients alone", time.Since(began) < traceTimeout, true)
	})
}

// Concurrent writes are all counted, and make one report with the first and the last time.
func TestTraceCountsConcurrentWrites(t *testing.T) {
	const writers, each = 8, 1000
	log := new(deliveryLog)
	s := traces{report: log.add}
	tr := &trace{expected: writers * each}
	now := time.Now()
	base := monotonic(now)
	tr.first.Store(base + 1<<40)
	s.start(tr)
	var writing sync.WaitGroup
	for w := range writers {
		writing.Go(func() {
			for i := range each {
				tr.noteWrite(base + int64((i*7919+w*each)%(writers*each)))
			}
		})
	}
	writing.Wait()
	s.ending.Wait()
	want(t, "reports", len(log.all()), 1)
	d := log.all()[0]
	want(t, "writes", d.Writes, writers*each)
	want(t, "from the first to the last", d.Last.Sub(d.First) < writers*each, true)
	want(t, "in order", d.Last.After(d.First), true)
}

// Nodes that share a store report each their own delivery of an event, in its one trace, also
// a node that was cut off while the event was published.
func TestTraceOverNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newSharedLog()
		here, _ := log.join(t, Options{})
		there, cutOff := log.join(t, Options{})
		gotHere, gotThere := reportTo(here), reportTo(there)
		open(t, here, requestOf("alice"))
		open(t, there, requestOf("alice"))
		open(t, there, requestOf("alice"))
		synctest.Wait()
		check := func(p Position, got *deliveryLog, writes int, at time.Time) {
			t.Helper()
			synctest.Wait()
			list := got.all()
			if len(list) == 0 {
				t.Fatal("nothing is reported")
			}
			want(t, "report", list[len(list)-1], Delivery{someTrace, p, list[len(list)-1].First, list[len(list)-1].Last, writes})
			want(t, "written at", list[len(list)-1].First.Equal(at), true)
		}
		p := publishTraced(t, here, user("alice"))
		check(p, gotHere, 1, time.Now())
		check(p, gotThere, 2, time.Now())

		cutOff.set(true)
		p = publishTraced(t, here, user("alice"))
		check(p, gotHere, 1, time.Now())
		time.Sleep(10 * time.Minute)
		want(t, "reports of the node that is cut off", len(gotThere.all()), 1)
		cutOff.set(false)
		check(p, gotThere, 2, time.Now())
		want(t, "reports here", len(gotHere.all()), 2)
	})
}

// A history that is being read is not measured, though its records have traces: its
// events were delivered long ago.
func TestOldHistoryIsNotTraced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		got := reportTo(h)
		v := open(t, h, requestOf("alice"))
		synctest.Wait()
		traced := Event{Data: []byte("x"), Trace: someTrace, Targets: []Target{user("alice")}}
		feed{h}.Begin(NewEpoch(), 1)
		synctest.Wait()
		feed{h}.Deliver([]Record{recordOf(1, traced)})
		synctest.Wait()
		want(t, "got", v.client(t).data(), "x")
		feed{h}.Status(nil, 0)
		time.Sleep(traceTimeout)
		synctest.Wait()
		want(t, "reports of the old history", len(got.all()), 0)
		feed{h}.Deliver([]Record{recordOf(2, traced)})
		synctest.Wait()
		want(t, "reports", len(got.all()), 1)
	})
}

// A trace is stored with its event. An event without a trace is stored as if there were no
// traces, and clients are sent the same bytes with and without one.
func TestTraceIsInTheRecord(t *testing.T) {
	const plain = "\x01\x02\x00\x01t\x01s\x01\x01\x05alicex"
	e := Event{Type: "t", Data: []byte("x"), Slot: "s", Targets: []Target{user("alice")}, At: time.Unix(0, 1)}
	want(t, "record without a trace", string(encodeEvent(&e)), plain)
	block := encode(Record{1, time.Unix(0, 1), encodeEvent(&e)}, "abcdefgh", time.Now()).buf

	e.Trace = someTrace
	record := encodeEvent(&e)
	want(t, "record with a trace", string(record), "\x03\x37"+someTrace+plain[1:])
	got, err := decode(record)
	if err != nil || fmt.Sprintf("%+v", *got.event) != fmt.Sprintf("%+v", e) {
		t.Errorf("%+v: %v", got.event, err)
	}
	want(t, "sent to clients", string(encode(Record{1, time.Unix(0, 1), record}, "abcdefgh", time.Now()).buf), string(block))
	for n := range record[:len(record)-1] {
		if _, err := decode(record[:n]); err == nil {
			t.Errorf("the first %d bytes are an event", n)
		}
	}

	e.Trace = strings.Repeat("x", MaxTraceLength+1)
	wantErr(t, e.validate(100), ErrInvalid)
	_, err = decode(encodeEvent(&e))
	wantErr(t, err, ErrInvalid)
}

// Events without a trace allocate the same whether deliveries are reported or not.
func TestUntracedEventsCostNothing(t *testing.T) {
	allocs := func(report func(Delivery)) float64 {
		h := newHub(t, Options{MaxEvents: 64})
		h.ReportDeliveries(report)
		w, stop := serveStream(t, h)
		defer stop()
		deliver := func() {
			mustPublish(t, h, Target{})
			<-w.flushed
		}
		for range 200 { // fills the history, and grows what grows
			deliver()
		}
		return testing.AllocsPerRun(1000, deliver)
	}
	off, on := allocs(nil), allocs(func(Delivery) { t.Error("there was no trace") })
	if on > off || off == 0 {
		t.Errorf("allocations to publish and deliver: %v, and with reports %v", off, on)
	}
}

// A delivery of a traced event allocates nothing.
func TestTracedDeliveryAllocatesNothing(t *testing.T) {
	h := newHub(t, Options{})
	got := reportTo(h)
	c, w := connect(t, h, requestOf("alice")), &discard{}
	connect(t, h, requestOf("bob")) // takes nothing
	c.catchUp(w)
	for range 10 {
		publishTraced(t, h, Target{})
	}
	var bound float64
	if raceEnabled {
		bound = 3 // a batch, if the pool forgot it, and its slices
	}
	allocs := testing.AllocsPerRun(1000, func() {
		c.cursor.Store(h.history.head - 5)
		c.catchUp(w)
	})
	if allocs > bound {
		t.Errorf("%v allocations to deliver 5 traced events", allocs)
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	want(t, "reports", len(got.all()) >= 5, true)
}

// BenchmarkTracedDeliver is BenchmarkDeliver with a trace for each event.
func BenchmarkTracedDeliver(b *testing.B) {
	h := newHub(b, Options{})
	h.ReportDeliveries(func(Delivery) {})
	w, stop := serveStream(b, h)
	defer stop()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := h.Publish(context.Background(), Event{Data: payload, Trace: someTrace, Targets: []Target{{}}}); err != nil {
			b.Fatal(err)
		}
		<-w.flushed
	}
}
