package natsstore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ea766355/caddy-sse/hub"
	"github.com/ea766355/caddy-sse/hub/storetest"
	"github.com/ea766355/caddy-sse/store/nats/natstest"
)

// kind returns the store for storetest. Each place is a stream.
func kind(servers *natstest.Servers, replicas int) storetest.Kind {
	return storetest.Kind{
		New: func(*testing.T) func(*testing.T) hub.Store {
			stream := newStream()
			return func(t *testing.T) hub.Store { return openStore(t, stream, replicas, servers.URLs()...) }
		},
		Durable: true,
	}
}

func TestStoreOnOneServer(t *testing.T) {
	t.Parallel()
	k := kind(natstest.Start(t, 1), 1)
	k.Faulty = func(t *testing.T) (func(*testing.T) hub.Store, storetest.Faults) {
		servers := natstest.Start(t, 1)
		proxy := natstest.NewProxy(t, servers.URLs()[0])
		stream := newStream()
		return func(t *testing.T) hub.Store { return openStore(t, stream, 1, proxy.URL()) }, storetest.Faults{
			Snapshot: servers.Snapshot,
			LoseAnswers: func() func() {
				proxy.Mute()
				return proxy.Mend
			},
		}
	}
	storetest.Run(t, k)
}

func TestStoreOnThreeServers(t *testing.T) {
	storetest.Run(t, kind(natstest.Start(t, 3), 3))
}

func TestNATSIsUnreachableAtStart(t *testing.T) {
	servers := natstest.New(t, 1, "")
	n := startNode(t, newStream(), 1, someOptions, servers.URLs()...)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err := n.Append(ctx, []hub.Entry{entry("early", "")})
	if !errors.Is(err, hub.ErrNotStored) || !strings.Contains(err.Error(), errAway.Error()) {
		t.Errorf("error of Append without NATS: got %v, want ErrNotStored", err)
	}
	servers.Start(0)
	if got := n.upTo(n.publish("late")).texts(); !slices.Equal(got, []string{"late"}) {
		t.Errorf("delivered records: got %q, want only the second", got)
	}
}

func TestNATSRestarts(t *testing.T) {
	servers := natstest.Start(t, 1)
	n := startNode(t, newStream(), 1, someOptions, servers.URLs()...)
	n.upTo(n.publish(numbered("before ", 10)...))
	servers.Kill(0)
	n.await("the loss of NATS", func() bool { return n.problem != nil })
	servers.Eventually("the loss is not noticed", func(context.Context) bool { return !n.conn.IsConnected() })
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := n.Append(ctx, []hub.Entry{entry("meanwhile", "")}); !errors.Is(err, hub.ErrNotStored) {
		t.Errorf("error of Append without NATS: got %v, want ErrNotStored", err)
	}
	servers.Start(0)
	got := n.upTo(n.publish(numbered("after ", 10)...)).texts()
	if want := append(numbered("before ", 10), numbered("after ", 10)...); !slices.Equal(got, want) {
		t.Errorf("delivered records: got %q, want %q", got, want)
	}
	if len(n.histories) != 1 {
		t.Errorf("histories: got %d, want 1", len(n.histories))
	}
}

func TestStreamOfTooLowLimitsIsRaised(t *testing.T) {
	servers := natstest.Start(t, 1)
	js, done := servers.JetStream()
	defer done()
	name := newStream()
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: name, Subjects: []string{"mine"}, MaxMsgs: 10, MaxBytes: 1 << 20, MaxAge: time.Minute, Duplicates: time.Second,
	}); err != nil {
		t.Fatal(err)
	}
	n := startNode(t, name, 1, someOptions, servers.URLs()...)
	n.upTo(n.publish("a"))
	found, err := js.Stream(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	c := found.CachedInfo().Config
	if c.MaxMsgs > 0 || c.MaxBytes < someOptions.MaxBytes || c.MaxAge < someOptions.MaxAge || c.Duplicates < hub.KeyLifetime || !c.AllowAtomicPublish {
		t.Errorf("config of the stream: got %+v, want higher limits", c)
	}

	// The same holds when a reload asks for more.
	more := someOptions
	more.MaxBytes *= 2
	n.Retain(more, 0)
	servers.Eventually("the stream is not raised", func(ctx context.Context) bool {
		info, err := found.Info(ctx)
		return err == nil && info.Config.MaxBytes >= more.MaxBytes
	})
}

