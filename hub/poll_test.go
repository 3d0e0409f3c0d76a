package hub

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// polling returns r as the request of a poll.
func polling(r Request) Request { r.Poll = true; return r }

func TestPollEndsAfterTheFirstEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		v := open(t, h, polling(requestOf("alice")))
		synctest.Wait()
		want(t, "opening", strings.HasSuffix(v.received(), "\nid: "+positionAt(h, 0)+"\n\n"), true)
		publish(t, h, "x", user("bob"))
		time.Sleep(time.Second)
		publish(t, h, "y", user("alice"))
		want(t, "reason", v.endReason(t), Polled)
		want(t, "answer", strings.HasSuffix(v.received(), "\n\ndata: y\nid: "+positionAt(h, 2)+"\n\n"), true)
		want(t, "closing", strings.Contains(v.received(), "sse.closing"), false)
		want(t, "connections", h.Stats().Connections["h1"], 0)
	})
}

func TestPollWithPendingEventsAnswersAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		first := publish(t, h, "x").Position.String()
		publish(t, h, "y")
		publish(t, h, "z", user("bob"))
		v := open(t, h, polling(requestOf("alice").at(first)))
		want(t, "reason", v.endReason(t), Polled)
		want(t, "in one write", v.writes, 1)
		// The position is also past the event for bob, so the next poll does not look at it again.
		want(t, "answer", strings.HasSuffix(v.received(), "data: y\nid: "+positionAt(h, 2)+"\n\nid: "+positionAt(h, 3)+"\n\n"), true)
	})
}

func TestPollEndsAfterAHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		began := time.Now()
		idle, moved := open(t, h, polling(requestOf("alice"))), open(t, h, polling(requestOf("alice")))
		time.Sleep(time.Second)
		publish(t, h, "x", user("bob"))
		want(t, "reason", idle.wait(), Polled)
		want(t, "reason", moved.wait(), Polled)
		want(t, "after", time.Since(began), 15*time.Second)
		want(t, "position", strings.HasSuffix(moved.received(), "\n\nid: "+positionAt(h, 1)+"\n\n"), true)
	})
}

func TestPollSendsAGapAndWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		v := open(t, h, polling(requestOf("alice").at("abcdefgh-1")))
		synctest.Wait()
		want(t, "gap", strings.Contains(v.received(), "event: sse.gap\n"), true)
		publish(t, h, "x")
		want(t, "reason", v.endReason(t), Polled)
	})
}

// A sequence of polls gets every event once and in order.
func TestPollsLoseNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		const events = 2000
		go func() {
			for i := range events {
				publish(t, h, fmt.Sprint(i), user([]string{"alice", "bob"}[i%2]))
				if i%7 == 0 {
					time.Sleep(time.Duration(i%40) * time.Second)
				}
			}
		}()
		synctest.Wait()
		position := Earliest
		var got []string
		for len(got) < events/2 {
			v := open(t, h, polling(requestOf("alice").at(position)))
			want(t, "reason", v.wait(), Polled)
			c := v.client(t)
			for _, e := range c.events {
				got = append(got, e.data)
			}
			position = c.position
		}
		for i, data := range got {
			want(t, "event", data, fmt.Sprint(2*i))
		}
	})
}

// The answer to a poll may take as long as any write to a stream. Otherwise a slow client would
// never get a large event: each of its polls would be cut off.
func TestPollOfASlowClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		publish(t, h, "x")
		v, resume := pollThatStalls(t, h)
		time.Sleep(v.settings.Timeout / 2)
		want(t, "connections while the answer is written", h.Stats().Connections["h1"], 1)
		resume()
		want(t, "reason", v.endReason(t), Polled)
		want(t, "events", v.client(t).data(), "x")
		want(t, "aborts", v.aborts, 0)

		v, _ = pollThatStalls(t, h)
		time.Sleep(v.settings.Timeout)
		want(t, "reason if the client takes nothing", v.endReason(t), Timeout)
	})
}

// An exit does not wait for a slow poll.
func TestPromise8ExitDuringASlowPoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		publish(t, h, "x")
		v, _ := pollThatStalls(t, h)
		h.Shutdown()
		time.Sleep(closeGrace)
		want(t, "reason", v.endReason(t), Shutdown)
	})
}

// pollThatStalls returns a poll with an event in its answer, whose client takes nothing until resume
// is called.
func pollThatStalls(t *testing.T, h *Hub) (v *servedConn, resume func()) {
	w := newTestSink()
	resume = w.stall()
	v = serve(t, connect(t, h, polling(requestOf("alice").at(Earliest))), w)
	synctest.Wait()
	return v, resume
}

func TestPollGetsTheReasonOfOtherEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		v := open(t, h, polling(requestOf("alice")))
		synctest.Wait()
		h.DisconnectHere(Filter{})
		want(t, "reason", v.endReason(t), Disconnected)
		want(t, "closing", strings.Contains(v.received(), "event: sse.closing\n"), true)
	})
}
