package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// Member is a user whose topics change while streams of it are open. It may be used
// from any goroutine.
type Member struct {
	Name string

	mu      sync.Mutex
	topics  []string // that a new stream gets
	changes []memberChange
	visits  []*Visit
}

// NewMember has some topics at first, of those that the config allows.
func NewMember(name string, topics ...string) *Member { return &Member{Name: name, topics: topics} }

// memberChange is one that was answered.
type memberChange struct {
	TopicChange
	before         uint64 // the seq of something that was acknowledged before it was sent
	at             Position
	sent, answered time.Time
}

// Visit is one stream of a member, up to its end or a gap. It is written by the
// goroutine that reads.
type Visit struct {
	stream *Stream
	topics []string

	asked, opened, ended time.Time
	start, last          Position
	got                  []Received
	told                 []toldChange
}

type toldChange struct {
	TopicChange
	position Position
	at       time.Time
}

// Open opens a stream, with the topics that the member has now.
func (m *Member) Open(ctx context.Context, c *Client, from Position) (*Visit, error) {
	m.mu.Lock()
	v := &Visit{topics: slices.Clone(m.topics), asked: time.Now()}
	m.mu.Unlock()
	position := ""
	if from.Epoch != "" {
		position = from.String()
	}
	s, err := c.Open(ctx, Identity{User: m.Name, Topics: v.topics}, position)
	if err != nil {
		return nil, err
	}
	b, err := s.Next()
	if err != nil || b.Type != "sse.connected" {
		s.Close()
		return nil, fmt.Errorf("it was told %q: %w", b.Type, err)
	}
	v.stream, v.opened = s, time.Now()
	if v.start = b.ID; v.start.Epoch == "" { // a gap is to come
		v.start = from
	}
	v.last = v.start
	m.mu.Lock()
	m.visits = append(m.visits, v)
	m.mu.Unlock()
	return v, nil
}

// ErrGap says that a stream told a gap.
var ErrGap = errors.New("a gap was told")

// Read reads the stream to its end, or to a gap, and returns the last position. Its
// error is a Violation, wraps ErrGap, or says that the stream has ended.
func (v *Visit) Read() (Position, error) {
	defer v.stream.Close()
	defer func() { v.ended = time.Now() }()
	for {
		b, err := v.stream.Next()
		if err != nil {
			return v.last, err
		}
		if b.Type == "sse.gap" {
			return b.ID, fmt.Errorf("%w: after %s, to %s", ErrGap, v.last, b.ID)
		}
		if b.ID.Epoch != "" {
			v.last = b.ID
		}
		switch {
		case b.Type == "sse.topics":
			told := toldChange{position: b.ID, at: time.Now()}
			if err := json.Unmarshal([]byte(b.Data), &told.TopicChange); err != nil {
				return v.last, err
			}
			v.told = append(v.told, told)
		case b.hasData && !strings.HasPrefix(b.Type, "sse."):
			n, err := ReadPayload(b.Data)
			if err != nil {
				return v.last, err
			}
			v.got = append(v.got, Received{Position: b.ID, N: n, Size: len(b.Data), At: time.Now()})
		}
	}
}

// Epoch is that in which it was opened.
func (v *Visit) Epoch() string { return v.start.Epoch }

// Told is when the changes came of which the stream was told.
func (v *Visit) Told() (at []time.Time) {
	for _, told := range v.told {
		at = append(at, told.at)
	}
	return at
}

