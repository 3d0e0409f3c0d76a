package hub

import (
	"fmt"
	"io"
	"runtime"
	"sync/atomic"
	"testing"
	"time"
)

// A publisher of a large batch gives way to goroutines that wait for the network, also where
// there is one CPU. Without that the scheduler polls the network every 10 ms.
func TestLargeBatchLetsTheNetworkIn(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	h := newHub(t, Options{})
	targets := make([]Target, MaxTargets)
	for i := range targets {
		targets[i] = user(fmt.Sprint("user ", i))
	}
	events := make([]Event, 300)
	for i := range events {
		events[i] = Event{Data: []byte("1"), Targets: targets}
	}
	clientEnd, serverEnd := tcpPair(t)
	var rounds atomic.Int64
	echoed := make(chan error, 1)
	go func() {
		_, err := io.Copy(serverEnd, serverEnd)
		echoed <- err
	}()
	turned := make(chan struct{})
	go func() {
		defer close(turned)
		var b [1]byte
		for {
			if _, err := clientEnd.Write(b[:]); err != nil {
				return
			}
			if _, err := clientEnd.Read(b[:]); err != nil {
				return
			}
			rounds.Add(1)
		}
	}()
	// Without giving way, each of the two ways of a round takes 10 ms or more. On a busy machine
	// a step of the batch may take as long, so one quick batch is enough.
	for tries := 0; ; tries++ {
		before, began := rounds.Load(), time.Now()
		if _, err := h.Publish(t.Context(), events...); err != nil {
			t.Fatal(err)
		}
		took := time.Since(began)
		n, most := rounds.Load()-before, int64(took/(20*time.Millisecond))+1
		if n > most {
			break
		}
		if tries == 10 {
			t.Errorf("there were %d rounds in %v, want more than %d", n, took, most)
			break
		}
	}
	clientEnd.Close()
	<-turned
	serverEnd.Close()
	<-echoed
}
