package hub

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// matches implements the rules of the documentation literally.
func matches(pattern, topic string) bool {
	if !strings.Contains(pattern, "*") {
		return pattern == topic
	}
	p, s := strings.Split(pattern, "/"), strings.Split(topic, "/")
	for i, segment := range p {
		if i >= len(s) || segment != "*" && segment != s[i] {
			return false
		}
	}
	return len(s) == len(p) || p[len(p)-1] == "*"
}

func checkTopic(t *testing.T, stream, name string) {
	t.Helper()
	partial := func(segment string) bool { return segment != "*" && strings.Contains(segment, "*") }
	bad := stream == ""
	for segment := range strings.SplitSeq(stream, "/") {
		bad = bad || partial(segment)
	}
	target, err := ParseTopic(stream)
	if (err != nil) != bad {
		t.Fatalf("topic %q: %v", stream, err)
	}
	event := Event{At: time.Now(), Targets: []Target{topic(name)}}
	if bad || event.validate(1) != nil {
		return
	}
	expected := matches(stream, name)
	want(t, stream+" matches "+name, target.Matches(name), expected)

	// The index gives the same result, for later events and for events from before the first use
	// of the pattern.
	h := newHistory(Options{}.withDefaults(), "e", 1, new(pinned))
	put := func() bool {
		e := h.append(encode(recordOf(h.head+1, event), "e", time.Now()), time.Now())
		return slices.Contains(e.lanes, h.lanes[target])
	}
	put()
	if target.Kind == pattern {
		h.learn(h.shape(target.Name), 0)
	}
	l := h.lane(target)
	want(t, stream+" learned late finds "+name, len(l.seqs) == 1, expected)
	want(t, stream+" is indexed for "+name, put(), expected)
}

var topicSeeds = []string{
	"a", "a/b", "a/b/c", "a/*", "*", "*/b", "*/*", "a/*/c", "a/*/*", "*/*/c", "a/b/*", "/", "//", "a/", "/a", "*/", "/*",
	"a*", "a/*b", "**", "a/**", "", "ab/c", "A/b", "é/*",
}

func TestTopics(t *testing.T) {
	for _, stream := range topicSeeds {
		for _, name := range topicSeeds {
			checkTopic(t, stream, name)
		}
	}
	random := func(from []string) string {
		var segments []string
		for range 1 + rand.IntN(4) {
			segments = append(segments, from[rand.IntN(len(from))])
		}
		return strings.Join(segments, "/")
	}
	for range 500 {
		checkTopic(t, random([]string{"a", "b", "*", "*", ""}), random([]string{"a", "b", ""}))
	}
}

func FuzzTopics(f *testing.F) {
	for i, stream := range topicSeeds {
		f.Add(stream, topicSeeds[(i+3)%len(topicSeeds)])
	}
	f.Fuzz(checkTopic)
}

// An event wakes subscribers of a pattern that have received nothing yet.
func TestPatternSubscribersAreWoken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		var streams []*servedConn
		for _, p := range []string{"a/*", "*/b", "*", "a/*/c"} {
			streams = append(streams, open(t, h, requestOf("", p)))
		}
		synctest.Wait()
		publish(t, h, "x", topic("a/b"))
		synctest.Wait()
		for i, got := range []string{"x", "x", "x", ""} {
			want(t, fmt.Sprint("stream ", i, " events"), streams[i].client(t).data(), got)
		}
	})
}

// The history is indexed for a new shape a slice at a time, so others can publish meanwhile.
func TestLearnWhileOthersPublish(t *testing.T) {
	h := newHub(t, Options{MaxEvents: 3000})
	number := func(i int) (string, Target) { return strconv.Itoa(i), topic(fmt.Sprint("a/", i%7, "/", i)) }
	const before, all = 4000, 5000
	for i := range before {
		data, to := number(i)
		publish(t, h, data, to)
	}
	start := positionAt(h, before-500)
	var publishing sync.WaitGroup
	defer publishing.Wait()
	publishing.Go(func() {
		for i := before; i < all; i++ {
			data, to := number(i)
			publish(t, h, data, to)
		}
	})
	var streams []*servedConn
	for _, p := range []string{"a/*/*", "*", "a/3/*", "*/*/*"} {
		streams = append(streams, open(t, h, requestOf("", p).at(start)))
	}
	for i, every := range []int{1, 1, 7, 1} {
		var expected []string
		for n := before - 500; n < all; n++ {
			if every == 1 || n%7 == 3 {
				expected = append(expected, strconv.Itoa(n))
			}
		}
		eventually(t, "all events", func() bool { return len(streams[i].client(t).events) >= len(expected) })
		want(t, fmt.Sprint("stream ", i, " events"), streams[i].client(t).data(), strings.Join(expected, " "))
		want(t, fmt.Sprint("stream ", i, " control events"), streams[i].client(t).controlSummary(), "")
	}
}
