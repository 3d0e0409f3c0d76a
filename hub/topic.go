package hub

import (
	"fmt"
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
	// shape any more, since it was evicted before the shape came into use.
	floor uint64
}

func shapeOf(name string) shape {
	var s shape
	for segment := range strings.SplitSeq(name, "/") {
		s.wild = append(s.wild, segment == "*")
	}
	s.rest = s.wild[len(s.wild)-1]
	return s
}

func (s shape) equal(o shape) bool { return slices.Equal(s.wild, o.wild) }

// apply is the pattern of this shape that matches the topic name, or "".
func (s shape) apply(name string) string {
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
