package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// slotWriter publishes values of slots and records the acknowledged ones.
type slotWriter struct {
	url    string
	client *http.Client
	size   int // bytes of padding in a value

	numbers int // owned by put

	mu    sync.Mutex
	state map[string]string // last acknowledged value by slot
	n     int               // acknowledged values
}

func newSlotWriter(t *testing.T, s *Server) *slotWriter {
	client := &http.Client{Timeout: answerTimeout, Transport: &http.Transport{MaxIdleConnsPerHost: 10}}
	t.Cleanup(client.CloseIdleConnections)
	return &slotWriter{url: fmt.Sprintf("http://127.0.0.1:%d/sse/broadcast", s.Admin), client: client, state: make(map[string]string)}
}

// put publishes one value of each slot with one request. It repeats the request with the same keys until
// it is acknowledged. One goroutine at a time may call it.
func (w *slotWriter) put(ctx context.Context, slots ...string) error {
	var body bytes.Buffer
	values := make(map[string]string)
	for _, slot := range slots {
		w.numbers++
		values[slot] = fmt.Sprintf("%s=%d", slot, w.numbers) + strings.Repeat(";", w.size)
		line := map[string]string{"slot": slot, "text": values[slot], "key": fmt.Sprint("value ", w.numbers)}
		if err := json.NewEncoder(&body).Encode(line); err != nil {
			return err
		}
	}
	for {
		err := w.post(ctx, body.Bytes())
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(backoff):
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	maps.Copy(w.state, values)
	w.n += len(values)
	return nil
}

func (w *slotWriter) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.n
}

func (w *slotWriter) post(ctx context.Context, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-ndjson")
	resp, err := w.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, answer)
	}
	return err
}

func (w *slotWriter) want() map[string]string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.state)
}

// slotReader is a client that keeps the newest value of each slot.
type slotReader struct {
	position string
	state    map[string]string
	values   int // values received
}

// errTold means that the reader was told a gap.
var errTold = errors.New("a gap was told")

// read opens a stream, from the position or with the state, and reads it until the reader has all wanted values.
func (r *slotReader) read(ctx context.Context, s *Server, want map[string]string) error {
	c := s.Client(H1)
	defer c.Close()
	if r.position == "" {
		c.Path += "?state=1"
	}
	stream, err := c.Open(ctx, Identity{User: "reader"}, r.position)
	if err != nil {
		return err
	}
	defer stream.Close()
	for want == nil || !maps.Equal(r.state, want) {
		b, err := stream.Next()
		if err != nil {
			return err
		}
		if b.Type == "sse.gap" {
			return fmt.Errorf("%w after %s: %s", errTold, r.position, b.Data)
		}
		if b.ID.Epoch != "" {
			r.position = b.ID.String()
		}
		r.take(b)
	}
	return nil
}

func (r *slotReader) take(b Block) {
	if b.Type == "" && b.hasData {
		slot, _, _ := strings.Cut(b.Data, "=")
		r.state[slot] = b.Data
		r.values++
	}
}

// TestSlotsSurviveKill kills a server on disk again and again while values of slots are published. Clients
// that reconnect with a position, and clients that stay, end with the newest value of each slot and are told
// no gap. A new client gets exactly these values.
func TestSlotsSurviveKill(t *testing.T) {
	const rounds, slots = 4, 30
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	s := Start(t, Config{Hub: "history 1000000\n store disk", Stream: "retry 5ms 20ms"})
	w := newSlotWriter(t, s)
	if err := w.put(t.Context(), "slot 0"); err != nil {
		t.Fatal(err)
	}

	ctx, stop := context.WithCancel(t.Context())
	var live sync.WaitGroup
	always := slotReader{state: make(map[string]string)}
	live.Go(func() {
		for ctx.Err() == nil {
			err := always.read(ctx, s, nil)
			if errors.Is(err, errTold) || errors.As(err, new(Violation)) {
				t.Error(err)
				return
			}
			select {
			case <-ctx.Done():
			case <-time.After(backoff):
			}
		}
	})

	catchUp := func(name string, r *slotReader, want map[string]string) {
		t.Helper()
		within, cancel := context.WithTimeout(t.Context(), Patience)
		defer cancel()
		if err := r.read(within, s, want); err != nil {
			t.Fatalf("%s: %v; it has %v\nand not %v", name, err, r.state, want)
		}
	}
	back := slotReader{state: make(map[string]string)}
	for round := range rounds {
		var writing sync.WaitGroup
		ended := make(chan struct{})
		began := w.count()
		own := rand.New(rand.NewPCG(seed, uint64(round)+1))
		writing.Go(func() {
			for {
				batch := make([]string, 1+own.IntN(5))
				for i, n := range own.Perm(slots)[:len(batch)] {
					batch[i] = fmt.Sprint("slot ", n)
				}
				within, cancel := context.WithTimeout(context.Background(), Patience)
				err := w.put(within, batch...)
				cancel()
				if err != nil {
					t.Errorf("publishing: %v", err)
					return
				}
				select {
				case <-ended:
					return
				default:
				}
			}
		})
		some := began + 1 + random.IntN(300)
		Wait(t, Patience, "some values to be published", func() error {
			if n := w.count(); n < some {
				return fmt.Errorf("%d of %d", n, some)
			}
			return nil
		})
		s.Kill()
		s.Run()
		close(ended)
		writing.Wait()
		// The last value has the last position, so a reader that has it has been sent all values.
		if err := w.put(t.Context(), "slot last"); err != nil {
			t.Fatal(err)
		}
		want := w.want()
		catchUp("who comes back", &back, want)
		newcomer := slotReader{state: make(map[string]string)}
		catchUp("a newcomer", &newcomer, want)
		if newcomer.values != len(want) {
			t.Errorf("round %d: a newcomer got %d values of %d slots", round, newcomer.values, len(want))
		}
	}
	stop()
	live.Wait()
	catchUp("who read all the time", &always, w.want())
	t.Logf("%d values; who came back was sent %d, who read all the time %d", w.count(), back.values, always.values)
	if back.values >= w.count() {
		t.Errorf("who came back was sent %d of %d values, though most had been replaced", back.values, w.count())
	}
}