func TestStreamThatCannotKeepAHistoryIsRefused(t *testing.T) {
	servers := natstest.Start(t, 1)
	js, done := servers.JetStream()
	defer done()
	for _, c := range []struct {
		config jetstream.StreamConfig
		want   string
	}{
		{jetstream.StreamConfig{Retention: jetstream.WorkQueuePolicy}, "retention"},
		{jetstream.StreamConfig{Discard: jetstream.DiscardNew}, "discards new messages"},
		{jetstream.StreamConfig{Subjects: []string{"a", "b"}}, "exactly one"},
		{jetstream.StreamConfig{Subjects: []string{"c.>"}}, "without wildcards"},
		{jetstream.StreamConfig{MaxMsgsPerSubject: 1}, "1 messages a subject"},
	} {
		c.config.Name = newStream()
		if c.config.Subjects == nil {
			c.config.Subjects = []string{c.config.Name}
		}
		c.config.MaxMsgs, c.config.MaxAge, c.config.Duplicates = 10, time.Minute, time.Second
		found, err := js.CreateStream(t.Context(), c.config)
		if err != nil {
			t.Fatal(err)
		}
		n := startNode(t, c.config.Name, 1, someOptions, servers.URLs()...)
		servers.Eventually("no refusal", func(context.Context) bool { return !errors.Is(n.unavailable(), errAway) })
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		_, err = n.Append(ctx, []hub.Entry{entry("a", "")})
		cancel()
		if !errors.Is(err, hub.ErrNotStored) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "nats stream edit "+c.config.Name) {
			t.Errorf("%+v: got error %v, want %q and the command to edit the stream", c.config, err, c.want)
		}
		n.await("the problem "+c.want, func() bool { return n.problem != nil && strings.Contains(n.problem.Error(), c.want) })
		n.mu.Lock()
		if n.open {
			t.Errorf("%+v: got an open history, want one that is not open", c.config)
		}
		n.mu.Unlock()
		// It may be a stream of another program.
		before := found.CachedInfo().Config
		info, err := found.Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(info.Config, before) {
			t.Errorf("config of the refused stream: got %+v, want it unchanged: %+v", info.Config, before)
		}
	}
}

