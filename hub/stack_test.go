package hub

import (
	"context"
	"net"
	"net/http"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// deepSink needs a large stack for every write.
type deepSink struct{ *testSink }

//go:noinline
func deep(n int) byte {
	var frame [512]byte
	if n == 0 {
		return frame[len(frame)-1]
	}
	frame[n%len(frame)] = deep(n - 1)
	return frame[n%len(frame)]
}

func (w deepSink) Write(p []byte) (int, error) {
	deep(400)
	return w.testSink.Write(p)
}

// The goroutine that serves a stream only waits: writes do not make its stack grow.
func TestStackOfAStreamStaysSmall(t *testing.T) {
	const streams = 200
	h := newHub(t, Options{})
	var sinks []deepSink
	ended := make(chan Reason, streams)
	for range streams {
		w := deepSink{newTestSink()}
		c := connect(t, h, requestOf("alice"))
		go func() {
			var opened Stream
			h.OnLargeStack(func() { opened = c.Open(w) })
			ended <- opened.Serve(t.Context())
		}()
		sinks = append(sinks, w)
	}
	arrived := func(text string) func() bool {
		return func() bool {
			for _, w := range sinks {
				if !strings.Contains(w.received(), text) {
					return false
				}
			}
			return true
		}
	}
	eventually(t, "all are open", arrived("sse.connected"))
	runtime.GC()
	before := stackMemory()
	for _, text := range []string{"one", "two", "three"} {
		publish(t, h, text)
		eventually(t, text, arrived("data: "+text))
	}
	// If a stream wrote on its own goroutine, its stack would grow by 14 KB, and would shrink only
	// in a garbage collection. On a busy machine, many goroutines write at once, but they end.
	eventually(t, "the stacks are small", func() bool { return (stackMemory()-before)/streams <= 3<<10 })
	h.EndOf([]*Settings{defaultSettings}, Lifetime)
	for range streams {
		want(t, "reason", <-ended, Lifetime)
	}
}

func stackMemory() int {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.StackInuse)
}

// A few goroutines stay for the next task, and none after Close.
func TestOnLargeStack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := New(Options{})
		useStore(t, h, NewMemory())
		gate := make(chan struct{})
		var callers sync.WaitGroup
		call := func() {
			for range 3 * maxIdleStacks {
				callers.Go(func() { h.OnLargeStack(func() { <-gate }) })
			}
			synctest.Wait()
		}
		call()
		close(gate)
		callers.Wait()
		synctest.Wait()
		want(t, "idle", len(h.stacks.idle), maxIdleStacks)
		h.OnLargeStack(func() {})
		synctest.Wait()
		want(t, "idle after another", len(h.stacks.idle), maxIdleStacks)

		gate = make(chan struct{})
		call()
		want(t, "idle while all are blocked", len(h.stacks.idle), 0)
		if err := h.Close(); err != nil { // it does not wait for the tasks
			t.Error(err)
		}
		close(gate)
		callers.Wait()
		synctest.Wait()
		want(t, "idle after Close", len(h.stacks.idle), 0)
	})
}

// Tasks that block do not hold others, in any order. Each task runs once.
func TestBlockedTasksDoNotHoldOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		gate := make(chan struct{})
		var ran [300]atomic.Int32
		for i := range ran {
			h.stacks.start(&stackTask{perform: func() {
				ran[i].Add(1)
				if i%3 != 0 {
					<-gate
				}
			}})
		}
		synctest.Wait()
		for i := range ran {
			want(t, "tasks while others are blocked", ran[i].Load(), 1)
		}
		close(gate)
		synctest.Wait()
		want(t, "idle", len(h.stacks.idle), maxIdleStacks)
	})
}

// While many tasks wait, the pool gives way to goroutines that wait for the network, such as
// publishers. All of its goroutines do: the scheduler polls the network only when nothing can run.
func TestTasksGiveWay(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	h := newHub(t, Options{})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	var answered atomic.Int64 // number of tasks that had run
	var ran atomic.Int64
	var ended sync.WaitGroup
	ended.Go(func() {
		if c, err := listener.Accept(); err == nil {
			answered.Store(ran.Load())
			c.Close()
		}
	})
	const tasks = 1000
	ended.Add(tasks)
	for i := range tasks {
		h.stacks.start(&stackTask{perform: func() {
			defer ended.Done()
			if i == 10 {
				if c, err := net.Dial("tcp", listener.Addr().String()); err == nil {
					defer c.Close()
				}
			}
			for began := time.Now(); time.Since(began) < 50*time.Microsecond; {
			}
			ran.Add(1)
		}})
	}
	ended.Wait()
	if n := answered.Load(); n > tasks/4 {
		t.Errorf("a connection was accepted after %d of %d tasks", n, tasks)
	}
}

