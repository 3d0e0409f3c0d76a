package hub

import (
	"math/rand/v2"
	"testing"
)

// eachSubscriber copies subscribers a slice at a time, and some may leave meanwhile. It calls the
// function for each subscriber that stays.
func TestEachSubscriberMissesNobody(t *testing.T) {
	h := newHub(t, Options{})
	const n = 2*subscribersAtOnce + 100
	timesCalled := make(map[*Conn]int)
	var conns []*Conn
	for range n {
		c := connect(t, h, requestOf("", "a", "b"))
		conns = append(conns, c.Conn)
		timesCalled[c.Conn] = 0
	}
	want(t, "counted by two lanes", publish(t, h, "x", topic("a"), topic("b")).Connections, n)
	want(t, "counted by one lane", publish(t, h, "x").Connections, n)
	want(t, "connections of the filter", len(h.Connections(Filter{Topics: []string{"a"}})), n)

	gone := make(map[*Conn]bool)
	calls := 0
	h.eachSubscriber(h.history.all, nil, func(c *Conn) {
		timesCalled[c]++
		if calls++; calls%10 == 0 {
			if c := conns[rand.N(len(conns))]; !gone[c] {
				Pending{c}.Cancel()
				gone[c] = true
			}
		}
	})
	for c, times := range timesCalled {
		if times == 0 && !gone[c] {
			t.Fatal("calls for a subscriber that stays: got 0, want at least 1")
		}
	}
	for _, c := range conns {
		if !gone[c] {
			Pending{c}.Cancel()
		}
	}
	want(t, "counted at the end", publish(t, h, "x", topic("a"), topic("b")).Connections, 0)
}