// TestTooLarge: an event is too large for the servers, or for the stream. An operator may lower the limit
// of the stream at any time.
func TestTooLarge(t *testing.T) {
	servers := natstest.Start(t, 1)
	js, done := servers.JetStream()
	defer done()
	n := startNode(t, newStream(), 1, someOptions, servers.URLs()...)
	n.publish("small")
	refused := func(entries []hub.Entry, index int, remedy string) {
		t.Helper()
		_, err := n.Append(t.Context(), entries)
		refused, ok := errors.AsType[*hub.BatchError](err)
		if !ok || refused.Index != index || !errors.Is(err, hub.ErrTooLarge) || !strings.Contains(err.Error(), remedy) {
			t.Errorf("error of Append: got %v, want ErrTooLarge and %q", err, remedy)
		}
	}
	refused([]hub.Entry{entry("small", ""), entry(strings.Repeat("x", 1<<20), "")}, 1, "max_payload")

	for _, size := range []int{10_000, 2_000} {
		c := n.current(t, js)
		c.MaxMsgSize = int32(size)
		if _, err := js.UpdateStream(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		large := entry(strings.Repeat("x", size), "")
		if size == 10_000 {
			refused([]hub.Entry{large}, 0, "max-msg-size")
		}
		refused([]hub.Entry{entry("small", ""), large}, 1, "max-msg-size")
		n.publish("small")
	}
}

// current returns the config of the node's stream.
func (n *node) current(t *testing.T, js jetstream.JetStream) jetstream.StreamConfig {
	t.Helper()
	found, err := js.Stream(t.Context(), n.config.stream)
	if err != nil {
		t.Fatal(err)
	}
	return found.CachedInfo().Config
}

// TestStreamIsEdited edits the stream while nodes run. All nodes adapt to the change, or report why they
// cannot.
func TestStreamIsEdited(t *testing.T) {
	t.Parallel()
	servers := natstest.Start(t, 1)
	js, done := servers.JetStream()
	defer done()
	stream := newStream()
	nodes := []*node{startNode(t, stream, 1, someOptions, servers.URLs()...), startNode(t, stream, 1, someOptions, servers.URLs()...)}
	var last hub.Position
	works := func(what string) {
		t.Helper()
		for _, n := range nodes {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			_, err := n.Append(ctx, []hub.Entry{entry("one", "")})
			if err == nil {
				var stored []hub.Stored
				if stored, err = n.Append(ctx, []hub.Entry{entry("two", ""), entry("three", "")}); err == nil {
					last = stored[1].Position
				}
			}
			cancel()
			if err != nil {
				t.Errorf("%s: got error %v of Append, want none", what, err)
			}
		}
		for _, n := range nodes {
			n.upTo(last)
			if len(n.histories) != 1 {
				t.Errorf("%s: got %d histories, want 1", what, len(n.histories))
			}
		}
	}
	edit := func(change func(*jetstream.StreamConfig)) {
		t.Helper()
		c := nodes[0].current(t, js)
		change(&c)
		if _, err := js.UpdateStream(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	works("after its creation")
	subject := nodes[0].current(t, js).Subjects[0]
	edit(func(c *jetstream.StreamConfig) { c.Subjects = []string{"another"} })
	works("with another subject")

	// An operator gives the subject to another stream.
	edit(func(c *jetstream.StreamConfig) { c.Subjects = []string{"a.third"} })
	other, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: newStream(), Subjects: []string{"another", subject}, AllowAtomicPublish: true, FirstSeq: 1_000_000})
	if err != nil {
		t.Fatal(err)
	}
	works("with another stream on its subject")
	if err := js.DeleteStream(t.Context(), other.CachedInfo().Config.Name); err != nil {
		t.Fatal(err)
	}

	edit(func(c *jetstream.StreamConfig) {
		c.AllowAtomicPublish = false
		c.MaxMsgs, c.MaxBytes, c.MaxAge, c.Duplicates = 10, 1<<20, time.Minute, time.Second
	})
	servers.Eventually("the limits are not raised", func(context.Context) bool {
		c := nodes[0].current(t, js)
		return c.AllowAtomicPublish && c.MaxMsgs < 0 && c.MaxBytes > someOptions.MaxBytes && c.MaxAge >= someOptions.MaxAge && c.Duplicates >= hub.KeyLifetime
	})
	works("with limits that were lowered")

	for want, change := range map[string]func(*jetstream.StreamConfig){
		"exactly one":               func(c *jetstream.StreamConfig) { c.Subjects = append(c.Subjects, "b") },
		"discards new messages":     func(c *jetstream.StreamConfig) { c.Discard = jetstream.DiscardNew },
		"filled from other streams": func(c *jetstream.StreamConfig) { c.Sources = []*jetstream.StreamSource{{Name: "none"}} },
		"7 messages a subject":      func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject = 7 },
		"does not acknowledge":      func(c *jetstream.StreamConfig) { c.NoAck = true },
	} {
		before := nodes[0].current(t, js)
		edit(change)
		for _, n := range nodes {
			n.wake() // otherwise it would look within five seconds
			n.await(want, func() bool { return n.problem != nil && strings.Contains(n.problem.Error(), want) })
		}
		if _, err := js.UpdateStream(t.Context(), before); err != nil {
			t.Fatal(err)
		}
		for _, n := range nodes {
			n.wake()
		}
		works("after the repair of: " + want)
	}
}

