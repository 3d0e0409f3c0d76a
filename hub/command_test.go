package hub

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// TestPromise11RightsChangeAtAPosition: a node that was away carries a disconnect
// out before it delivers what was published after it.
func TestPromise11RightsChangeAtAPosition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newSharedLog()
		here, _ := log.join(t, Options{})
		there, cutOff := log.join(t, Options{})
		mallory, bob := open(t, there, requestOf("mallory")), open(t, there, requestOf("bob"))
		publish(t, here, "before")
		synctest.Wait()
		cutOff.set(true)

		publish(t, here, "still")
		if _, err := here.Disconnect(t.Context(), Filter{Users: []string{"mallory"}}); err != nil {
			t.Fatal(err)
		}
		publish(t, here, "after")
		time.Sleep(2 * time.Minute)
		cutOff.set(false)
		synctest.Wait()
		want(t, "bob got", bob.client(t).data(), "before still after")
		want(t, "mallory got", mallory.client(t).data(), "before still")
		want(t, "mallory was told", mallory.client(t).controlSummary(), "sse.closing disconnected")
		want(t, "mallory ended", mallory.endReason(t), Disconnected)

		// The command concerns those who were there.
		again := open(t, there, requestOf("mallory"))
		publish(t, here, "again")
		synctest.Wait()
		want(t, "mallory, who came back, got", again.client(t).data(), "again")
	})
}

// A store that is out of reach delays no disconnect on the node that was asked.
func TestDisconnectWhileTheStoreIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, n := newSharedLog().join(t, Options{})
		v := open(t, h, requestOf("mallory"))
		synctest.Wait()
		n.set(true)
		ended, err := h.Disconnect(t.Context(), Filter{Users: []string{"mallory"}})
		want(t, "ended", ended, 1)
		if !errors.Is(err, ErrNotStored) || !errors.Is(err, errAway) {
			t.Errorf("the error is %v, want ErrNotStored, and why", err)
		}
		want(t, "it ended", v.endReason(t), Disconnected)
	})
}

// A command of a later version may take a right away, so it is not passed over.
func TestCommandOfALaterVersion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newSharedLog()
		h, n := log.join(t, Options{})
		v := open(t, h, requestOf("alice"))
		synctest.Wait()
		for _, body := range []string{`{"disconnect":{"users":["x"],"tenants":["y"]}}`, `{"rename":{}}`, `{`, ``} {
			if _, err := n.Append(t.Context(), []Entry{{Data: append([]byte{recordCommand}, body...)}}); err != nil {
				t.Fatal(err)
			}
			publish(t, h, "after", user("alice"))
			want(t, "for "+body+" it ended", v.endReason(t), Lifetime)
			want(t, "for "+body+" it got", v.client(t).data(), "")
			want(t, "for "+body+" it was told", v.client(t).controlSummary(), "sse.closing lifetime")
			v = open(t, h, requestOf("alice"))
			synctest.Wait()
		}
	})
}

// A command takes a position, is sent to nobody, and is lost to nobody.
func TestCommandsAreNoEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, _ := newSharedLog().join(t, Options{MaxEvents: 3})
		v := open(t, h, requestOf("alice"))
		publish(t, h, "a")
		synctest.Wait()
		position := v.client(t).position
		for range 5 {
			if _, err := h.Disconnect(t.Context(), Filter{Users: []string{"nobody"}}); err != nil {
				t.Fatal(err)
			}
		}
		publish(t, h, "b")
		synctest.Wait()
		want(t, "she got", v.client(t).data(), "a b")
		want(t, "and was told", v.client(t).controlSummary(), "")
		c := read(t, h, requestOf("alice").at(position))
		want(t, "who comes back gets", c.data(), "b")
		want(t, "and is told", c.controlSummary(), "")
		want(t, "events counted", h.Stats().Events, 3)
	})
}

// A connection that was opened at the command's position, or later, goes on.
func TestCommandConcernsEarlierConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		earlier := open(t, h, requestOf("alice"))
		publish(t, h, "1")
		later := open(t, h, requestOf("alice"))
		synctest.Wait()
		h.execute(&Command{Disconnect: &Filter{Users: []string{"alice"}}}, 1)
		want(t, "the earlier one ended", earlier.endReason(t), Disconnected)
		publish(t, h, "2")
		synctest.Wait()
		want(t, "the later one got", later.client(t).data(), "2")
	})
}

// Who moves over to another history is given nothing by the changes in it: they may be
// older than the connection, and the right may have ended since.
func TestPromise11ChangesInAnotherHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		alice, bob := open(t, h, requestOf("alice")), open(t, h, requestOf("bob"))
		synctest.Wait()
		other := newCopyableStore(NewEpoch(), false, nil)
		other.add(encodeCommand(&Command{Topics: &TopicChange{Filter: Filter{Users: []string{"alice"}}, Add: []string{"room/1"}}}))
		useStore(t, h, other)
		publish(t, h, "secret", topic("room/1"))
		publish(t, h, "for all")
		synctest.Wait()
		want(t, "alice got", alice.client(t).data(), "")
		want(t, "alice ended", alice.endReason(t), Lifetime)
		want(t, "bob got", bob.client(t).data(), "for all")

		// What changes from now on is known to be newer.
		if _, err := h.ChangeTopics(t.Context(), TopicChange{Filter: Filter{Users: []string{"bob"}}, Add: []string{"room/1"}}); err != nil {
			t.Fatal(err)
		}
		publish(t, h, "no secret", topic("room/1"))
		synctest.Wait()
		want(t, "bob got", bob.client(t).data(), "for all no secret")
	})
}
