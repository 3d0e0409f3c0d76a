package hub

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
)

// ParseTopic parses a topic that a stream subscribes to: an exact name, or a pattern with
// segments between slashes. A segment * matches one segment, or one and all that follow it
// if it is the last. There is no way to write an asterisk that is none. The error says what
// is wrong with s. It uses s alone, so any goroutine may call it.
func ParseTopic(s string) (Target, error) {
	if s == "" {
		return Target{}, fmt.Errorf("a topic must not be empty")
	}
	if !strings.Contains(s, "*") {
		return Target{Topic, s}, nil
	}
	for segment := range strings.SplitSeq(s, "/") {
		if segment != "*" && strings.Contains(segment, "*") {
			return Target{}, fmt.Errorf("topic %q: * must be a whole segment between slashes, not a part of one", s)
		}
	}
	return Target{pattern, s}, nil
}

// Matches reports whether t, a topic of a stream, matches the exact topic name.
func (t Target) Matches(name string) bool {
	if t.Kind == Topic {
		return t.Name == name
	}
	return t.Kind == pattern && shapeOf(t.Name).apply(name) == t.Name
}

// shape is a pattern without its names: it says which segments are wildcards. The patterns
// a/*/c and x/*/z have the same shape. A shape turns a topic into the pattern that matches
// it: a/b/c becomes a/*/c. So a pattern is looked up like any other target: an event is
// indexed once for its topic, and once for each shape that fits. There are as few shapes as
// kinds of pattern in the configuration.
//
// wild and rest never change. Hub.mu guards floor and learned.
type shape struct {
	wild []bool // whether the segment is *
	rest bool   // the last segment is *, and matches one or more segments

	// floor is the last position whose event is not indexed for this shape, because it
	// was evicted before the shape was learned.
	floor uint64

	// learned: all retained events are indexed for it, and new ones are indexed at once.
	learned bool
}

// shapeOf returns the shape of a pattern, which belongs to no history and is not learned.
func shapeOf(name string) *shape {
	s := new(shape)
	for segment := range strings.SplitSeq(name, "/") {
		s.wild = append(s.wild, segment == "*")
	}
	s.rest = s.wild[len(s.wild)-1]
	return s
}

// equal reports whether s and o are the same shape. It needs no lock.
func (s *shape) equal(o *shape) bool { return slices.Equal(s.wild, o.wild) }

// apply returns the pattern of this shape that matches the topic name; "": none does. It
// needs no lock.
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

// shape returns the shape of a pattern. It adds a shape that is new, which is learned at
// once if nothing is retained. Otherwise [Hub.learnShapes] must have learned it before a
// connection subscribes. The caller holds Hub.mu for writing.
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

// learnAtOnce is about how many records, and lanes that they are in, learn looks at while
// Hub.mu is held once.
const learnAtOnce = 250

// learn indexes a slice of the retained events for the shape, beginning at the position
// from; 0: at the oldest. It returns where the next slice begins: call it again with that,
// until s.learned. Events that were evicted in between are lost to the shape, so floor
// rises. The caller holds Hub.mu for writing, and lets others have the lock in between.
func (h *history) learn(s *shape, from uint64) (next uint64) {
	if from < h.oldest { // evicted meanwhile
		from, s.floor = h.oldest, h.oldest-1
	}
	for work := 0; from <= h.head && work < learnAtOnce; from++ {
		work++
		if _, isCommand := h.commands[from]; isCommand {
			continue // it is for no topic, and may be in a lane of each connection
		}
		e := h.entry(from)
		work += len(e.lanes)
		for _, l := range e.lanes {
			h.indexAs(s, e, from, l.target)
		}
	}
	s.learned = from > h.head
	return from
}

// learnShapes learns the shapes ([shape]) of the topics that are not learned yet. If a new
// history begins meanwhile, some may not be learned in it: the caller checks with
// hasLearned. Any goroutine may call it. The caller must not hold Hub.mu or h.learning.
func (h *Hub) learnShapes(topics []Target) {
	for _, t := range topics {
		if t.Kind == pattern && !h.check(func() bool { return h.history.hasLearned(t) }) {
			h.learnShape(t.Name)
		}
	}
}

// learnShape learns the shape of the pattern name, one slice of the history after the
// other. It begins again if a new history begins. Only learnShapes calls it. The caller
// must not hold Hub.mu or h.learning.
func (h *Hub) learnShape(name string) {
	h.learning.Lock() // one at a time: other connections may want the same shape
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
		runtime.Gosched() // other goroutines wait for the lock
	}
}

// hasLearned reports whether the topic is exact, or the shape of its pattern is learned.
// The caller holds Hub.mu.
func (h *history) hasLearned(t Target) bool {
	if t.Kind != pattern {
		return true
	}
	s := shapeOf(t.Name)
	i := slices.IndexFunc(h.shapes, s.equal)
	return i >= 0 && h.shapes[i].learned
}