// Change changes the topics by PATCH requests, to the base URL that is returned for
// each, until one is answered. Before is the position of something that was
// acknowledged. As an app does, the member first has its new streams get what is right
// from then on. It returns the position of the change, and how many requests failed.
func (m *Member) Change(
	ctx context.Context, change TopicChange, before Position, hub string, client *http.Client, base func() string,
) (at Position, failed int, err error) {
	body, err := json.Marshal(map[string][]string{"add": change.Added, "remove": change.Removed})
	if err != nil {
		return at, 0, err
	}
	m.mu.Lock()
	m.topics = change.apply(m.topics)
	if n := len(m.changes); n > 0 && m.changes[n-1].at.Seq > before.Seq {
		before = m.changes[n-1].at
	}
	m.mu.Unlock()
	made := memberChange{TopicChange: change, before: before.Seq, sent: time.Now()}
	query := url.Values{"user": {m.Name}, "hub": {hub}}
	for {
		made.at, err = patch(ctx, client, base()+"/sse/connections?"+query.Encode(), body)
		if err == nil {
			break
		}
		failed++
		select {
		case <-ctx.Done():
			return at, failed, fmt.Errorf("changing topics: %w; %w", ctx.Err(), err)
		case <-time.After(backoff):
		}
	}
	made.answered = time.Now()
	m.mu.Lock()
	m.changes = append(m.changes, made)
	m.mu.Unlock()
	return made.at, failed, nil
}

func patch(ctx context.Context, client *http.Client, url string, body []byte) (at Position, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPatch, url, bytes.NewReader(body))
	if err != nil {
		return at, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return at, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return at, err
	}
	var answer struct{ ID string }
	if resp.StatusCode != http.StatusOK {
		return at, fmt.Errorf("%s: %s", resp.Status, text)
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return at, err
	}
	return ParsePosition(answer.ID)
}

// apply returns topics as they are after the change.
func (c TopicChange) apply(topics []string) []string {
	topics = slices.DeleteFunc(slices.Clone(topics), func(name string) bool { return slices.Contains(c.Removed, name) })
	for _, name := range c.Added {
		if !slices.Contains(topics, name) {
			topics = append(topics, name)
		}
	}
	return topics
}

// Rights is what was found with the streams of a member.
type Rights struct {
	Visits, Changes, Told int
	Unlawful              int // events that it received without the right
	Withheld              int // events that it did not receive though it had the right
	Untold                int // changes that were told falsely, or not
	Findings              []string
}

// Visits are its streams. It must not have one that is being read.
func (m *Member) Visits() []*Visit { return m.visits }

// Judge holds what the member received on its streams against what was acknowledged.
// Streams of another epoch than that of all the changes are left out.
func (m *Member) Judge(entries []Entry, r *Rights) {
	entries = slices.Clone(entries)
	slices.SortStableFunc(entries, func(a, b Entry) int { return int(int64(a.Position.Seq - b.Position.Seq)) })
	r.Changes += len(m.changes)
	for i, v := range m.visits {
		if slices.ContainsFunc(m.changes, func(c memberChange) bool { return c.at.Epoch != v.start.Epoch }) {
			continue
		}
		r.Visits++
		r.Told += len(v.told)
		j := visitJudge{v, m, entries, func(n *int, format string, args ...any) {
			*n++
			r.Findings = append(r.Findings, fmt.Sprintf("%s, stream %d from %s to %s with %q: %s",
				m.Name, i+1, v.start, v.last, v.topics, fmt.Sprintf(format, args...)))
		}}
		j.changes(r)
		j.events(r)
	}
}

type visitJudge struct {
	*Visit
	of      *Member
	entries []Entry
	found   func(n *int, format string, args ...any)
}

// changes judges which changes were told. A stream that was open when one was sent is
// concerned, and one that was asked for after the answer is not. What was asked for
// in between may be.
func (j visitJudge) changes(r *Rights) {
	topics, told := j.topics, j.told
	for _, c := range j.of.changes {
		after := c.apply(topics)
		effect := len(without(after, topics))+len(without(topics, after)) > 0
		next := len(told) > 0 && told[0].position.Seq > c.before && told[0].position.Seq <= c.at.Seq
		switch {
		case next && c.answered.Before(j.asked):
			j.found(&r.Untold, "it was told of a change at %s that was answered before it was asked for", c.at)
		case next && !told[0].same(c.TopicChange):
			j.found(&r.Untold, "at %s it was told %+v, want %+v", told[0].position, told[0].TopicChange, c.TopicChange)
		case !next && effect && j.opened.Before(c.sent) && j.last.Seq >= c.at.Seq:
			j.found(&r.Untold, "it was not told of the change at %s", c.at)
		}
		if next {
			topics, told = told[0].apply(topics), told[1:]
		}
	}
	if len(told) > 0 {
		j.found(&r.Untold, "at %s it was told %+v, which nobody had asked for", told[0].position, told[0].TopicChange)
	}
}

