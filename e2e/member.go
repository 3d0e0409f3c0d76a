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

// Member is a user whose topics change while its streams are open. It may be used from any
// goroutine.
type Member struct {
	Name string

	mu      sync.Mutex
	topics  []string // topics of its next stream
	changes []memberChange
	streams []*MemberStream
}

// NewMember returns a member with these topics, which the config must allow.
func NewMember(name string, topics ...string) *Member { return &Member{Name: name, topics: topics} }

// memberChange is a change that was answered.
type memberChange struct {
	TopicChange
	before         uint64 // seq of an event that was acknowledged before the change was sent
	at             Position
	sent, answered time.Time
}

// MemberStream is one stream of a member, up to its end or a gap. The goroutine that reads it writes
// this.
type MemberStream struct {
	stream *Stream
	topics []string

	requested, opened, ended time.Time
	start, last              Position
	got                      []Received
	reported                 []reportedChange
}

type reportedChange struct {
	TopicChange
	position Position
	at       time.Time
}

// Open opens a stream with the current topics of the member.
func (m *Member) Open(ctx context.Context, c *Client, from Position) (*MemberStream, error) {
	m.mu.Lock()
	v := &MemberStream{topics: slices.Clone(m.topics), requested: time.Now()}
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
		return nil, fmt.Errorf("first event: got %q, want sse.connected: %w", b.Type, err)
	}
	v.stream, v.opened = s, time.Now()
	if v.start = b.ID; v.start.Epoch == "" { // a gap follows
		v.start = from
	}
	v.last = v.start
	m.mu.Lock()
	m.streams = append(m.streams, v)
	m.mu.Unlock()
	return v, nil
}

// ErrGap means that a stream reported a gap.
var ErrGap = errors.New("a gap was reported")

// Read reads the stream to its end or to a gap, and returns the last position. The error is a
// Violation, wraps ErrGap, or says how the stream ended.
func (v *MemberStream) Read() (Position, error) {
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
			reported := reportedChange{position: b.ID, at: time.Now()}
			if err := json.Unmarshal([]byte(b.Data), &reported.TopicChange); err != nil {
				return v.last, err
			}
			v.reported = append(v.reported, reported)
		case b.hasData && !strings.HasPrefix(b.Type, "sse."):
			n, err := ReadPayload(b.Data)
			if err != nil {
				return v.last, err
			}
			v.got = append(v.got, Received{Position: b.ID, N: n, Size: len(b.Data), At: time.Now()})
		}
	}
}

// Epoch returns the epoch in which the stream was opened.
func (v *MemberStream) Epoch() string { return v.start.Epoch }

// Reported returns the times at which the stream reported changes.
func (v *MemberStream) Reported() (at []time.Time) {
	for _, reported := range v.reported {
		at = append(at, reported.at)
	}
	return at
}

// Change sends PATCH requests with a change of the topics until one is answered. base returns
// the base URL of each request. before is a position that was acknowledged before. The member
// first changes the topics of its new streams, as an app does. Change returns the position of
// the change, and the number of failed requests.
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

// apply returns the topics after the change.
func (c TopicChange) apply(topics []string) []string {
	topics = slices.DeleteFunc(slices.Clone(topics), func(name string) bool { return slices.Contains(c.Removed, name) })
	for _, name := range c.Added {
		if !slices.Contains(topics, name) {
			topics = append(topics, name)
		}
	}
	return topics
}

// Rights is the result of judging the streams of a member.
type Rights struct {
	Streams, Changes, Reported int
	Unlawful                   int // events received without the right
	Withheld                   int // events not received despite the right
	Misreported                int // changes that were reported wrongly or not at all
	Findings                   []string
}

// Streams returns the streams of the member. None of them may still be read.
func (m *Member) Streams() []*MemberStream { return m.streams }

