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
	// announceEvery is how often a node announces itself. This is one round.
	announceEvery = 2 * time.Second

	// A node that was silent for silentAfter rounds is not waited for, and is listed as
	// missing. After forgetAfter rounds, one minute, it is forgotten.
	silentAfter = 3
	forgetAfter = 30

	// settledAfter is the number of rounds until a connected node knows all others.
	// Until then it also waits for answers of unknown nodes.
	settledAfter = 2

	// askTimeout is how long Ask waits for answers.
	askTimeout = 500 * time.Millisecond

	// answerBytes is the most bytes of a node's answer. All answers come at once, and the
	// server closes a connection with more than 64 MiB of unread data.
	answerBytes = 256 << 10

	// idHeader has the id of the node that sends a message.
	idHeader = "Sse-Node"
)

// peers knows the nodes that share a stream. Its methods may be called from any
// goroutine.
type peers struct {
	conn   *nats.Conn
	log    func() *zap.Logger
	nodes  string // the subject of announcements
	asking string // the subject of requests
	inbox  string // the subject of greetings to this node
	id     string // of this node, random

	done    chan struct{}
	ended   sync.Once
	running sync.WaitGroup

	mu      sync.Mutex
	name    string // of this node; empty: it has not joined, or has left
	round   int    // rounds in which this node was connected
	settled int    // rounds since this node last connected
	others  map[string]peer
}

// peer is the last announcement of another node.
type peer struct {
	name  string
	round int // round of the announcement or of the last answer
}

// announcement is a message by which a node tells others that it is there, or leaves.
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
		p.nodes:  p.receive,
		p.inbox:  p.receive,
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

// nextRound begins a round, and forgets nodes that were silent for forgetAfter rounds.
// Rounds without a connection do not count: no node can be heard then.
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

// leave stops the announcements of Join and tells the others that this node leaves.
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
	p.send(p.nodes, announcement{p.id, name, true})
	if p.conn.IsConnected() {
		_ = p.conn.FlushTimeout(askTimeout) // the others will notice anyway
	}
}

// announce tells the others that this node is there. Nodes that do not know it announce
// themselves to it.
func (p *peers) announce() {
	p.mu.Lock()
	name := p.name
	p.mu.Unlock()
	p.send(p.nodes, announcement{p.id, name, false})
}

// send publishes an announcement. It is lost if this node is not connected, and the next
// round repeats it.
func (p *peers) send(subject string, a announcement) {
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

// receive handles an announcement. It answers an unknown node with an announcement to
// that node alone. Answers to all would be N³ messages when N nodes start together.
func (p *peers) receive(m *nats.Msg) {
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
		p.send(m.Reply, announcement{p.id, name, false})
	}
}

// noteHeard records a sign of life of a known node.
func (p *peers) noteHeard(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if other, known := p.others[id]; known {
		p.others[id] = peer{other.name, p.round}
	}
}

// reply answers another node. A request that makes answer panic must not end this node:
// reply sends no answer, and the asking node lists this one as missing.
func (p *peers) reply(m *nats.Msg, answer func(request []byte, room int) []byte) {
	if m.Header.Get(idHeader) == p.id {
		return
	}
	defer func() {
		if cause := recover(); cause != nil {
			p.log().Error("answering another node failed with a panic", zap.Any("cause", cause), zap.ByteString("stack", debug.Stack()))
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
	unanswered := make(map[string]string, len(p.others)) // names by id
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
				p.noteHeard(id)
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

// answers sends the request to all nodes, and yields their ids and answers until ctx ends.
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
