package natsstore

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"iter"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap"

	caddysse "github.com/ea766355/caddy-sse"
)

const (
	// announceEvery is how often a node tells the others that it is there: a round.
	announceEvery = 2 * time.Second

	// A node that was not heard for silentAfter rounds is not waited for, and is
	// listed as missing. After forgetAfter rounds, a minute, it is forgotten.
	silentAfter = 3
	forgetAfter = 30

	// settledAfter is after how many rounds a node that has connected knows all
	// others. Until then it waits for those that it does not know.
	settledAfter = 2

	askTimeout = 500 * time.Millisecond

	// answerBytes bounds the answer of a node. The server closes a connection with
	// more than 64 MiB that the client has yet to read, and all answers come at once.
	answerBytes = 256 << 10

	// idHeader tells nodes apart in what they send.
	idHeader = "Sse-Node"
)

// peers are the nodes that share a stream. Its methods may be called from any
// goroutine.
type peers struct {
	conn   *nats.Conn
	log    func() *zap.Logger
	nodes  string // the subject of announcements
	asking string // the subject of requests
	inbox  string // the subject of greetings to this node
	id     string // of this node, made anew each time

	done    chan struct{}
	ended   sync.Once
	running sync.WaitGroup

	mu      sync.Mutex
	name    string // of this node; empty: it has not joined, or has left
	round   int    // how many there were while this node was connected
	settled int    // how many there were since it was connected last
	others  map[string]peer
}

// peer is another node, as its last announcement says.
type peer struct {
	name  string
	round int // in which it was heard
}

// announcement is what nodes tell one another.
type announcement struct {
	ID      string `json:"id"`
	Name    string `json:"name"`
	Leaving bool   `json:"leaving,omitempty"`
}

func newPeers(conn *nats.Conn, stream string, log func() *zap.Logger) *peers {
	return &peers{
		conn:   conn,
		log:    log,
		nodes:  "sse." + stream + ".nodes",
		asking: "sse." + stream + ".ask",
		inbox:  conn.NewInbox(),
		id:     rand.Text(),
		done:   make(chan struct{}),
		others: make(map[string]peer),
	}
}

// Join implements caddysse.Cluster.
func (p *peers) Join(name string, answer func(request []byte, room int) []byte) error {
	p.mu.Lock()
	p.name = name
	p.mu.Unlock()
	for subject, handle := range map[string]nats.MsgHandler{
		p.nodes:  p.hear,
		p.inbox:  p.hear,
		p.asking: func(m *nats.Msg) { p.reply(m, answer) },
	} {
		if _, err := p.conn.Subscribe(subject, handle); err != nil {
			return fmt.Errorf("subscribing to %s: %w", subject, err)
		}
	}
	p.running.Go(func() {
		ticker := time.NewTicker(announceEvery)
		defer ticker.Stop()
		for {
			p.nextRound(p.conn.IsConnected())
			p.announce()
			select {
			case <-ticker.C:
			case <-p.done:
				return
			}
		}
	})
	return nil
}

// nextRound counts rounds, and forgets who was not heard for many. Nobody can be
// heard while this node is not connected, so that time does not count.
func (p *peers) nextRound(connected bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !connected {
		p.settled = 0
		return
	}
	p.round++
	p.settled++
	for id, other := range p.others {
		if p.round-other.round > forgetAfter {
			delete(p.others, id)
		}
	}
}

// leave ends what Join began, and tells the others.
func (p *peers) leave() {
	p.ended.Do(func() { close(p.done) })
	p.running.Wait()
	p.mu.Lock()
	name := p.name
	p.name = ""
	p.mu.Unlock()
	if name == "" {
		return
	}
	p.tell(p.nodes, announcement{p.id, name, true})
	if p.conn.IsConnected() {
		_ = p.conn.FlushTimeout(askTimeout) // the others will notice anyway
	}
}

