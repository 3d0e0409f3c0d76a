package hub

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// A receipt counts each connection once, even if several lanes lead to it.
func TestReceiversAreCountedOnce(t *testing.T) {
	h := newHub(t, Options{})
	random := rand.New(rand.NewPCG(1, 2))
	names := []string{"a", "b", "c/d", "c/e"}
	pick := func(from ...string) string { return from[random.IntN(len(from))] }
	var conns []*Conn
	for range 60 {
		r := requestOf(pick("", "u", "v"))
		for range random.IntN(3) {
			more := requestOf("", pick(append(names, "*", "c/*")...))
			r.Topics = append(r.Topics, more.Topics...)
		}
		conns = append(conns, connect(t, h, r).Conn)
	}
	for range 200 {
		var targets []Target
		for range 1 + random.IntN(4) {
			targets = append(targets, topic(pick(names...)), user(pick("u", "v")))
		}
		targets = targets[random.IntN(2) : 1+random.IntN(len(targets)-1)]
		reached := 0
		for _, c := range conns {
			if slices.ContainsFunc(targets, func(to Target) bool {
				return to.Kind == User && to.Name == c.identity.User ||
					to.Kind == Topic && slices.ContainsFunc(c.topics, func(own Target) bool { return own.Matches(to.Name) })
			}) {
				reached++
			}
		}
		if len(targets) > 0 {
			want(t, fmt.Sprint(targets), publish(t, h, "x", targets...).Connections, reached)
		}
	}
}

// An event with many targets counts with the memory of all of them, so that the bound of the
// history bounds its memory.
func TestManyTargetsCount(t *testing.T) {
	h := newHub(t, Options{MaxBytes: 2 << 20})
	targets := make([]Target, MaxTargets)
	var batch []Event
	for n := range 30 {
		for i := range targets {
			targets[i] = user(fmt.Sprint(n, " ", i))
		}
		batch = append(batch, Event{Targets: slices.Clone(targets)})
	}
	if _, err := h.Publish(t.Context(), batch...); err != nil {
		t.Fatal(err)
	}
	if n := h.Stats().Events; n < 3 || n > 10 {
		t.Errorf("retained events of 1,000 targets in 2 MiB: got %d, want 3 to 10", n)
	}
	if lanes := len(h.history.lanes); lanes > 10*MaxTargets+1 {
		t.Errorf("lanes: got %d, want at most %d", lanes, 10*MaxTargets+1)
	}
	checkBytes(t, h.history)
	h.SetOptions(Options{MaxEvents: 1})
	publish(t, h, "x")
	checkBytes(t, h.history)
}