// TestKeysOutliveTheServer: keys are remembered after a restart of the server, even after their
// events were dropped.
func TestKeysOutliveTheServer(t *testing.T) {
	servers := natstest.Start(t, 1)
	few := someOptions
	few.MaxEvents = 10
	n := startNode(t, newStream(), 1, few, servers.URLs()...)
	first, err := n.Append(t.Context(), []hub.Entry{entry("a", "k")})
	if err != nil {
		t.Fatal(err)
	}
	batch := make([]hub.Entry, 1000)
	for range 5 {
		for i := range batch {
			batch[i] = entry("b", "")
		}
		if _, err := n.Append(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
	}
	servers.Kill(0)
	servers.Start(0)
	n.publish("the server is back")
	again, err := n.Append(t.Context(), []hub.Entry{entry("a", "k")})
	if err != nil || !again[0].Duplicate || again[0].Position != first[0].Position {
		t.Errorf("the key: got %+v, %v, want a duplicate at %v", again, err, first[0].Position)
	}
}

// TestRefusalsHaveTheReason: the answer and the status have an error of missing permissions.
func TestRefusalsHaveTheReason(t *testing.T) {
	servers := natstest.New(t, 1, `accounts {
		A {
			jetstream { max_file: 1MB, max_mem: 1MB }
			users: [
				{ user: small, password: p }
				{ user: mute, password: p, permissions { publish { deny: "$JS.API.>" } } }
				{ user: reader, password: p, permissions { publish { deny: "sse.*.events.>" } } }
			]
		}
		B { users: [ { user: none, password: p } ] }
		C {
			jetstream { max_file: 1GB, max_mem: 1MB }
			users: [
				{ user: writer, password: p }
				{ user: listener, password: p, permissions { publish { deny: "sse.*.events.>" } } }
			]
		}
	}`)
	servers.Start(0)
	login := func(user string) string { return strings.Replace(servers.URLs()[0], "//", "//"+user+"@", 1) }
	servers.Eventually("the server does not start", func(context.Context) bool {
		conn, err := nats.Connect(login("small:p"))
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	stream := newStream()
	startNode(t, stream, 1, someOptions, login("writer:p")).publish("a")
	for user, want := range map[string]string{
		"small:wrong": "Authorization Violation",
		"small:p":     "insufficient storage",
		"mute:p":      "$JS.API",
		"none:p":      "not enabled for account",
		"listener:p":  "sse." + stream + ".events",
	} {
		n := startNode(t, stream, 1, someOptions, login(user))
		if user == "listener:p" {
			n.await("the history", func() bool { return n.open })
		} else {
			n.wake() // otherwise it would look within five seconds
			n.await(want, func() bool { return n.problem != nil && strings.Contains(n.problem.Error(), want) })
		}
		servers.Eventually("the error of Append by "+user+" does not have the reason "+want, func(ctx context.Context) bool {
			ctx, cancel := context.WithTimeout(ctx, 2*attemptTimeout)
			defer cancel()
			_, err := n.Append(ctx, []hub.Entry{entry("a", "")})
			if err == nil || strings.Contains(err.Error(), "wrong") {
				t.Fatalf("%s: got error %v of Append, want %q, and not the password", user, err, want)
			}
			return strings.Contains(err.Error(), want)
		})
	}
}

// TestMissingPermissionsAreReported: a node may not read the stream, or compare it with its history. The
// status says so from the start, and not only when the node connects again. It goes on to say so, also if
// there is nothing to read. The log says it once.
func TestMissingPermissionsAreReported(t *testing.T) {
	denied := map[string]string{"reader": "$JS.API.CONSUMER.MSG.NEXT", "comparer": "$JS.API.STREAM.MSG.GET"}
	var users strings.Builder
	for user, subject := range denied {
		fmt.Fprintf(&users, "{ user: %s, password: p, permissions { publish { deny: %q } } }\n", user, subject+".>")
	}
	servers := natstest.New(t, 1, "accounts { A { jetstream { max_file: 1GB, max_mem: 1MB }, users: [\n"+users.String()+"] } }")
	servers.Start(0)
	for _, name := range []string{"AbCdEfGh", "1bCdEfGh", "12345678"} {
		if got := varying.ReplaceAllString(`to "a.`+name+`"`, "0"); got != `to "a.0` {
			t.Errorf("a subject that ends with %s: got %q, want it without", name, got)
		}
	}
	for user, subject := range denied {
		n := startNode(t, newStream(), 1, someOptions, strings.Replace(servers.URLs()[0], "//", "//"+user+":p@", 1))
		const tries = 4
		for i := range tries {
			n.await(subject, func() bool { return n.problem != nil && strings.Contains(n.problem.Error(), subject) })
			n.mu.Lock()
			n.problem = errClosed
			if i == 0 {
				n.worked = 0 // nothing was known of the first consumer
			}
			n.mu.Unlock()
		}
		n.mu.Lock()
		if n.worked == tries-1 { // a machine that stops for two seconds may hide the failure of a consumer
			t.Errorf("%s: got the status of a store that works after each try, want the problem", user)
		}
		n.mu.Unlock()
		n.store.mu.Lock()
		logged := 0
		for problem := range n.logged {
			if strings.Contains(problem, subject) {
				logged++
			}
		}
		if logged != 1 {
			t.Errorf("%s: got %d lines of the log, want 1: %v", user, logged, n.logged)
		}
		n.store.mu.Unlock()
	}
}

// TestWorksAgainAfterSilence: a server that was silent for a moment is used again. Then the problems before
// it are over: the next ones are logged again.
func TestWorksAgainAfterSilence(t *testing.T) {
	t.Parallel()
	servers := natstest.Start(t, 1)
	proxy := natstest.NewProxy(t, servers.URLs()[0])
	n := startNode(t, newStream(), 1, someOptions, proxy.URL())
	n.upTo(n.publish("first"))
	proxy.Mute()
	n.await("a heartbeat that is missing", func() bool { return errors.Is(n.problem, jetstream.ErrNoHeartbeat) })
	n.reportProblem(errors.New("a problem of that time"))
	proxy.Mend()
	n.upTo(n.publish("second"))
	servers.Eventually("the problems are not over", func(context.Context) bool {
		n.store.mu.Lock()
		defer n.store.mu.Unlock()
		return n.lastProblem == nil && len(n.logged) == 0
	})
}

// TestRightsInTheDocs: a node does all it must with the rights of a NATS user that docs/scaling.md has.
func TestRightsInTheDocs(t *testing.T) {
	page, err := os.ReadFile("../../docs/scaling.md")
	if err != nil {
		t.Fatal(err)
	}
	rights := regexp.MustCompile("(?s)```text\n(permissions .*?)```").FindSubmatch(page)
	if rights == nil {
		t.Fatal("rights of a NATS user: got none in docs/scaling.md, want some")
	}
	servers := natstest.New(t, 1, fmt.Sprintf("accounts { A { jetstream { max_file: 1GB, max_mem: 1MB }, users: [ { user: node, password: p, %s } ] } }", rights[1]))
	servers.Start(0)
	login := strings.Replace(servers.URLs()[0], "//", "//node:p@", 1)
	nodes := []*node{startNode(t, "SSE_default", 1, someOptions, login), startNode(t, "SSE_default", 1, someOptions, login)}
	for _, n := range nodes {
		n.publish("one")
		if _, err := n.Append(t.Context(), []hub.Entry{entry("two", ""), entry("three", "k")}); err != nil {
			t.Error(err)
		}
		if _, err := n.Append(t.Context(), []hub.Entry{entry("four", ""), entry("five", "k")}); err != nil {
			t.Error(err)
		}
		if err := n.Join("node", func([]byte, int) []byte { return []byte("answer") }); err != nil {
			t.Error(err)
		}
	}
	servers.Eventually("no answer of the other node", func(ctx context.Context) bool {
		answers := 0
		nodes[0].Ask(ctx, nil, func([]byte) bool { answers++; return true })
		return answers > 0
	})
	for direct := range 2 {
		if err := nodes[0].edit(t, func(c *jetstream.StreamConfig) { c.AllowDirect, c.MaxMsgs = direct == 1, 10 }); err != nil {
			t.Fatal(err)
		}
		servers.Kill(0)
		nodes[0].await("the loss of NATS", func() bool { return nodes[0].problem != nil })
		servers.Start(0)
		nodes[1].upTo(nodes[0].publish("back"))
		known, err := nodes[0].awaitStream(t.Context())
		if err == nil {
			err = nodes[0].startEpoch(t.Context(), known)
		}
		if err != nil {
			t.Error(err)
		}
	}
	for _, n := range nodes {
		n.store.mu.Lock()
		if n.denied != nil {
			t.Errorf("with the rights of the page: got %v, want no refusal", n.denied)
		}
		n.store.mu.Unlock()
	}
}

// edit changes the config of the node's stream, with the rights of the node.
func (n *node) edit(t *testing.T, change func(*jetstream.StreamConfig)) error {
	c := n.current(t, n.js)
	change(&c)
	_, err := n.js.UpdateStream(t.Context(), c)
	return err
}