// Judge compares what the member received with the acknowledged events. It ignores streams of
// another epoch than that of the changes.
func (m *Member) Judge(entries []Entry, r *Rights) {
	entries = slices.Clone(entries)
	slices.SortStableFunc(entries, func(a, b Entry) int { return int(int64(a.Position.Seq - b.Position.Seq)) })
	r.Changes += len(m.changes)
	for i, v := range m.streams {
		if slices.ContainsFunc(m.changes, func(c memberChange) bool { return c.at.Epoch != v.start.Epoch }) {
			continue
		}
		r.Streams++
		r.Reported += len(v.reported)
		j := streamJudge{v, m, entries, func(n *int, format string, args ...any) {
			*n++
			r.Findings = append(r.Findings, fmt.Sprintf("%s, stream %d from %s to %s with %q: %s",
				m.Name, i+1, v.start, v.last, v.topics, fmt.Sprintf(format, args...)))
		}}
		j.changes(r)
		j.events(r)
	}
}

type streamJudge struct {
	*MemberStream
	of      *Member
	entries []Entry
	found   func(n *int, format string, args ...any)
}

// changes judges the reported changes. A stream that was open when a change was sent must
// report it. A stream that was requested after the answer must not. Streams in between may.
func (j streamJudge) changes(r *Rights) {
	topics, reported := j.topics, j.reported
	for _, c := range j.of.changes {
		after := c.apply(topics)
		effect := len(without(after, topics))+len(without(topics, after)) > 0
		next := len(reported) > 0 && reported[0].position.Seq > c.before && reported[0].position.Seq <= c.at.Seq
		switch {
		case next && c.answered.Before(j.requested):
			j.found(&r.Misreported, "it reported the change at %s, which was answered before the stream was requested", c.at)
		case next && !reported[0].same(c.TopicChange):
			j.found(&r.Misreported, "the change at %s: got %+v, want %+v", reported[0].position, reported[0].TopicChange, c.TopicChange)
		case !next && effect && j.opened.Before(c.sent) && j.last.Seq >= c.at.Seq:
			j.found(&r.Misreported, "it did not report the change at %s", c.at)
		}
		if next {
			topics, reported = reported[0].apply(topics), reported[1:]
		}
	}
	if len(reported) > 0 {
		j.found(&r.Misreported, "at %s it reported %+v, which was never requested", reported[0].position, reported[0].TopicChange)
	}
}

// events judges the received and the missing events.
func (j streamJudge) events(r *Rights) {
	topics, reported, got := j.topics, j.reported, j.got
	dropped := make(map[string]bool) // topics of which pending events were dropped rightfully
	for _, e := range j.entries {
		seq := e.Position.Seq
		if e.Position.Epoch != j.start.Epoch || seq <= j.start.Seq {
			continue
		}
		for ; len(reported) > 0 && reported[0].position.Seq < seq; reported = reported[1:] {
			topics = reported[0].apply(topics)
			for _, name := range reported[0].Removed {
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
			j.found(&r.Withheld, "it got event %d at %s, but not an earlier one of the same topic", e.N, e.Position)
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

// late returns a change that removed the right to an event before the event was sent. The
// stream was open then, and no other change left it one of the event's topics.
func (j streamJudge) late(e Entry, names []string) (by *memberChange) {
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

// endsBefore reports whether the right to all these topics ends after the position on this
// stream, so that pending events may be dropped. The stream may have ended before it
// reported the change.
func (j streamJudge) endsBefore(names []string, seq uint64) bool {
	return !slices.ContainsFunc(names, func(name string) bool {
		return !slices.ContainsFunc(j.of.changes, func(c memberChange) bool {
			return slices.Contains(c.Removed, name) && c.at.Seq > seq && c.answered.After(j.requested) && c.sent.Before(j.ended)
		})
	})
}

// common returns those of the topics that the event is for.
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

// without returns the names that are not in the other list.
func without(names, others []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool { return slices.Contains(others, name) })
}
