package hub

import (
	"math/rand/v2"
	"testing"
)

// Listeners are copied some at a time, and others may leave meanwhile. Each that
// stays is met.
func TestEachSubscriberMissesNobody(t *testing.T) {
	h := newHub(t, Options{})
	const n = 2*subscribersAtOnce + 100
	met := make(map[*Conn]int)
	var conns []*Conn
	for range n {
		c := connect(t, h, requestOf("", "a", "b"))
		conns = append(conns, c.Conn)
		met[c.Conn] = 0
	}
	want(t, "counted by two lanes", publish(t, h, "x", topic("a"), topic("b")).Connections, n)
	want(t, "counted by one lane", publish(t, h, "x").Connections, n)
	want(t, "chosen", len(h.Connections(Filter{Topics: []string{"a"}})), n)

	gone := make(map[*Conn]bool)
	calls := 0
	h.eachSubscriber(h.history.all, nil, func(c *Conn) {
		met[c]++
		if calls++; calls%10 == 0 {
			if c := conns[rand.N(len(conns))]; !gone[c] {
				Pending{c}.Cancel()
				gone[c] = true
			}
		}
	})
	for c, times := range met {
		if times == 0 && !gone[c] {
			t.Fatal("a subscriber was missed")
		}
	}
	for _, c := range conns {
		if !gone[c] {
			Pending{c}.Cancel()
		}
	}
	want(t, "counted at the end", publish(t, h, "x", topic("a"), topic("b")).Connections, 0)
}