// throttled is a body that is read at 1 KB a second until it is released.
type throttled struct {
	io.ReadCloser
	second <-chan time.Time
	freed  <-chan struct{}
}

func (r throttled) Read(p []byte) (int, error) {
	select {
	case <-r.freed:
	case <-r.second:
		p = p[:min(len(p), 1<<10)]
	}
	return r.ReadCloser.Read(p)
}

// TestSlotsOfSlowClients updates 100 slots 1,000 times a second. A client that reads 1 KB a second has never
// more than 100 values pending. In the end it has the newest of each slot, and is told no gap.
func TestSlotsOfSlowClients(t *testing.T) {
	const slots, updates, batch, rate = 100, 8000, 20, 1000
	s := Start(t, Config{Stream: "connection_timeout 10m"})
	w := newSlotWriter(t, s)
	w.size = 200

	type slow struct {
		slotReader
		protocol Protocol
		user     string
		most     int // highest number of pending values
		err      error
	}
	freed := make(chan struct{})
	ctx, cancel := context.WithTimeout(t.Context(), 4*Patience)
	var reading sync.WaitGroup
	defer reading.Wait()
	defer cancel()
	var readers []*slow
	for _, protocol := range Protocols {
		r := &slow{slotReader: slotReader{state: make(map[string]string)}, protocol: protocol, user: "slow " + string(protocol)}
		readers = append(readers, r)
		c := s.SmallClient(protocol)
		t.Cleanup(c.Close)
		req, err := c.Request(ctx, Identity{User: r.user}, "")
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.HTTP().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		own := time.NewTicker(time.Second)
		t.Cleanup(own.Stop)
		resp.Body = throttled{resp.Body, own.C, freed}
		stream, err := newStream(resp, Identity{User: r.user}, "")
		if err != nil {
			t.Fatal(err)
		}
		reading.Go(func() {
			defer stream.Close()
			for r.state["the end"] == "" {
				b, err := stream.Next()
				if err == nil && b.Type == "sse.gap" {
					err = errTold
				}
				if r.err = err; err != nil {
					return
				}
				r.take(b)
			}
		})
	}

	began := time.Now()
	tick := time.NewTicker(batch * time.Second / rate)
	defer tick.Stop()
	for n := 0; n < updates; n += batch {
		names := make([]string, batch)
		for i := range names {
			names[i] = fmt.Sprint("slot ", (n+i*7)%slots)
		}
		if err := w.put(t.Context(), names...); err != nil {
			t.Fatal(err)
		}
		for _, r := range readers {
			if n%(5*batch) > 0 {
				break
			}
			lag, open := s.Lag(r.user)
			if !open {
				t.Fatalf("%s was dropped", r.protocol)
			}
			if r.most = max(r.most, lag); lag > slots {
				t.Fatalf("%s: after %d updates it has %d values of %d slots still to be sent", r.protocol, n, lag, slots)
			}
		}
		<-tick.C
	}
	t.Logf("%.0f updates a second", updates/time.Since(began).Seconds())
	close(freed)
	if err := w.put(t.Context(), "the end"); err != nil {
		t.Fatal(err)
	}
	reading.Wait()
	for _, r := range readers {
		t.Logf("%s: of %d updates it was sent %d, and at most %d were pending", r.protocol, updates, r.values, r.most)
		if r.err != nil {
			t.Errorf("%s: %v", r.protocol, r.err)
		}
		if !maps.Equal(r.state, w.want()) {
			t.Errorf("%s: it does not have the newest value of each slot", r.protocol)
		}
		if r.most < slots/2 {
			t.Errorf("%s: it was not slow: at most %d values were pending", r.protocol, r.most)
		}
	}
}
