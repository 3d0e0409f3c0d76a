package hub

import (
	"fmt"
	"testing"
	"testing/synctest"
)

func TestPromise6OnlyTheAddressed(t *testing.T) {
	h := newHub(t, Options{})
	start := h.Stats().Head.String()
	publish(t, h, "bob", user("bob"))
	publish(t, h, "s2", Target{Session, "s2"})
	publish(t, h, "secret", topic("secret/bob"))
	publish(t, h, "connection", Target{Connection, "bob"})
	publish(t, h, "alice", user("alice"))
	publish(t, h, "all")

	alice, bob, anonymous := requestOf("alice", "public/*", "alice/*"), requestOf("bob", "secret/*"), requestOf("")
	bob.Session = "s2"
	for _, position := range []string{start, Earliest, "", "garbage", "abcdefgh-1"} {
		replays := position != ""
		check := func(who string, r Request, data string) {
			t.Helper()
			if !replays {
				data = ""
			}
			want(t, fmt.Sprintf("%s at %q", who, position), read(t, h, r.at(position)).data(), data)
		}
		check("alice", alice, "alice all")
		check("bob", bob, "bob s2 secret all")
		check("anonymous", anonymous, "all")
		check("a session with the name of the user alice", Request{Identity: Identity{Session: "alice"}, Settings: defaultSettings}, "all")
		check("topics with names of users and sessions", requestOf("", "alice", "bob", "s2"), "all")
		check("a user with the name of a topic", requestOf("secret/bob"), "all")
	}

	t.Run("another identity with the old position", func(t *testing.T) {
		c := read(t, h, bob.at(start))
		c.events = nil
		publish(t, h, "bob again", user("bob"))
		publish(t, h, "alice again", user("alice"))
		want(t, "events of alice", c.resume(h, alice).data(), "alice again")
	})
	t.Run("the empty user", func(t *testing.T) {
		for _, kind := range []Kind{User, Session, Connection, Topic} {
			_, err := h.Publish(t.Context(), Event{Targets: []Target{{kind, ""}}})
			wantErr(t, err, ErrInvalid)
		}
	})
	t.Run("live", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := newHub(t, Options{})
			a, b, n := open(t, h, alice), open(t, h, bob), open(t, h, anonymous)
			publish(t, h, "1", user("alice"))
			publish(t, h, "2", Target{Session, "s2"})
			publish(t, h, "3", topic("secret/x"))
			publish(t, h, "4", Target{Connection, n.ID()})
			publish(t, h, "5", topic("alice/x"), user("bob"))
			synctest.Wait()
			want(t, "events of alice", a.client(t).data(), "1 5")
			want(t, "events of bob", b.client(t).data(), "2 3 5")
			want(t, "events of the anonymous client", n.client(t).data(), "4")
		})
	})
}

func TestPromise10HubsAreIslands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newHub(t, Options{}), newHub(t, Options{})
		if a.history.epoch == b.history.epoch {
			t.Fatalf("epochs: got %s twice, want different ones", a.history.epoch)
		}
		inA, inB := open(t, a, requestOf("alice", "*")), open(t, b, requestOf("alice", "*"))
		keyed := func(data string) Event {
			return Event{Data: []byte(data), Targets: []Target{{}, user("alice"), topic("x"), {Connection, inB.ID()}}, Key: "k"}
		}
		for h, data := range map[*Hub]string{a: "a", b: "b"} {
			if r, err := h.Publish(t.Context(), keyed(data)); err != nil || r[0].Duplicate {
				t.Errorf("publish with a key that the other hub knows: got %v, %v, want no duplicate", r, err)
			}
		}
		synctest.Wait()
		want(t, "events in a", inA.client(t).data(), "a")
		want(t, "events in b", inB.client(t).data(), "b")
		moved := inA.client(t).resume(b, requestOf("alice"))
		want(t, "with a position of the other hub", moved.controlSummary()+": "+moved.data(), "sse.gap epoch: a b")
		want(t, "connections of b that a ends", a.DisconnectHere(Filter{IDs: []string{inB.ID()}}), 0)
		a.Close()
		publish(t, b, "still open")
		synctest.Wait()
		want(t, "events in b", inB.client(t).data(), "b still open")
	})
}
