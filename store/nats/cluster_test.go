package natsstore

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/ea766355/caddy-sse/store/nats/natstest"
)

func TestNodesAnswerEachOther(t *testing.T) {
	servers := natstest.Start(t, 1)
	stream := newStream()
	proxy := natstest.NewProxy(t, servers.URLs()[0])
	join := func(name, url string) *store {
		s := openStore(t, stream, 1, url)
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
		if err := s.Join(name, func(request []byte) []byte { return append([]byte(name+" got "), request...) }); err != nil {
			t.Fatal(err)
		}
		return s
	}
	a, b, c := join("a", servers.URLs()[0]), join("b", servers.URLs()[0]), join("c", proxy.URL())
	all := []*store{a, b, c}
	servers.Eventually("the nodes do not know each other", func(context.Context) bool {
		return !slices.ContainsFunc(all, func(s *store) bool { return len(s.expected()) != 2 })
	})
	ask := func(s *store, wantAnswers, wantMissing []string) time.Duration {
		t.Helper()
		start := time.Now()
		answers, missing := s.Ask(t.Context(), []byte("hello"))
		took := time.Since(start)
		var got []string
		for _, answer := range answers {
			got = append(got, string(answer))
		}
		slices.Sort(got)
		if !slices.Equal(got, wantAnswers) || !slices.Equal(missing, wantMissing) {
			t.Errorf("answers %q, missing %q; want %q and %q", got, missing, wantAnswers, wantMissing)
		}
		return took
	}
	if took := ask(a, []string{"b got hello", "c got hello"}, nil); took > askTimeout {
		t.Errorf("all answered, and it took %v", took)
	}

	// One that is cut off is missing, and all others are for it.
	proxy.Cut()
	if took := ask(a, []string{"b got hello"}, []string{"c"}); took < askTimeout || took > 2*askTimeout {
		t.Errorf("one did not answer, and it took %v", took)
	}
	servers.Eventually("the cut is not noticed", func(context.Context) bool { return !c.conn.IsConnected() })
	ask(c, nil, []string{"a", "b"})
	proxy.Mend()
	servers.Eventually("it does not come back", func(context.Context) bool { return c.conn.IsConnected() })
	servers.Eventually("it is not heard", func(context.Context) bool {
		_, missing := a.Ask(t.Context(), nil)
		return len(missing) == 0
	})

	// One that has left is not.
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	servers.Eventually("its leaving is not heard", func(context.Context) bool { return len(a.expected()) == 1 })
	ask(a, []string{"c got hello"}, nil)
}
