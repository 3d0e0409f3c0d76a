package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
)

// numbers gives every event of a test run a unique number.
var numbers atomic.Int64

// payload returns the data of an event: its number, and letters that depend on it, so that
// mixed-up data is noticed.
func payload(n int64, size int) string {
	return fmt.Sprintf(`{"n":%d,"pad":"%s"}`, n, strings.Repeat(string(rune('a'+n%26)), size))
}

// ReadPayload returns the number of the event with this data.
func ReadPayload(data string) (n int64, err error) {
	if _, err := fmt.Sscanf(data, `{"n":%d,`, &n); err != nil {
		return 0, violation("data %.100q: %v", data, err)
	}
	if size := len(data) - len(payload(n, 0)); size < 0 || payload(n, size) != data {
		return 0, violation("data of event %d: got %.100q, want its generated data", n, data)
	}
	return n, nil
}

// Event is an event to publish. The rest of it is generated.
type Event struct {
	To   Target
	Size int // bytes of padding
}

// Publisher publishes through the API. It repeats unacknowledged requests with the same key.
// It may be used from any goroutine.
type Publisher struct {
	Ledger  *Ledger
	Retried atomic.Int64 // repeated requests

	url  string // up to the name of the call
	hub  string
	http *http.Client
}

// Publisher returns a publisher for the default hub, with a new ledger. It works across
// restarts of the server.
func (s *Server) Publisher() *Publisher { return s.PublisherVia("", "default", new(Ledger)) }

// PublisherVia returns a publisher for a hub that uses the admin endpoint through a proxy's
// address, or directly if that is empty.
func (s *Server) PublisherVia(addr, hub string, ledger *Ledger) *Publisher {
	if addr == "" {
		addr = fmt.Sprintf("127.0.0.1:%d", s.Admin)
	}
	tr := &http.Transport{
		MaxIdleConnsPerHost:   100,
		ResponseHeaderTimeout: answerTimeout,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, addr)
		},
	}
	p := &Publisher{
		Ledger: ledger,
		url:    fmt.Sprintf("http://127.0.0.1:%d/sse/", s.Admin),
		hub:    hub,
		http:   &http.Client{Transport: tr},
	}
	s.t.Cleanup(p.Close)
	return p
}

// RoamingPublisher returns a publisher for the default hub. It sends each request, also a
// repeated one, to a random node of a cluster. The nodes must have sse_api at /sse.
func RoamingPublisher(ledger *Ledger, addrs ...string) *Publisher {
	tr := roaming(addrs)
	tr.ResponseHeaderTimeout = answerTimeout
	return &Publisher{Ledger: ledger, url: "http://127.0.0.1/sse/", hub: "default", http: &http.Client{Transport: tr}}
}

// answerTimeout is how long a publisher waits for an answer. An endpoint that is being replaced
// may accept a request and not answer.
const answerTimeout = 15 * time.Second

// Close closes the publisher's connections. The publisher can still be used.
func (p *Publisher) Close() { p.http.CloseIdleConnections() }

// Publish publishes the events with one request, as a batch if there are several. Then either
// all must be for everybody or none. It returns nil when they are acknowledged, and an error
// when they are refused or ctx ends.
func (p *Publisher) Publish(ctx context.Context, events ...Event) error {
	call, contentType := "send", "application/json"
	if events[0].To.Field == "" {
		call = "broadcast"
	}
	if len(events) > 1 {
		contentType = "application/x-ndjson"
	}
	entries := make([]Entry, len(events))
	var body bytes.Buffer
	for i, e := range events {
		n := numbers.Add(1)
		data := payload(n, e.Size)
		entries[i] = Entry{N: n, Size: len(data), To: e.To, Sent: time.Now()}
		fields := map[string]any{"data": json.RawMessage(data), "key": fmt.Sprintf("event %d", n)}
		if n%2 == 0 {
			fields["type"] = "tick"
		}
		if e.To.Field != "" {
			fields[e.To.Field] = e.To.Names
		}
		if err := json.NewEncoder(&body).Encode(fields); err != nil {
			return err
		}
	}
	for {
		err := p.post(ctx, call, contentType, body.Bytes(), entries)
		if err == nil {
			p.Ledger.Add(entries...)
			return nil
		}
		if ctx.Err() != nil || errors.As(err, new(refused)) {
			return err
		}
		p.Retried.Add(1)
		select {
		case <-ctx.Done():
		case <-time.After(backoff):
		}
	}
}

// refused is the error of a request that must not be repeated.
type refused string

func (r refused) Error() string { return string(r) }

// post sends one request and fills in the positions.
func (p *Publisher) post(ctx context.Context, call, contentType string, body []byte, entries []Entry) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url+call+"?hub="+p.hub, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", contentType)
	resp, err := p.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		err := fmt.Errorf("%s answered %s: %s", call, resp.Status, answer)
		if resp.StatusCode < 500 {
			err = refused(err.Error())
		}
		return err
	}
	receipts := json.NewDecoder(bytes.NewReader(answer))
	for i := range entries {
		var receipt struct{ ID string }
		if err := receipts.Decode(&receipt); err != nil {
			return fmt.Errorf("receipt %d of %d: %w", i+1, len(entries), err)
		}
		if entries[i].Position, err = ParsePosition(receipt.ID); err != nil {
			return err
		}
	}
	return nil
}
