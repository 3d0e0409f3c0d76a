package load

import (
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Result is what arrived in a run.
type Result struct {
	Deliveries int64
	Latency    *hdrhistogram.Histogram // nanoseconds from publish to receipt
	LastAt     time.Duration           // [Now] of the last receipt

	Lost       int64 // published but not received
	Doubled    int64 // received more than once
	Disordered int64 // received after a later one
	Gaps       int64 // sse.gap events
	Closed     int64 // streams that the server ended
	Stray      int64 // events of another run
}

// place is the position of a connection in a lane.
type place struct {
	last    uint32
	missing map[uint32]struct{} // skipped numbers; nil: none so far
}

// Recorder checks and times events. It may be used from any goroutine.
type Recorder struct {
	mu     sync.Mutex
	run    uint16
	lanes  int
	places []place // connection * lanes + lane
	res    Result
}

// NewLatencies returns a histogram of up to two minutes in nanoseconds, with three digits.
func NewLatencies() *hdrhistogram.Histogram {
	return hdrhistogram.New(1_000, int64(2*time.Minute), 3)
}

func observe(h *hdrhistogram.Histogram, d time.Duration) {
	_ = h.RecordValue(min(max(int64(d), 0), h.HighestTrackableValue()))
}

// Begin starts a run of conns connections that each follow the given number of lanes, and returns its number.
func (r *Recorder) Begin(conns, lanes int) uint16 {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.run++
	r.lanes = lanes
	r.places = make([]place, conns*lanes)
	r.res = Result{Latency: NewLatencies()}
	return r.run
}

// Deliveries returns the number of events received in this run.
func (r *Recorder) Deliveries() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.res.Deliveries
}

// End ends a run. expected returns the last number published for a connection in a lane.
func (r *Recorder) End(expected func(conn, lane int) uint32) Result {
	r.mu.Lock()
	defer r.mu.Unlock()
	res := r.res
	for i := range r.places {
		p := &r.places[i]
		res.Lost += int64(len(p.missing))
		if want := expected(i/r.lanes, i%r.lanes); want > p.last {
			res.Lost += int64(want - p.last)
		}
	}
	r.lanes, r.places = 0, nil
	return res
}

func (r *Recorder) closed() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.res.Closed++
}

// receive processes the result of one read of a connection.
func (r *Recorder) receive(conn int, now time.Duration, f *found) {
	if len(f.marks) == 0 && f.gaps == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.res.Gaps += int64(f.gaps)
	for _, m := range f.marks {
		if m.Run != r.run || int(m.Lane) >= r.lanes {
			r.res.Stray++
			continue
		}
		r.res.LastAt = now
		observe(r.res.Latency, now-m.At)
		r.place(&r.places[conn*r.lanes+int(m.Lane)], m.Seq)
	}
}

func (r *Recorder) place(p *place, seq uint32) {
	switch {
	case seq == p.last+1:
		p.last = seq
	case seq > p.last:
		if p.missing == nil {
			p.missing = make(map[uint32]struct{})
		}
		for s := p.last + 1; s < seq; s++ {
			p.missing[s] = struct{}{}
		}
		p.last = seq
	default:
		if _, late := p.missing[seq]; !late {
			r.res.Doubled++
			return
		}
		delete(p.missing, seq)
		r.res.Disordered++
	}
	r.res.Deliveries++
}