// events judges what it received, and what it did not.
func (j visitJudge) events(r *Rights) {
	topics, told, got := j.topics, j.told, j.got
	dropped := make(map[string]bool) // topics of which something that was pending was dropped with the right
	for _, e := range j.entries {
		seq := e.Position.Seq
		if e.Position.Epoch != j.start.Epoch || seq <= j.start.Seq {
			continue
		}
		for ; len(told) > 0 && told[0].position.Seq < seq; told = told[1:] {
			topics = told[0].apply(topics)
			for _, name := range told[0].Removed {
				delete(dropped, name)
			}
		}
		received := len(got) > 0 && got[0].N == e.N
		if received {
			got = got[1:]
		}
		names := e.To.common(topics)
		always := e.To.Field == "" || e.To.Field == "user" && slices.Contains(e.To.Names, j.of.Name)
		switch late := j.late(e, names); {
		case received && !always && len(names) == 0:
			j.found(&r.Unlawful, "it got event %d at %s, which was for %v", e.N, e.Position, e.To)
		case received && !always && late != nil:
			j.found(&r.Unlawful, "it got event %d at %s for %v, which was sent at %s, after the change at %s was answered",
				e.N, e.Position, e.To, e.Sent.Format(clockFormat), late.at)
		case received && !always && slices.ContainsFunc(names, func(name string) bool { return dropped[name] }) && len(names) == 1:
			j.found(&r.Withheld, "it got event %d at %s, but not one of the same topic before it", e.N, e.Position)
		case received, seq > j.last.Seq, !always && len(names) == 0:
		case always || !j.endsBefore(names, seq):
			j.found(&r.Withheld, "it did not get event %d at %s for %v", e.N, e.Position, e.To)
		default:
			for _, name := range names {
				dropped[name] = true
			}
		}
	}
	for _, g := range got {
		j.found(&r.Unlawful, "it got event %d at %s, which was never acknowledged there", g.N, g.Position)
	}
}

const clockFormat = "15:04:05.000"

// late is a change that had taken away the right to an event before that was sent, if
// the stream was open then, and has none of the topics that the event is for by another.
func (j visitJudge) late(e Entry, names []string) (by *memberChange) {
	for _, name := range names {
		by = nil
		for i, c := range j.of.changes {
			switch {
			case c.sent.After(j.opened) && c.answered.Before(e.Sent) && slices.Contains(c.Removed, name):
				by = &j.of.changes[i]
			case slices.Contains(c.Added, name):
				by = nil
			}
		}
		if by == nil {
			return nil
		}
	}
	return by
}

// endsBefore reports whether the right to all these topics ends after the position,
// on this stream, so that what is pending may be dropped: also if the stream ended
// before it was told so.
func (j visitJudge) endsBefore(names []string, seq uint64) bool {
	return !slices.ContainsFunc(names, func(name string) bool {
		return !slices.ContainsFunc(j.of.changes, func(c memberChange) bool {
			return slices.Contains(c.Removed, name) && c.at.Seq > seq && c.answered.After(j.asked) && c.sent.Before(j.ended)
		})
	})
}

// common are the topics that an event is for, of these.
func (t Target) common(topics []string) (names []string) {
	if t.Field == "topic" {
		for _, name := range topics {
			if slices.Contains(t.Names, name) {
				names = append(names, name)
			}
		}
	}
	return names
}

func (c TopicChange) same(other TopicChange) bool {
	return slices.Equal(slices.Sorted(slices.Values(c.Added)), slices.Sorted(slices.Values(other.Added))) &&
		slices.Equal(slices.Sorted(slices.Values(c.Removed)), slices.Sorted(slices.Values(other.Removed)))
}

// without are the names that are not among the others.
func without(names, others []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool { return slices.Contains(others, name) })
}
