package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ea766355/caddy-sse/e2e"
)

// member is a user with a stream on each node. One topic is added to them, and then one is removed. It does
// not come back when a stream ends, since a new one has the topics of the config.
type member struct {
	name     string
	before   e2e.Position // acknowledged before the topic was added
	added    e2e.Position // from here on it is to get the one topic
	removed  e2e.Position // and from here on it must not get the other
	answered time.Time    // when the removal was
	away     *node        // from NATS while the topic was removed; nil: none

	reading sync.WaitGroup
	streams []*memberStream
}

// addedTopic and removedTopic are those of each member.
const addedTopic, removedTopic = "sport/b", "news/a"

// memberStream is what came on one stream, up to its end or a gap. It is written by the goroutine that reads.
type memberStream struct {
	node        *node
	start, last e2e.Position
	got         map[int64]bool // numbers of events
	told        []time.Time    // when sse.topics came
}

// changeTopics changes the topics of a member on all nodes. One of them may be away from NATS meanwhile: it is
// to apply the change before it delivers what was published after it.
func (w *world) changeTopics(random *rand.Rand, away time.Duration) {
	m := &member{name: fmt.Sprintf("member %d", len(w.members))}
	w.members = append(w.members, m)
	ctx, leave := context.WithCancel(context.Background())
	w.t.Cleanup(leave)
	for _, n := range w.nodes {
		m.visit(ctx, n)
	}
	for _, e := range w.ledger.Entries() {
		if p := e.Position; p.Epoch == w.epoch() && p.Seq > m.before.Seq {
			m.before = p
		}
	}
	m.added = w.change(m, w.addrs(), e2e.TopicChange{Added: []string{addedTopic}})
	pause(random, time.Second)
	cut := w.nodes[random.IntN(size)]
	var others []string
	for _, n := range w.nodes {
		if away == 0 || n != cut {
			others = append(others, n.addr())
		}
	}
	if away > 0 {
		m.away = cut
		for _, p := range cut.nats {
			p.Cut()
		}
	}
	back := time.After(away)
	m.removed = w.change(m, others, e2e.TopicChange{Removed: []string{removedTopic}})
	m.answered = time.Now()
	w.mending.Go(func() {
		<-back
		if away > 0 {
			for _, p := range cut.nats {
				p.Mend()
			}
		}
		// For as long as it takes to catch up, and to be sent what must not be. Streams end by their lifetime soon.
		<-time.After(6 * time.Second)
		leave()
		m.reading.Wait()
	})
}

// visit opens a stream on a node, if it can have one, and reads it to its end.
func (m *member) visit(ctx context.Context, n *node) {
	c := e2e.Roaming(n.addr())
	s, err := c.Open(ctx, e2e.Identity{User: m.name, Topics: []string{removedTopic}}, "")
	if err != nil {
		return // as a node that is being started
	}
	b, err := s.Next()
	if err != nil || b.Type != "sse.connected" {
		s.Close()
		return
	}
	seen := &memberStream{node: n, start: b.ID, last: b.ID, got: make(map[int64]bool)}
	m.streams = append(m.streams, seen)
	m.reading.Go(func() {
		defer s.Close()
		for {
			b, err := s.Next()
			if err != nil || b.Type == "sse.gap" {
				return
			}
			if b.ID.Epoch != "" {
				seen.last = b.ID
			}
			if b.Type == "sse.topics" {
				seen.told = append(seen.told, time.Now())
			} else if n, err := e2e.ReadPayload(b.Data); err == nil {
				seen.got[n] = true
			}
		}
	})
}

