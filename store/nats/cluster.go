package natsstore

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	caddysse "github.com/ea766355/caddy-sse"
)

const (
	announceEvery = 2 * time.Second
	askTimeout    = 500 * time.Millisecond

	// A node that announces itself no more is missing for this long, and then
	// forgotten.
	forgetAfter = time.Minute

	// idHeader tells nodes apart in what they send.
	idHeader = "Sse-Node"
)

// peers are the nodes that share a stream. Its methods may be called from any
// goroutine.
type peers struct {
	conn   *nats.Conn
	nodes  string // the subject of announcements
	asking string // the subject of requests
	id     string // of this node, made anew each time

	done    chan struct{}
	ended   sync.Once
	running sync.WaitGroup

	mu     sync.Mutex
	name   string // of this node; empty: it has not joined
	others map[string]peer
}

// peer is another node, as its last announcement says.
type peer struct {
	name string
	at   time.Time
}

// announcement is what nodes tell one another.
type announcement struct {
	ID      string `json:"id"`
	Name    string `json:"name"`
	Leaving bool   `json:"leaving,omitempty"`
}

func newPeers(conn *nats.Conn, stream string) *peers {
	return &peers{
		conn:   conn,
		nodes:  "sse." + stream + ".nodes",
		asking: "sse." + stream + ".ask",
		id:     rand.Text(),
		done:   make(chan struct{}),
		others: make(map[string]peer),
	}
}

// Join implements caddysse.Cluster.
func (p *peers) Join(name string, answer func([]byte) []byte) error {
	p.mu.Lock()
	p.name = name
	p.mu.Unlock()
	if _, err := p.conn.Subscribe(p.nodes, p.hear); err != nil {
		return err
	}
	if _, err := p.conn.Subscribe(p.asking, func(m *nats.Msg) {
		if m.Header.Get(idHeader) == p.id {
			return
		}
		// Whoever asks takes a node whose answer is not sent for one that is missing.
		_ = m.RespondMsg(&nats.Msg{Header: nats.Header{idHeader: {p.id}}, Data: answer(m.Data)})
	}); err != nil {
		return err
	}
	p.running.Go(func() {
		ticker := time.NewTicker(announceEvery)
		defer ticker.Stop()
		for {
			p.announce(false)
			select {
			case <-ticker.C:
			case <-p.done:
				return
			}
		}
	})
	return nil
}

// leave ends what Join began, and tells the others.
func (p *peers) leave() {
	p.ended.Do(func() { close(p.done) })
	p.running.Wait()
	p.announce(true)
	if p.conn.IsConnected() {
		_ = p.conn.FlushTimeout(askTimeout) // the others will notice anyhow
	}
}

// announce tells the others that this node is there, if it is connected.
func (p *peers) announce(leaving bool) {
	p.mu.Lock()
	name := p.name
	p.mu.Unlock()
	if name == "" {
		return
	}
	body, err := json.Marshal(announcement{p.id, name, leaving})
	if err != nil {
		panic(err) // strings and a boolean
	}
	_ = p.conn.Publish(p.nodes, body) // again soon
}

// hear learns of another node, and greets one that is new.
func (p *peers) hear(m *nats.Msg) {
	var a announcement
	if json.Unmarshal(m.Data, &a) != nil || a.ID == p.id || a.ID == "" {
		return
	}
	p.mu.Lock()
	_, known := p.others[a.ID]
	if a.Leaving {
		delete(p.others, a.ID)
	} else {
		p.others[a.ID] = peer{a.Name, time.Now()}
	}
	p.mu.Unlock()
	if !known && !a.Leaving {
		p.announce(false)
	}
}

// expected are the other nodes, by id, with their names.
func (p *peers) expected() map[string]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	maps.DeleteFunc(p.others, func(_ string, other peer) bool { return time.Since(other.at) > forgetAfter })
	names := make(map[string]string, len(p.others))
	for id, other := range p.others {
		names[id] = other.name
	}
	return names
}

// Ask implements caddysse.Cluster.
func (p *peers) Ask(ctx context.Context, request []byte) (answers [][]byte, missing []string) {
	waiting := p.expected()
	if len(waiting) > 0 && p.conn.IsConnected() {
		answers = p.collect(ctx, request, waiting)
	}
	return answers, slices.Sorted(maps.Values(waiting))
}

// collect asks, and takes those who answer out of waiting.
func (p *peers) collect(ctx context.Context, request []byte, waiting map[string]string) (answers [][]byte) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	inbox := p.conn.NewInbox()
	sub, err := p.conn.SubscribeSync(inbox)
	if err != nil {
		return nil
	}
	defer func() { _ = sub.Unsubscribe() }() // it fails when the connection is closed
	if p.conn.PublishMsg(&nats.Msg{Subject: p.asking, Reply: inbox, Header: nats.Header{idHeader: {p.id}}, Data: request}) != nil {
		return nil
	}
	for len(waiting) > 0 {
		m, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			return answers
		}
		if id := m.Header.Get(idHeader); id != "" {
			answers = append(answers, m.Data)
			delete(waiting, id)
		}
	}
	return answers
}

var _ caddysse.Cluster = (*store)(nil)
