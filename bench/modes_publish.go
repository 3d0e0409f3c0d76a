package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ea766355/caddy-sse/bench/internal/hub"
	"github.com/ea766355/caddy-sse/bench/internal/load"
)

// Publishing without streams: events of a size, each for one of many users and with its own key, one per
// request or in batches.
const (
	keptSize  = 256 // bytes of data
	keptBatch = 100
)

func keeps(a hub.Abilities) bool { return a.Keep }

// keep publishes to a history on disk and to one in memory.
func keep(ctx context.Context, b *bench, h hub.Hub) (sample, error) {
	out := sample{}
	for _, kind := range []string{"disk", "memory"} {
		var err error
		if out[kind+"Process"], err = b.workshop.Publish(ctx, kind, b.lasting(5*time.Second), b.clientCPU); err != nil {
			return nil, err
		}
		for _, at := range []struct {
			key               string
			publishers, batch int
		}{{"1", 1, 1}, {"64", 64, 1}, {"Batch", 8, keptBatch}} {
			s, err := b.keep(ctx, h, "store "+kind)
			if err != nil {
				return nil, err
			}
			published, events, err := s.flatOut(ctx, load.Publishing{Publishers: at.publishers, For: b.lasting(5 * time.Second)}, at.batch)
			s.Stop()
			if err != nil {
				return nil, fmt.Errorf("%s, %d publishers: %w", kind, at.publishers, err)
			}
			out[kind+at.key] = events
			out[kind+at.key+"p99"] = float64(published.Answered.ValueAtPercentile(99)) / 1e6
		}
	}
	out["ratio"] = out["disk64"] / out["disk1"]
	return out, nil
}

// endure publishes to disk for ten minutes, as fast as possible. Keys are remembered for two minutes, so
// nothing should grow after that.
func endure(ctx context.Context, b *bench, h hub.Hub) (sample, error) {
	minute := time.Minute
	if b.quick {
		minute = time.Second
	}
	s, err := b.keep(ctx, h, "store disk")
	if err != nil {
		return nil, err
	}
	defer s.Stop()
	var publishing sync.WaitGroup
	defer publishing.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	published := make(chan error, 1)
	var events float64
	publishing.Go(func() {
		var err error
		_, events, err = s.flatOut(ctx, load.Publishing{Publishers: 8, For: 10 * minute}, keptBatch)
		published <- err
	})
	out := sample{}
	began := time.Now()
	for _, at := range []int{1, 5, 10} {
		select {
		case err := <-published: // publishing ended early
			return nil, errors.Join(err, errors.New("publishing ended early"))
		case <-time.After(time.Until(began.Add(time.Duration(at)*minute - minute/20))):
		}
		rss, err := s.RSS()
		if err != nil {
			return nil, err
		}
		file, err := os.Stat(s.file)
		if err != nil {
			return nil, err
		}
		out[fmt.Sprint("rss", at)], out[fmt.Sprint("file", at)] = float64(rss)/(1<<20), float64(file.Size())/(1<<20)
	}
	if err := <-published; err != nil {
		return nil, err
	}
	out["events"] = events
	return out, nil
}

// restart kills a server with 100,000 events on disk. It measures from the start of the next process until
// a returning client has its first block.
func restart(ctx context.Context, b *bench, h hub.Hub) (sample, error) {
	retained := 100_000
	if b.quick {
		retained /= 10
	}
	options := fmt.Sprintf("history %d\nstore disk", retained)
	s, err := b.keep(ctx, h, options)
	if err != nil {
		return nil, err
	}
	defer func() { s.Stop() }()
	published, _, err := s.flatOut(ctx, load.Publishing{Publishers: 1, Count: retained / keptBatch}, keptBatch)
	if err != nil {
		return nil, err
	}
	receipts := bytes.Split(bytes.TrimSpace(published.Receipt), []byte("\n"))
	position, err := h.Position(receipts[len(receipts)-1])
	if err != nil {
		return nil, err
	}
	s.Stop()
	again, err := b.keepIn(ctx, h, filepath.Dir(s.file), options)
	if err != nil {
		return nil, err
	}
	s = again
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.H1+"/events", nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Last-Event-ID", position)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	first := bufio.NewScanner(resp.Body)
	var block strings.Builder
	for first.Scan() && first.Text() != "" {
		fmt.Fprintln(&block, first.Text())
	}
	took := time.Since(s.Launched)
	if !strings.Contains(block.String(), `"resumed":true`) || !strings.HasSuffix(block.String(), "id: "+position+"\n") {
		return nil, fmt.Errorf("after %s the first block is %q", position, block.String())
	}
	return sample{"seconds": took.Seconds()}, nil
}

// keeper is a server without streams.
type keeper struct {
	*hub.Server
	file string // its history, if on disk
}

func (b *bench) keep(ctx context.Context, h hub.Hub, options string) (*keeper, error) {
	dir, err := os.MkdirTemp(b.tmp, "site-")
	if err != nil {
		return nil, err
	}
	return b.keepIn(ctx, h, dir, options)
}

func (b *bench) keepIn(ctx context.Context, h hub.Hub, dir, options string) (*keeper, error) {
	file := filepath.Join(dir, "history.db")
	srv, err := h.Start(ctx, hub.Site{
		Dir: dir, CPU: b.workshop.CPU, Cert: b.cert, Key: b.key,
		Options: strings.ReplaceAll(options, "store disk", "store disk "+file),
	})
	if err != nil {
		return nil, fmt.Errorf("start: %w", err)
	}
	return &keeper{srv, file}, nil
}

// flatOut publishes with the given events per request, and returns the events per second.
func (s *keeper) flatOut(ctx context.Context, plan load.Publishing, batch int) (*load.Published, float64, error) {
	data := bytes.Repeat([]byte("x"), keptSize)
	contentType := "application/json"
	if batch > 1 {
		contentType = "application/x-ndjson"
	}
	var n atomic.Int64
	plan.Addr = s.API
	plan.Request = func(uint16, uint32) load.Request {
		var body []byte
		for range batch {
			n := n.Add(1)
			body = fmt.Appendf(body, `{"user":"u%d","key":"0192f0c4-7e4f-7c1a-b5b2-%012d","text":"%s"}`+"\n", n%1000, n, data)
		}
		return load.Request{Path: "/sse/send", Header: []string{"Content-Type", contentType}, Body: body}
	}
	published, err := load.Publish(ctx, plan)
	if err != nil {
		return nil, 0, err
	}
	took := load.Now() - published.Start
	return published, float64(published.Total()*int64(batch)) / took.Seconds(), nil
}