// change changes the member's topics by one of the nodes, and repeats that until it is answered.
func (w *world) change(m *member, nodes []string, change e2e.TopicChange) (at e2e.Position) {
	client := &http.Client{Timeout: e2e.Patience, Transport: &http.Transport{DisableKeepAlives: true}}
	body, err := json.Marshal(map[string][]string{"add": change.Added, "remove": change.Removed})
	if err != nil {
		w.t.Fatal(err)
	}
	e2e.Wait(w.t, 3*e2e.Patience, "a change of topics", func() error {
		addr := nodes[rand.IntN(len(nodes))]
		req, err := http.NewRequest(http.MethodPatch, "http://"+addr+"/sse/connections?user="+url.QueryEscape(m.name), strings.NewReader(string(body)))
		if err != nil {
			w.t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		w.commands++
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			return err
		}
		var answer struct{ ID string }
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %s", resp.Status, text)
		}
		if err := json.Unmarshal(text, &answer); err != nil {
			return err
		}
		at, err = e2e.ParsePosition(answer.ID)
		return err
	})
	return at
}

// judgeMembers counts what members received without the right to it, and what they did not receive though they
// had it.
func (w *world) judgeMembers(entries []e2e.Entry, v *verdict) {
	entries = slices.Clone(entries)
	slices.SortStableFunc(entries, func(a, b e2e.Entry) int { return int(int64(a.Position.Seq - b.Position.Seq)) })
	judged, told, back := 0, 0, 0
	var slowest time.Duration // where the node was not away
	for _, m := range w.members {
		for i, s := range m.streams {
			if s.start.Epoch != m.added.Epoch || s.start.Epoch != m.removed.Epoch {
				continue // the servers were put back meanwhile
			}
			judged++
			if len(s.told) == 2 {
				told++
				if s.node == m.away {
					back++
				} else {
					slowest = max(slowest, s.told[1].Sub(m.answered))
				}
			}
			m.judge(s, entries, func(n *int, format string, args ...any) {
				*n++
				w.t.Errorf("%s, stream %d from %s to %s, added at %s, removed at %s: %s",
					m.name, i+1, s.start, s.last, m.added, m.removed, fmt.Sprintf(format, args...))
			}, v)
		}
	}
	w.t.Logf("%d members; of their streams %d are judged, and %d were told both changes, at most %s after the answer, "+
		"but for the %d on a node that had been away", len(w.members), judged, told, slowest, back)
	w.faults["streams that were told two changes of topics"] = told
	w.faults["of these on a node that had been away"] = back
	if len(w.members) > 0 && told == 0 {
		w.t.Error("no stream was told both changes, so this means nothing")
	}
}

func (m *member) judge(s *memberStream, entries []e2e.Entry, found func(n *int, format string, args ...any), v *verdict) {
	ended := false // something of the removed topic was pending when the right ended
	for _, e := range entries {
		seq, got := e.Position.Seq, s.got[e.N]
		if e.Position.Epoch != s.start.Epoch {
			continue
		}
		switch {
		case e.To.Field == "":
			if !got && seq > s.start.Seq && seq <= s.last.Seq {
				found(&v.withheld, "it did not get event %d at %s, which was for everybody", e.N, e.Position)
			}
		case e.To.Field == "topic" && slices.Contains(e.To.Names, addedTopic):
			if got && seq <= m.before.Seq {
				found(&v.unlawful, "it got event %d at %s, from before the topic was added", e.N, e.Position)
			}
			if !got && seq > m.added.Seq && seq <= s.last.Seq {
				found(&v.withheld, "it did not get event %d at %s of the topic that was added", e.N, e.Position)
			}
		case e.To.Field == "topic" && slices.Contains(e.To.Names, removedTopic):
			due := seq > s.start.Seq && seq <= min(s.last.Seq, m.removed.Seq)
			switch {
			case got && (seq > m.removed.Seq || e.Sent.After(m.answered)):
				found(&v.unlawful, "it got event %d at %s of the topic that was removed", e.N, e.Position)
			case got && ended:
				found(&v.withheld, "it got event %d at %s, but not one before it", e.N, e.Position)
			case !got && due && s.last.Seq < m.removed.Seq:
				found(&v.withheld, "it did not get event %d at %s", e.N, e.Position)
			}
			ended = ended || due && !got
		case got:
			found(&v.unlawful, "it got event %d at %s, which was for %v", e.N, e.Position, e.To)
		}
	}
}
