package hub

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// TestPromise11RightsChangeAtAPosition: a node that was cut off makes a disconnect before it
// delivers the events that were published after the disconnect.
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
		want(t, "events of bob", bob.client(t).data(), "before still after")
		want(t, "events of mallory", mallory.client(t).data(), "before still")
		want(t, "control events of mallory", mallory.client(t).controlSummary(), "sse.closing disconnected")
		want(t, "reason of mallory", mallory.endReason(t), Disconnected)

		// The command concerns only connections that were open before it.
		again := open(t, there, requestOf("mallory"))
		publish(t, here, "again")
		synctest.Wait()
		want(t, "events of mallory after a reconnect", again.client(t).data(), "again")
	})
}

// An unreachable store does not delay a disconnect on the node that received the request.
func TestDisconnectWhileTheStoreIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, n := newSharedLog().join(t, Options{})
		v := open(t, h, requestOf("mallory"))
		synctest.Wait()
		n.set(true)
		ended, err := h.Disconnect(t.Context(), Filter{Users: []string{"mallory"}})
		want(t, "connections that were ended", ended, 1)
		if !errors.Is(err, ErrNotStored) || !errors.Is(err, errAway) {
			t.Errorf("error: got %v, want ErrNotStored and the cause", err)
		}
		want(t, "reason", v.endReason(t), Disconnected)
	})
}

// A command of a later version may remove a right, so a hub does not ignore it.
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
			want(t, "reason for "+body, v.endReason(t), Lifetime)
			want(t, "events for "+body, v.client(t).data(), "")
			want(t, "control events for "+body, v.client(t).controlSummary(), "sse.closing lifetime")
			v = open(t, h, requestOf("alice"))
			synctest.Wait()
		}
	})
}

// A command has a position. No client gets it, and its eviction causes no gap.
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
		want(t, "events", v.client(t).data(), "a b")
		want(t, "control events", v.client(t).controlSummary(), "")
		c := read(t, h, requestOf("alice").at(position))
		want(t, "events after a reconnect", c.data(), "b")
		want(t, "control events after a reconnect", c.controlSummary(), "")
		want(t, "retained", h.Stats().Events, 3)
	})
}

// A command that concerned very many connections is evicted in slices, because eviction holds the
// hub's lock.
func TestPromise12EvictionOfAChangeOfManyConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		const conns = 4 * evictAtOnce
		var lags Pending
		for range conns {
			lags = connect(t, h, requestOf("alice"))
		}
		if _, err := h.ChangeTopics(t.Context(), TopicChange{Add: []string{"news"}}); err != nil {
			t.Fatal(err)
		}
		publish(t, h, "x", topic("news"))
		h.mu.Lock()
		h.history.opts.MaxEvents = 1
		slices := 1
		for ; !h.history.evict(time.Now()); slices++ {
			h.mu.Unlock()
			checkBytes(t, h.history)
			h.mu.Lock()
		}
		h.mu.Unlock()
		want(t, "slices", slices, 4)
		want(t, "retained", h.Stats().Events, 1)
		checkBytes(t, h.history)
		var w recordingSink
		lags.catchUp(&w)
		c := (&client{t: t}).read(w.String())
		want(t, "events", c.data(), "x")
		want(t, "control events", c.controlSummary(), "sse.gap evicted")
	})
}

// A command does not concern a connection that was opened at its position or later.
func TestCommandConcernsEarlierConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Options{})
		earlier := open(t, h, requestOf("alice"))
		publish(t, h, "1")
		later := open(t, h, requestOf("alice"))
		synctest.Wait()
		h.execute(&Command{Disconnect: &Filter{Users: []string{"alice"}}}, 1)
		want(t, "reason of the earlier connection", earlier.endReason(t), Disconnected)
		publish(t, h, "2")
		synctest.Wait()
		want(t, "events of the later connection", later.client(t).data(), "2")
	})
}

// A connection that moves to another history gets no topics by the changes in it. The changes may
// be older than the connection, and the right may have ended since.
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
		want(t, "events of alice", alice.client(t).data(), "")
		want(t, "reason of alice", alice.endReason(t), Lifetime)
		want(t, "events of bob", bob.client(t).data(), "for all")

		// A change from now on is newer than the connection.
		if _, err := h.ChangeTopics(t.Context(), TopicChange{Filter: Filter{Users: []string{"bob"}}, Add: []string{"room/1"}}); err != nil {
			t.Fatal(err)
		}
		publish(t, h, "no secret", topic("room/1"))
		synctest.Wait()
		want(t, "events of bob", bob.client(t).data(), "for all no secret")
	})
}