// announce tells the others that this node is there. Those that do not know it
// greet it.
func (p *peers) announce() {
	p.mu.Lock()
	name := p.name
	p.mu.Unlock()
	p.tell(p.nodes, announcement{p.id, name, false})
}

// tell publishes an announcement. It is lost if this node is not connected; the
// next round repeats it.
func (p *peers) tell(subject string, a announcement) {
	body, err := json.Marshal(a)
	if err != nil {
		panic(err) // strings and a boolean
	}
	m := &nats.Msg{Subject: subject, Data: body}
	if subject == p.nodes {
		m.Reply = p.inbox
	}
	_ = p.conn.PublishMsg(m)
}

// hear learns of another node. If it is new, it is told of this one: it alone, or
// the messages among N nodes that start together would grow with N³.
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
		p.others[a.ID] = peer{a.Name, p.round}
	}
	name := p.name
	p.mu.Unlock()
	if !known && !a.Leaving && m.Reply != "" && name != "" {
		p.tell(m.Reply, announcement{p.id, name, false})
	}
}

// heard notes that a node that is known is there.
func (p *peers) heard(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if other, known := p.others[id]; known {
		p.others[id] = peer{other.name, p.round}
	}
}

// reply answers another node. The request may be anything, and must not end this
// node: a node whose answer is not sent is missing for the one that asks.
func (p *peers) reply(m *nats.Msg, answer func(request []byte, room int) []byte) {
	if m.Header.Get(idHeader) == p.id {
		return
	}
	defer func() {
		if cause := recover(); cause != nil {
			p.log().Error("answering another node has failed", zap.Any("cause", cause), zap.ByteString("stack", debug.Stack()))
		}
	}()
	room := min(answerBytes, int(p.conn.MaxPayload())-headerBytes)
	if data := answer(m.Data, room); data != nil {
		_ = m.RespondMsg(&nats.Msg{Header: nats.Header{idHeader: {p.id}}, Data: data})
	}
}

// Ask implements caddysse.Cluster.
func (p *peers) Ask(ctx context.Context, request []byte, take func(answer []byte) bool) (missing []string) {
	p.mu.Lock()
	unanswered := make(map[string]string, len(p.others)) // by id, the names
	awaited := make(map[string]bool)
	for id, other := range p.others {
		unanswered[id] = other.name
		if p.round-other.round <= silentAfter {
			awaited[id] = true
		}
	}
	settled := p.settled >= settledAfter
	p.mu.Unlock()

	if p.conn.IsConnected() && (len(awaited) > 0 || !settled) {
		ctx, cancel := context.WithTimeout(ctx, askTimeout)
		defer cancel()
		answered := make(map[string]bool)
		for id, answer := range p.answers(ctx, request) {
			if !answered[id] && take(answer) {
				p.heard(id)
				delete(unanswered, id)
			}
			answered[id] = true
			delete(awaited, id)
			if len(awaited) == 0 && settled {
				break
			}
		}
	}
	for _, name := range unanswered {
		missing = append(missing, name)
	}
	slices.Sort(missing)
	return missing
}

// answers asks all nodes, and yields their ids and answers until ctx ends.
func (p *peers) answers(ctx context.Context, request []byte) iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		inbox := p.conn.NewInbox()
		sub, err := p.conn.SubscribeSync(inbox)
		if err != nil {
			return
		}
		defer func() { _ = sub.Unsubscribe() }() // it fails when the connection is closed
		if p.conn.PublishMsg(&nats.Msg{Subject: p.asking, Reply: inbox, Header: nats.Header{idHeader: {p.id}}, Data: request}) != nil {
			return
		}
		for {
			m, err := sub.NextMsgWithContext(ctx)
			if err != nil {
				return
			}
			if id := m.Header.Get(idHeader); id != "" && !yield(id, m.Data) {
				return
			}
		}
	}
}

var _ caddysse.Cluster = (*store)(nil)
