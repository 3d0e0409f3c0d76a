package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/launchdarkly/eventsource"
	gosse "github.com/tmaxmax/go-sse"

	"github.com/ea766355/caddy-sse/e2e"
)

// thirdParty is a client of a third-party library. The test sees only the events that it
// dispatches. The library handles lines, positions and reconnections.
type thirdParty struct {
	k      *kind
	of     *hub
	id     e2e.Identity
	cancel context.CancelFunc
	done   chan struct{}

	mu       sync.Mutex
	since    time.Time
	opened   time.Time // the stream
	closings []string
	start    e2e.Position
	at       e2e.Position
	received []e2e.Received
	streams  int
	ends     []string
	err      error
}

// startThirdParty starts a third-party client. run returns when ctx ends, or when the client gives
// up.
func startThirdParty(k *kind, c *e2e.Client, h *hub, b begin, run func(ctx context.Context, p *thirdParty, c *http.Client, req *http.Request) error) client {
	ctx, cancel := context.WithCancel(context.Background())
	p := &thirdParty{k: k, of: h, id: b.id, cancel: cancel, done: make(chan struct{}), since: b.since, start: b.from, at: b.from}
	go func() {
		defer close(p.done)
		req, err := c.Request(ctx, b.id, "")
		if err == nil {
			err = run(ctx, p, c.HTTP(), req)
		}
		if ctx.Err() == nil {
			p.fail(fmt.Errorf("the client gave up: %w", err))
		}
	}()
	return p
}

// firstRetry is the wait before the server has sent one.
const firstRetry = 20 * time.Millisecond

func goSSE(_ *world, k *kind, c *e2e.Client, h *hub, b begin) client {
	return startThirdParty(k, c, h, b, func(_ context.Context, p *thirdParty, c *http.Client, req *http.Request) error {
		config := gosse.Client{
			HTTPClient: c,
			Backoff:    gosse.Backoff{InitialInterval: firstRetry, MaxInterval: retryMax},
			OnRetry:    func(err error, _ time.Duration) { p.lost(err) },
		}
		conn := config.NewConnection(req)
		conn.SubscribeToAll(func(e gosse.Event) { p.take(e.Type, e.Data, e.LastEventID) })
		return conn.Connect()
	})
}

func eventSource(_ *world, k *kind, c *e2e.Client, h *hub, b begin) client {
	return startThirdParty(k, c, h, b, func(ctx context.Context, p *thirdParty, c *http.Client, req *http.Request) error {
		options := []eventsource.StreamOption{
			eventsource.StreamOptionHTTPClient(c),
			eventsource.StreamOptionInitialRetry(firstRetry),
			eventsource.StreamOptionUseBackoff(retryMax),
			eventsource.StreamOptionUseJitter(0.5),
			eventsource.StreamOptionCanRetryFirstConnection(-1),
			eventsource.StreamOptionErrorHandler(func(err error) eventsource.StreamErrorHandlerResult {
				p.lost(err)
				return eventsource.StreamErrorHandlerResult{CloseNow: ctx.Err() != nil}
			}),
		}
		if b.from.Epoch != "" {
			options = append(options, eventsource.StreamOptionLastEventID(b.from.String()))
		}
		stream, err := eventsource.SubscribeWithRequestAndOptions(req, options...)
		if err != nil {
			return err
		}
		for e := range stream.Events {
			p.take(e.Event(), e.Data(), e.(eventsource.EventWithLastID).LastEventID())
		}
		return errors.New("the channel of events was closed")
	})
}

// take is called with each dispatched event, in order.
func (p *thirdParty) take(typ, data, id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return
	}
	p.err = p.read(typ, data, id)
}

func (p *thirdParty) read(typ, data, id string) error {
	switch typ {
	case "sse.closing", "sse.rejected":
		var closing e2e.Closing
		if err := json.Unmarshal([]byte(data), &closing); err != nil {
			return err
		}
		p.closings = append(p.closings, closing.Reason)
		return nil
	case "sse.connected":
		return p.connected(data, id)
	}
	position, err := e2e.ParsePosition(id)
	if err != nil {
		return err
	}
	r := e2e.Received{Position: position, At: time.Now(), Stream: p.opened}
	switch {
	case typ == "sse.gap":
		var gap e2e.Gap
		if err := json.Unmarshal([]byte(data), &gap); err != nil {
			return err
		}
		if p.at.Epoch == "" { // the first position of the client
			p.start, p.at, p.since = position, position, r.At
			return nil
		}
		r.Gap, r.After = gap.Reason, p.at
	case strings.HasPrefix(typ, "sse."):
		return fmt.Errorf("unknown control event %s", typ)
	case data == "": // it changes only the position
	default:
		if r.N, err = e2e.ReadPayload(data); err != nil {
			return err
		}
		r.Size = len(data)
	}
	p.at = position
	if r.Gap != "" || r.N != 0 {
		p.received = append(p.received, r)
	}
	return nil
}

func (p *thirdParty) connected(data, id string) error {
	var c e2e.Connected
	if err := json.Unmarshal([]byte(data), &c); err != nil {
		return err
	}
	p.streams++
	p.opened = time.Now()
	switch {
	case c.User != p.id.User:
		return fmt.Errorf("user of sse.connected: got %q, want %q", c.User, p.id.User)
	case p.at.Epoch == "" && id == "": // a gap follows: it was slow to begin
		return nil
	case p.at.Epoch == "": // at the head
		start, err := e2e.ParsePosition(id)
		p.start, p.at, p.since = start, start, time.Now()
		return err
	case id != p.at.String():
		return fmt.Errorf("position of sse.connected: got %q, want %s", id, p.at)
	}
	return nil // if it was not resumed, a gap follows
}

// lost is called when a stream ended or could not be opened.
func (p *thirdParty) lost(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ends = append(p.ends, err.Error())
}

func (p *thirdParty) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.err = err
	}
}

func (p *thirdParty) hub() *hub              { return p.of }
func (p *thirdParty) identity() e2e.Identity { return p.id }

func (p *thirdParty) last() e2e.Position {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.at
}

func (p *thirdParty) failure() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

func (p *thirdParty) stop() *trace {
	p.cancel()
	<-p.done
	p.mu.Lock()
	defer p.mu.Unlock()
	return &trace{
		kind: p.k.name, hub: p.of, id: p.id, since: p.since, start: p.start, last: p.at,
		received: slices.Clone(p.received), streams: p.streams, ends: p.ends, closings: p.closings, err: p.err,
	}
}
