package hub

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
)

func TestFilters(t *testing.T) {
	type entry struct {
		user, session string
		topics        []string
	}
	entries := []entry{
		{"alice", "s1", []string{"news"}}, {"alice", "s2", []string{"a/*", "news"}}, {"bob", "s1", nil}, {"", "s3", []string{"a/b"}}, {"", "", nil},
	}
	setup := func(t *testing.T) (*Hub, map[*Conn]string) {
		h, names := newHub(t, Options{}), make(map[*Conn]string)
		for i, e := range entries {
			r := requestOf(e.user, e.topics...)
			r.Session = e.session
			names[connect(t, h, r).Conn] = fmt.Sprint(i)
		}
		return h, names
	}
	list := func(h *Hub, names map[*Conn]string, f Filter) (s string) {
		for _, c := range h.Connections(f) {
			s += names[c]
		}
		return s
	}
	for _, tt := range []struct {
		f      Filter
		chosen string
	}{
		{Filter{}, "01234"},
		{Filter{Users: []string{"alice"}}, "01"},
		{Filter{Users: []string{"alice", "alice"}}, "01"},
		{Filter{Users: []string{"bob", "alice"}}, "012"},
		{Filter{Users: []string{""}}, ""},
		{Filter{Users: []string{"nobody"}}, ""},
		{Filter{Users: []string{"nobody", "bob"}}, "2"},
		{Filter{Sessions: []string{"s1"}}, "02"},
		{Filter{Topics: []string{"news"}}, "01"},
		{Filter{Topics: []string{"a/b"}}, "13"},
		{Filter{Topics: []string{"a/x", "news"}}, "01"},
		{Filter{Topics: []string{"a"}}, ""},
		{Filter{Users: []string{"alice"}, Sessions: []string{"s1"}}, "0"},
		{Filter{Users: []string{"alice", "bob"}, Sessions: []string{"s1", "s3"}}, "02"},
		{Filter{Users: []string{"alice"}, Sessions: []string{"s3"}}, ""},
		{Filter{Users: []string{"alice"}, Sessions: []string{"s1", "s2"}, Topics: []string{"a/b"}}, "1"},
	} {
		h, names := setup(t)
		want(t, fmt.Sprint("listed by ", tt.f), list(h, names, tt.f), tt.chosen)
		want(t, fmt.Sprint("ended by ", tt.f), h.DisconnectHere(tt.f), len(tt.chosen))
		want(t, "ended by the same filter again", h.DisconnectHere(tt.f), 0)
		var left strings.Builder
		for i := range entries {
			if !strings.Contains(tt.chosen, fmt.Sprint(i)) {
				fmt.Fprint(&left, i)
			}
		}
		want(t, "connections that remain", list(h, names, Filter{}), left.String())
	}

	h, names := setup(t)
	for c, name := range names {
		want(t, "by id", list(h, names, Filter{IDs: []string{c.ID()}}), name)
	}
	many := []string{"alice"}
	for i := range 3 * MaxTargets {
		many = append(many, fmt.Sprint("user-", i))
	}
	want(t, "by very many names", list(h, names, Filter{Users: append(many, "bob", "alice")}), "012")
	want(t, "by unknown id", list(h, names, Filter{IDs: []string{"x"}}), "")
}

func TestConnectionsAreListedByOpening(t *testing.T) {
	h := newHub(t, Options{})
	var opened []*Conn
	for range 1000 {
		opened = append(opened, connect(t, h, requestOf("alice")).Conn)
	}
	want(t, "in order", slices.Equal(h.Connections(Filter{}), opened), true)
}

func TestDisconnectTellsTheClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		alice, bob := open(t, h, requestOf("alice")), open(t, h, requestOf("bob"))
		publish(t, h, "before")
		want(t, "ended", h.DisconnectHere(Filter{Users: []string{"alice"}}), 1)
		publish(t, h, "after")
		want(t, "reason", alice.wait(), Disconnected)
		synctest.Wait()
		want(t, "events and control events of alice", alice.client(t).data()+", "+alice.client(t).controlSummary(), "before, sse.closing disconnected")
		want(t, "events and control events of bob", bob.client(t).data()+", "+bob.client(t).controlSummary(), "before after, ")
		want(t, "events of alice after a reconnect", alice.client(t).resume(h, requestOf("alice")).data(), "before after")
	})
}

func TestDisconnectCountsEachOnce(t *testing.T) {
	h := newHub(t, Options{})
	for range 2000 {
		connect(t, h, requestOf("alice"))
	}
	var ended [4]int
	var disconnecting sync.WaitGroup
	start := make(chan struct{})
	for i := range ended {
		disconnecting.Go(func() {
			<-start
			ended[i] = h.DisconnectHere(Filter{Users: []string{"alice"}})
		})
	}
	close(start)
	disconnecting.Wait()
	want(t, "ended", ended[0]+ended[1]+ended[2]+ended[3], 2000)
	want(t, "counted", h.Stats().Closed["disconnected"], 2000)
}
