package hub

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
)

// ParseTopic reads one topic of a stream: an exact name, or a pattern of
// segments between slashes. A segment * matches any one segment, and as the
// last segment it matches the rest, one segment or more.
func ParseTopic(s string) (Target, error) {
	if s == "" {
		return Target{}, fmt.Errorf("a topic must not be empty")
	}
	if !strings.Contains(s, "*") {
		return Target{Topic, s}, nil
	}
	for segment := range strings.SplitSeq(s, "/") {
		if segment != "*" && strings.Contains(segment, "*") {
			return Target{}, fmt.Errorf("topic %q: * stands for a whole segment between slashes, not for a part of one", s)
		}
	}
	return Target{pattern, s}, nil
}

// Matches reports whether t, a topic of a stream, covers the exact topic name.
func (t Target) Matches(name string) bool {
	if t.Kind == Topic {
		return t.Name == name
	}
	return t.Kind == pattern && shapeOf(t.Name).apply(name) == t.Name
}

// A shape is what is left of a pattern without its names: which segments are
// wildcards. a/*/c and x/*/z have one shape. Seen through a shape, a topic is a
// pattern (a/b/c becomes a/*/c), so patterns are looked up like any other
// target: an event is indexed once for each shape that fits its topic, and the
// shapes in use are as few as the kinds of pattern in the configuration.
type shape struct {
	wild []bool // per segment
	rest bool   // the last segment matches the rest

	// floor is the last position whose event could not be indexed for this
	// shape any more, since it was evicted before the shape was learned.
	floor uint64

	// learned: all that is retained is indexed, and what comes is indexed at once.
	learned bool
}

func shapeOf(name string) *shape {
	s := new(shape)
	for segment := range strings.SplitSeq(name, "/") {
		s.wild = append(s.wild, segment == "*")
	}
	s.rest = s.wild[len(s.wild)-1]
	return s
}

func (s *shape) equal(o *shape) bool { return slices.Equal(s.wild, o.wild) }

// apply is the pattern of this shape that matches the topic name, or "".
func (s *shape) apply(name string) string {
	var b strings.Builder
	for i, wild := range s.wild {
		last := i == len(s.wild)-1
		segment, rest, more := strings.Cut(name, "/")
		if more == last && !(last && s.rest) {
			return ""
		}
		if i > 0 {
			b.WriteByte('/')
		}
		if wild {
			segment = "*"
		}
		b.WriteString(segment)
		name = rest
	}
	return b.String()
}

// shape returns the shape of a pattern. One that is new is not learned yet, unless
// there is nothing to learn.
func (h *history) shape(name string) *shape {
	s := shapeOf(name)
	if i := slices.IndexFunc(h.shapes, s.equal); i >= 0 {
		return h.shapes[i]
	}
	s.floor = h.oldest - 1
	s.learned = h.oldest > h.head
	h.shapes = append(h.shapes, s)
	return s
}

// learnAtOnce is how many lanes are looked at under one lock.
const learnAtOnce = 250

// learn applies a shape to what is retained, from a position on, and reports from
// which to go on. Once the shape is learned there is no need to.
func (h *history) learn(s *shape, from uint64) (next uint64) {
	if from < h.oldest { // the history moved on
		from, s.floor = h.oldest, h.oldest-1
	}
	for lanes := 0; from <= h.head && lanes < learnAtOnce; from++ {
		e := h.entry(from)
		lanes += 1 + len(e.lanes)
		for _, l := range e.lanes {
			h.indexAs(s, e, from, l.target)
		}
	}
	s.learned = from > h.head
	return from
}

// learnShapes makes sure that the shapes of the topics are learned. mu is not held.
func (h *Hub) learnShapes(topics []Target) {
	for _, t := range topics {
		if t.Kind == pattern && !h.check(func() bool { return h.history.hasLearned(t) }) {
			h.learnShape(t.Name)
		}
	}
}

// learnShape learns one shape, a slice of the history at a time.
func (h *Hub) learnShape(name string) {
	h.learning.Lock() // one at a time, since others may want the same
	defer h.learning.Unlock()
	var history *history
	var next uint64
	for learned := false; !learned; {
		h.mu.Lock()
		if history != h.history {
			history, next = h.history, 0
		}
		s := history.shape(name)
		if !s.learned {
			next = history.learn(s, next)
		}
		learned = s.learned
		h.mu.Unlock()
		runtime.Gosched() // others wait for the lock
	}
}

// knows reports whether the topic is no pattern, or one of a learned shape.
func (h *history) hasLearned(t Target) bool {
	if t.Kind != pattern {
		return true
	}
	s := shapeOf(t.Name)
	i := slices.IndexFunc(h.shapes, s.equal)
	return i >= 0 && h.shapes[i].learned
}
