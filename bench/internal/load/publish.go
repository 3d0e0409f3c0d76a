package load

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Publishing is a plan. Each publisher has one HTTP connection and waits for each answer before it publishes
// again.
type Publishing struct {
	Addr       string
	Publishers int
	Rate       float64       // events per second of all publishers together; 0: as fast as they are answered
	For        time.Duration // ends after this time
	Count      int           // ends after this many events of all publishers together; 0: no such end
	// Request returns the n-th request of a publisher, from 1. It is called right before the request is sent.
	Request func(publisher uint16, n uint32) Request
}

// Published is the result of a plan.
type Published struct {
	Start    time.Duration           // [Now] at the first request
	Answered *hdrhistogram.Histogram // nanoseconds from request to answer
	Each     []uint32                // number of events by publisher
	Receipt  []byte                  // the last answer
}

// Total returns the number of published events.
func (p *Published) Total() int64 {
	var n int64
	for _, each := range p.Each {
		n += int64(each)
	}
	return n
}

// Publish carries out a plan.
func Publish(ctx context.Context, plan Publishing) (*Published, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		first error
		out   = &Published{Start: Now(), Answered: NewLatencies(), Each: make([]uint32, plan.Publishers)}
	)
	for p := range plan.Publishers {
		wg.Go(func() {
			latencies, n, receipt, err := publishOne(ctx, plan, uint16(p), out.Start)
			mu.Lock()
			defer mu.Unlock()
			out.Answered.Merge(latencies)
			out.Each[p] = n
			out.Receipt = receipt
			if err != nil && first == nil {
				first = fmt.Errorf("publish: %w", err)
				cancel()
			}
		})
	}
	wg.Wait()
	return out, first
}

func publishOne(ctx context.Context, plan Publishing, p uint16, start time.Duration) (latencies *hdrhistogram.Histogram, n uint32, receipt []byte, err error) {
	latencies = NewLatencies()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp4", plan.Addr)
	if err != nil {
		return latencies, 0, nil, err
	}
	defer conn.Close()
	answers := bufio.NewReader(conn)
	var interval time.Duration
	if plan.Rate > 0 {
		interval = time.Duration(float64(time.Second) * float64(plan.Publishers) / plan.Rate)
	}
	for {
		switch {
		case ctx.Err() != nil,
			plan.For > 0 && Now()-start >= plan.For,
			plan.Count > 0 && int(n) >= plan.Count/plan.Publishers:
			return latencies, n, receipt, nil
		}
		sent := Now()
		if _, err := conn.Write(plan.Request(p, n+1).http1(plan.Addr)); err != nil {
			return latencies, n, receipt, err
		}
		if receipt, err = answer(answers); err != nil {
			return latencies, n, receipt, err
		}
		observe(latencies, Now()-sent)
		n++
		if interval > 0 {
			time.Sleep(start + time.Duration(n)*interval - Now())
		}
	}
}

func answer(r *bufio.Reader) ([]byte, error) {
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 != 2 {
		return nil, fmt.Errorf("%s: %.200s", resp.Status, body)
	}
	return body, nil
}
