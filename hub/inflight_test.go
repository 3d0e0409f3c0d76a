package hub

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// A client that was authenticated before a change of its rights, and connects after it, is
// refused, so that it authenticates again.
func TestPromise11RightsOfRequestsInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		connect := func(r Request) string {
			t.Helper()
			p, err := h.Connect(t.Context(), r)
			if refusal, ok := errors.AsType[*Refusal](err); ok {
				return string(refusal.Reason)
			}
			if err != nil {
				t.Fatal(err)
			}
			p.Cancel()
			return "admitted"
		}
		request := func(ago time.Duration) Request {
			r := requestOf("alice", "room/1", "news/*")
			r.Session, r.Began = "phone", time.Now().Add(-ago)
			return r
		}
		changeTopics := func(f Filter) {
			t.Helper()
			if _, err := h.ChangeTopics(t.Context(), TopicChange{Filter: f, Remove: []string{"room/1"}}); err != nil {
				t.Fatal(err)
			}
		}
		for name, change := range map[string]func(Filter){
			"disconnect": func(f Filter) {
				if _, err := h.Disconnect(t.Context(), f); err != nil {
					t.Fatal(err)
				}
			},
			"change of topics": changeTopics,
		} {
			for _, test := range []struct {
				filter Filter
				want   Reason
			}{
				{Filter{Users: []string{"bob", "alice"}}, Lifetime},
				{Filter{Users: []string{"bob"}}, "admitted"},
				{Filter{Users: []string{"alice"}, Sessions: []string{"phone"}}, Lifetime},
				{Filter{Users: []string{"alice"}, Sessions: []string{"desk"}}, "admitted"},
				{Filter{Topics: []string{"room/1"}}, Lifetime},
				{Filter{Topics: []string{"news/1"}}, Lifetime},
				{Filter{Topics: []string{"room/2"}}, "admitted"},
				{Filter{IDs: []string{"another"}}, "admitted"}, // a connection that does not exist yet has no id
				{Filter{}, Lifetime},
			} {
				time.Sleep(time.Minute)
				change(test.filter)
				what := fmt.Sprintf("after a %s of %+v", name, test.filter)
				want(t, "a request that began before, "+what, connect(request(time.Second)), string(test.want))
				want(t, "a request without a time, "+what, connect(requestOf("alice", "room/1")), "admitted")
				time.Sleep(time.Second)
				want(t, "a request that began later, "+what, connect(request(time.Second/2)), "admitted")
			}
		}

		// A forgotten change may have concerned the client.
		time.Sleep(time.Minute)
		changeTopics(Filter{Users: []string{"alice"}})
		time.Sleep(time.Minute)
		for range maxRightsChanges - 1 {
			changeTopics(Filter{Users: []string{"bob"}})
		}
		want(t, "of a thousand changes, none concerns a request that began after the first", connect(request(time.Second)), "admitted")
		changeTopics(Filter{Users: []string{"bob"}})
		want(t, "all thousand changes are later than the request", connect(request(time.Second)), "lifetime")
		want(t, "a filter with more names than are kept", func() string {
			time.Sleep(time.Minute)
			changeTopics(Filter{Users: make([]string, maxRightsNames+1)})
			return connect(request(time.Second))
		}(), "lifetime")
	})
}
