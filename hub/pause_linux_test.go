package hub

import (
	"runtime"
	"sync/atomic"
	"testing"
)

// Who waits for the network has its turn in a pause, also where there is one CPU
// and somebody always has something to do.
func TestPauseLetsTheNetworkIn(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	near, far := tcpPair(t)
	defer near.Close()
	defer far.Close()
	var p pause
	defer p.close()
	for range 100 {
		var heard atomic.Bool
		done := make(chan struct{})
		go func() {
			defer close(done)
			var b [1]byte
			if _, err := near.Read(b[:]); err != nil {
				t.Error(err)
			}
			heard.Store(true)
		}()
		p.take() // the reader begins to wait
		if _, err := far.Write([]byte{1}); err != nil {
			t.Fatal(err)
		}
		for pauses := 0; !heard.Load(); pauses++ {
			if pauses == 3 {
				t.Fatalf("after %d pauses what had come by then was not read", pauses)
			}
			p.take()
		}
		<-done
	}
}
