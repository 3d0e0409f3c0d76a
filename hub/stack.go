package hub

import (
	"fmt"
	"net/http"
	"runtime"
	"runtime/debug"
	"sync"
)

// borrowedStacks lends goroutines for work that needs a large stack. The stack of a
// goroutine hardly ever shrinks, and the goroutine of a stream lives as long as the stream:
// if it wrote itself, it would keep twice the stack that it needs to wait. A few
// goroutines wait here for the next borrower, so that their stacks do not grow again
// for every write.
//
// Any goroutine may call the methods. The caller must not hold mu.
type borrowedStacks struct {
	mu     sync.Mutex
	idle   []*borrowedStack // the last one returned is lent first
	closed bool
}

// borrowedStack is a goroutine that runs one task after the other.
type borrowedStack struct {
	tasks chan task
	done  chan any // the panic of a task, or nil; closed when the goroutine has ended
}

// task is work for a large stack.
type task interface{ perform() }

type taskFunc func()

func (f taskFunc) perform() { f() }

// maxIdleStacks is how many goroutines wait for the next borrower. More are needed only
// while many writes wait for their clients.
var maxIdleStacks = 4 * runtime.GOMAXPROCS(0)

// OnLargeStack runs f on another goroutine and waits for it, so that the stack of the
// caller does not grow. If f panics, OnLargeStack panics. If f calls runtime.Goexit, the
// goroutine of the caller ends too.
func (h *Hub) OnLargeStack(f func()) { h.stacks.run(taskFunc(f)) }

func (s *borrowedStacks) run(t task) {
	b := s.borrow()
	b.tasks <- t
	failure, alive := <-b.done
	if !alive { // the task has called runtime.Goexit
		runtime.Goexit()
	}
	s.giveBack(b)
	if failure != nil {
		panic(failure)
	}
}

func (s *borrowedStacks) borrow() *borrowedStack {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.idle) - 1; n >= 0 {
		b := s.idle[n]
		s.idle[n] = nil
		s.idle = s.idle[:n]
		return b
	}
	b := &borrowedStack{make(chan task), make(chan any)}
	go b.serve()
	return b
}

// giveBack keeps b for the next borrower. It ends b if enough goroutines are idle, or if the
// hub is closed. The borrower calls it once, and must not use b afterwards.
func (s *borrowedStacks) giveBack(b *borrowedStack) {
	s.mu.Lock()
	keep := !s.closed && len(s.idle) < maxIdleStacks
	if keep {
		s.idle = append(s.idle, b)
	}
	s.mu.Unlock()
	if !keep {
		b.end()
	}
}

// close ends the goroutines that are idle. The others end when they are given back.
func (s *borrowedStacks) close() {
	s.mu.Lock()
	idle := s.idle
	s.idle, s.closed = nil, true
	s.mu.Unlock()
	for _, b := range idle {
		b.end()
	}
}

func (b *borrowedStack) end() {
	close(b.tasks)
	<-b.done
}

func (b *borrowedStack) serve() {
	defer close(b.done)
	for t := range b.tasks {
		b.done <- perform(t)
	}
}

// perform returns the value that the task panicked with, with the stack of the panic, or
// nil.
func perform(t task) (failure any) {
	defer func() {
		failure = recover()
		if failure != nil && failure != http.ErrAbortHandler {
			failure = fmt.Sprintf("%v\n\n%s", failure, debug.Stack())
		}
	}()
	t.perform()
	return nil
}