// A publisher waits while the first stream waits for the pool, and more was published meanwhile than
// half a batch. It does not wait for long.
func TestPublisherWaitsForWritersThatAreBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		waited := func() time.Duration {
			began := time.Now()
			publish(t, h, strings.Repeat("x", batchBytes/4))
			return time.Since(began)
		}
		want(t, "no stream waits", waited(), 0)
		want(t, "no stream waits", waited(), 0)
		h.stacks.mu.Lock()
		h.stacks.coming = true // nobody takes the task
		h.stacks.mu.Unlock()
		h.stacks.start(&stackTask{})
		want(t, "a quarter of a batch since the stream waits", waited(), 0)
		want(t, "more than half a batch", waited(), maxGiveWay)
		h.stacks.mu.Lock()
		h.stacks.coming, h.stacks.first = false, nil
		h.stacks.mu.Unlock()
		want(t, "the stream waits no longer", waited(), 0)
	})
}

// A large event does not make its own publisher wait for the streams that it wakes.
func TestPublisherDoesNotWaitForItsOwnEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := New(Options{})
		t.Cleanup(func() { _ = h.Close() })
		useStore(t, h, queueingStore{NewMemory(), h})
		h.stacks.mu.Lock()
		h.stacks.coming = true // nobody takes the task
		h.stacks.mu.Unlock()
		began := time.Now()
		publish(t, h, strings.Repeat("x", batchBytes))
		want(t, "the publisher waited", time.Since(began), 0)
	})
}

// queueingStore is a store that queues a task with each append, as an event does for its streams.
type queueingStore struct {
	*Memory
	hub *Hub
}

func (s queueingStore) Append(ctx context.Context, entries []Entry) ([]Stored, error) {
	stored, err := s.Memory.Append(ctx, entries)
	s.hub.stacks.start(&stackTask{})
	return stored, err
}

// A task that comes while the last goroutine looks for work is not forgotten.
func TestNoTaskIsForgotten(t *testing.T) {
	h := newHub(t, Options{})
	var callers sync.WaitGroup
	for range 8 {
		callers.Go(func() {
			for range 5_000 {
				h.OnLargeStack(func() {})
			}
		})
	}
	callers.Wait()
}

// Many tasks that do not block share a few goroutines: one that has a large stack is used
// again before another is started.
func TestShortTasksShareAStack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		used := make(map[string]int)
		for range 100 {
			h.OnLargeStack(func() { used[goroutineID()]++ })
			synctest.Wait()
		}
		want(t, "goroutines for 100 tasks, one after the other", len(used), 1)
	})
}

// goroutineID returns the first words of the calling goroutine's stack trace, which name it.
func goroutineID() string {
	text := string(debug.Stack())
	id, _, _ := strings.Cut(text, " [")
	return id
}

// A panic reaches the caller, and the goroutine performs the next task.
func TestOnLargeStackPanics(t *testing.T) {
	h := newHub(t, Options{})
	panicOf := func(f func()) (failure any) {
		defer func() { failure = recover() }()
		h.OnLargeStack(f)
		return nil
	}
	want(t, "an abort", panicOf(func() { panic(http.ErrAbortHandler) }), any(http.ErrAbortHandler))
	got, _ := panicOf(func() { panic("oh no") }).(string)
	if !strings.HasPrefix(got, "oh no\n\n") || !strings.Contains(got, "TestOnLargeStackPanics") {
		t.Errorf("the panic was %q: want its value and its stack", got)
	}
	want(t, "the next", panicOf(func() {}), nil)
	eventually(t, "the goroutine of all three is idle", func() bool {
		h.stacks.mu.Lock()
		defer h.stacks.mu.Unlock()
		return len(h.stacks.idle) == 1
	})
}

// exitingSink ends its goroutine in a write.
type exitingSink struct {
	*testSink
	exits bool
}

func (w *exitingSink) Write(p []byte) (int, error) {
	if w.exits {
		runtime.Goexit()
	}
	return w.testSink.Write(p)
}

// A handler may end its goroutine with runtime.Goexit. On a goroutine of the pool, this ends
// the caller's goroutine too, as it would without the pool. The stream ends, and is counted.
func TestGoexitOnALargeStack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, openFirst := range []bool{false, true} {
			h := newHub(t, Options{})
			p := connect(t, h, requestOf("alice"))
			w := &exitingSink{newTestSink(), !openFirst}
			ended, returned := make(chan struct{}), false
			go func() {
				defer close(ended)
				var opened Stream
				h.OnLargeStack(func() { opened = p.Open(w) })
				w.exits = true
				opened.Serve(context.Background())
				returned = true
			}()
			synctest.Wait()
			publish(t, h, "x")
			synctest.Wait()
			select {
			case <-ended:
			default:
				t.Fatal("the goroutine of the stream: got still running, want ended")
			}
			want(t, "Serve has returned", returned, false)
			want(t, "closed", h.Stats().Closed["gone"], 1)
			want(t, "open", h.Stats().Connections["h1"], 0)
			want(t, "idle after Goexit", len(h.stacks.idle), 0)
		}
	})
}
