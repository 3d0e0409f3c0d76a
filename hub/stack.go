package hub

import (
	"fmt"
	"net/http"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"github.com/ea766355/caddy-sse/internal/netyield"
)

// stackPool performs tasks that need a large stack, on goroutines of its own. The stack of
// a goroutine hardly ever shrinks, and the goroutine in [Stream.Serve] lives as long as the
// stream: if it wrote itself, it would keep twice the stack that it needs to wait. A few
// goroutines of the pool wait for the next task, so that their stacks do not grow again for
// every write.
//
// A task may block. So there is always a goroutine on its way to the first task of the
// queue: if a goroutine takes a task and leaves others, it calls the next goroutine first.
// Tasks that do not block for long share a few goroutines, however many they are.
//
// Any goroutine may call the methods. The caller must not hold mu.
type stackPool struct {
	mu          sync.Mutex
	first, last *stackTask     // the queue
	coming      bool           // a goroutine is on its way to the first task
	idle        []*stackWorker // the last one that became idle is called first
	closed      bool

	// Tasks wait while the pool gives way to goroutines that wait for the network, such as
	// publishers. The Go scheduler polls the network only when nothing else can run.
	yielder  netyield.Yielder // its stretch begins when the queue is no longer empty
	isGiving bool             // a goroutine gives way, and alone uses yielder

	published atomic.Int64 // bytes of all events that this node has published, or tried to
}

// stackTask is work for a stackPool. It is in the queue at most once.
type stackTask struct {
	next      *stackTask // guarded by stackPool.mu
	published int64      // guarded by stackPool.mu: stackPool.published when the task came

	perform func()
	failed  func(failure) // called if perform panics or ends its goroutine
}

// stackWorker is a goroutine of a stackPool.
type stackWorker struct {
	call  chan struct{} // one slot: there is a task. Closed: the pool is closed
	ended chan struct{} // closed when the goroutine has ended
}

// maxIdleStacks is how many goroutines wait for the next task. More are needed only while
// many tasks block.
var maxIdleStacks = 4 * runtime.GOMAXPROCS(0)

// start puts t into the queue. It does not block.
func (s *stackPool) start(t *stackTask) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t.published = s.published.Load()
	if s.first == nil {
		s.first = t
		s.yielder.Begin()
	} else {
		s.last.next = t
	}
	s.last = t
	s.callNext()
}

// callNext calls a goroutine for the first task of the queue, unless one is on its way, or
// gives way. The caller holds mu.
func (s *stackPool) callNext() {
	if s.coming || s.isGiving || s.first == nil {
		return
	}
	s.coming = true
	if n := len(s.idle) - 1; n >= 0 {
		w := s.idle[n]
		s.idle[n] = nil
		s.idle = s.idle[:n]
		w.call <- struct{}{}
		return
	}
	w := &stackWorker{make(chan struct{}, 1), make(chan struct{})}
	w.call <- struct{}{}
	go s.work(w)
}

// work performs tasks until the pool is closed, or enough other goroutines are idle. It is
// the goroutine of w.
func (s *stackPool) work(w *stackWorker) {
	defer close(w.ended)
	for range w.call {
		s.mu.Lock()
		s.coming = false
		for s.first != nil && !s.isGiving {
			if s.yielder.IsDue() {
				s.giveWay()
			}
			t := s.first
			s.first, t.next = t.next, nil
			s.callNext()
			s.mu.Unlock()
			t.run()
			s.mu.Lock()
		}
		stay := !s.closed && len(s.idle) < maxIdleStacks
		if stay {
			s.idle = append(s.idle, w)
		}
		s.mu.Unlock()
		if !stay {
			return
		}
	}
}

// giveWay gives way. Meanwhile no other goroutine takes a task. The caller holds mu, and takes the
// first task afterwards.
func (s *stackPool) giveWay() {
	s.isGiving = true
	s.mu.Unlock()
	s.yielder.GiveWay()
	s.mu.Lock()
	s.isGiving = false
}

// isBehind reports whether publishers are too fast for the pool: more than half a batch of events
// was published while the first task waited. A slow client does not make the pool behind: its
// task does not wait, it blocks.
func (s *stackPool) isBehind() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.first != nil && s.published.Load()-s.first.published > batchBytes/2
}

// close ends the goroutines that are idle. The others end after their tasks.
func (s *stackPool) close() {
	s.mu.Lock()
	idle := s.idle
	s.idle, s.closed = nil, true
	s.mu.Unlock()
	for _, w := range idle {
		close(w.call)
		<-w.ended
	}
}

// run performs the task, and calls failed if it did not return.
func (t *stackTask) run() {
	returned := false
	defer func() {
		if value := recover(); value != nil {
			if value != http.ErrAbortHandler {
				value = fmt.Sprintf("%v\n\n%s", value, debug.Stack())
			}
			t.failed(failure{panicked: value})
		} else if !returned {
			t.failed(failure{exited: true})
		}
	}()
	t.perform()
	returned = true
}

// failure says how a task ended that did not return. The zero value: it returned.
type failure struct {
	panicked any  // the value of a panic, with its stack
	exited   bool // the task called runtime.Goexit
}

// raise does to the calling goroutine what the task did to its own.
func (f failure) raise() {
	if f.exited {
		runtime.Goexit()
	}
	if f.panicked != nil {
		panic(f.panicked)
	}
}

// OnLargeStack runs f on another goroutine and waits for it, so that the stack of the
// caller does not grow. If f panics, OnLargeStack panics. If f calls runtime.Goexit, the
// goroutine of the caller ends too.
func (h *Hub) OnLargeStack(f func()) {
	ended := make(chan failure, 1)
	h.stacks.start(&stackTask{
		perform: func() {
			f()
			ended <- failure{}
		},
		failed: func(f failure) { ended <- f },
	})
	(<-ended).raise()
}
