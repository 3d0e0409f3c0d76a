package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Each method causes one reason for which an event does not reach the user, and returns the id of
// the event.

func (w *WhyTest) delivered(user string) (id string) {
	s := w.open("", user, nil, "")
	id = w.send(user, "")
	w.read(s, id)
	return id
}

func (w *WhyTest) reconnectedWithPosition(user string) (id string) {
	from := w.send("nobody", "")
	id = w.send(user, "")
	w.await("", id) // else it is delivered live
	w.read(w.open("", user, nil, from), id)
	return id
}

func (w *WhyTest) lags(user string) (id string) {
	w.openBy(w.Serve.SmallClient(H1), "", user, nil, "")
	large := strings.Repeat("x", 512<<10)
	Wait(w.t, Patience, "the client to lag", func() error {
		w.publish("send", "", fmt.Sprintf(`{"user":%q,"data":"%s"}`, user, large))
		if lag, open := w.Serve.Lag(user); !open || lag < 3 {
			return fmt.Errorf("lag %d, open %t", lag, open)
		}
		return nil
	})
	return w.send(user, "")
}

func (w *WhyTest) otherTopic(user string) (id string) {
	w.open("", user, []string{"news/1", "news/2"}, "")
	return w.publish("send", "", fmt.Sprintf(`{"topic":"news/9","data":"%s"}`, secret))
}

func (w *WhyTest) topicRemoved(user string) (id string) {
	s := w.open("", user, []string{"news/9"}, "")
	var changed struct{ ID string }
	w.call(w.Publish, http.MethodPatch, "/sse/connections?user="+url.QueryEscape(user), `{"remove":["news/9"]}`, &changed)
	w.read(s, changed.ID)
	return w.publish("send", "", fmt.Sprintf(`{"topic":"news/9","data":"%s"}`, secret))
}

func (w *WhyTest) otherUser(user string) (id string) {
	w.open("", user, nil, "")
	return w.send("somebody else", "")
}

func (w *WhyTest) reconnectedWithoutPosition(user string) (id string) {
	w.leave(w.open("", user, nil, ""), user)
	id = w.send(user, "")
	w.await("", id)
	w.open("", user, nil, "")
	return id
}

func (w *WhyTest) reconnectedPastIt(user string) (id string) {
	id = w.send(user, "")
	past := w.send("nobody", "")
	w.await("", past)
	w.open("", user, nil, past)
	return id
}

func (w *WhyTest) didNotReconnect(user string) (id string) {
	w.leave(w.open("", user, nil, ""), user)
	return w.send(user, "")
}

func (w *WhyTest) refused(user string) (id string) {
	id = w.send(user, "")
	w.await("", id)
	w.open("", user, nil, "")
	w.open("", user, nil, "")
	third, err := w.client().Open(w.t.Context(), Identity{User: user}, "")
	if err != nil {
		w.t.Fatal(err)
	}
	defer third.Close()
	if b, err := third.Next(); err != nil || b.Type != "sse.rejected" {
		w.t.Fatalf("first event of the third stream: got %+v, %v, want sse.rejected", b, err)
	}
	return id
}

func (w *WhyTest) ttlPassed(user string) (id string) {
	from := w.send("nobody", "")
	id = w.send(user, `,"ttl":"200ms"`)
	<-time.After(300 * time.Millisecond) // until the ttl has passed
	s := w.open("", user, nil, from)
	w.read(s, w.send(user, ""))
	return id
}

func (w *WhyTest) replaced(user string) (id string) {
	from := w.send("nobody", "")
	id = w.send(user, `,"slot":"price"`)
	next := w.send(user, `,"slot":"price"`)
	w.read(w.open("", user, nil, from), next)
	return id
}

func (w *WhyTest) evicted(user string) (id string) {
	hub := strings.TrimPrefix(user, "evicted-by-")
	s := w.open(hub, user, nil, "")
	id = w.publish("send", hub, fmt.Sprintf(`{"user":%q,"data":"%s"}`, user, secret))
	w.read(s, id)
	for range 30 {
		last := w.publish("broadcast", hub, fmt.Sprintf(`{"data":"%s"}`, secret+strings.Repeat("x", 4<<10)))
		w.read(s, last)
		w.await(hub, last)
	}
	return id
}

func (w *WhyTest) evictedByAge(user string) (id string) {
	s := w.open("age", user, nil, "")
	id = w.publish("send", "age", fmt.Sprintf(`{"user":%q,"data":"%s"}`, user, secret))
	w.read(s, id)
	Wait(w.t, Patience, "the event to be evicted everywhere", func() error {
		last := w.publish("broadcast", "age", `{"data":"x"}`)
		w.await("age", last)
		w.read(s, last)
		p, err := ParsePosition(id)
		for _, server := range []*Server{w.Publish, w.Serve, w.Ask} {
			oldest, bad := ParsePosition(server.StatusOf("age").Oldest)
			if bad == nil && oldest.Seq <= p.Seq {
				bad = fmt.Errorf("the oldest is %s", oldest)
			}
			err = errors.Join(err, bad)
		}
		return err
	})
	return id
}

func (w *WhyTest) otherEpoch(user string) (id string) {
	w.open("", user, nil, "")
	return "another0-7-abcd"
}

func (w *WhyTest) neverPublished(user string) (id string) {
	w.open("", user, nil, "")
	p, err := ParsePosition(w.send(user, ""))
	if err != nil {
		w.t.Fatal(err)
	}
	p.Seq, p.Tag = p.Seq+1_000_000, ""
	return p.String()
}

func (w *WhyTest) sameKey(user string) (id string) {
	s := w.open("", user, nil, "")
	id = w.send(user, `,"key":"always the same"`)
	w.read(s, id)
	if again := w.send(user, `,"key":"always the same"`); again != id {
		w.t.Errorf("id of the duplicate: got %s, want %s", again, id)
	}
	return id
}
