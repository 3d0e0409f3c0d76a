package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// WhyConfig returns a config for the causes of WhyTest: hubs for each kind of eviction, and limits.
// store is a store block for each hub, or empty.
func WhyConfig(store string) Config {
	c := Config{
		Hub:    store,
		Stream: "max_connections_per_user 2\n heartbeat 500ms",
		Routes: "sse_api /sse/*\n",
	}
	for hub, options := range map[string]string{
		"count": "history 5",
		"size":  "history_size 64KiB\n max_event_size 8KiB",
		"age":   "history 100000 5s",
	} {
		c.Global += fmt.Sprintf("sse %s {\n %s\n %s\n}\n", hub, options, store)
		c.Routes += fmt.Sprintf("sse /%s {\n hub %s\n user {http.request.header.X-User}\n}\n", hub, hub)
	}
	return c
}

// WhyTest causes each reason for which an event does not arrive, and asks the API for the reason.
// It publishes to one server, connects to another, and asks a third. They may be the same server.
type WhyTest struct {
	Publish, Serve, Ask *Server

	t testing.TB
}

// secret is a part of every payload. No answer may have it.
const secret = "secret-payload"

// whyAnswer is the part of an answer that WhyTest checks.
type whyAnswer struct {
	Summary string
	State   string
	Event   struct{ Known, Bound string }
	Repeats int
	Answers []struct{ Summary, Node, Fate, Connection, Reason, Came, Added, Removed string }
	Missing []string
}

// Run runs each cause as a subtest.
func (w WhyTest) Run(t *testing.T) {
	for _, c := range []struct {
		name  string
		hub   string // empty: default
		cause func(w *WhyTest, user string) (id string)
		state string
		fate  string // of the first answer; empty: no answer
		says  string // a part of the summary
	}{
		{"delivered", "", (*WhyTest).delivered, "delivered", "delivered", "written to its socket by 2"},
		{"came back with its position", "", (*WhyTest).reconnectedWithPosition, "delivered", "delivered", "with a position before the event: replayed"},
		{"client lags", "", (*WhyTest).lags, "pending", "pending", "which lags by "},
		{"topic it never had", "", (*WhyTest).otherTopic, "not_addressed", "not_addressed", `the event was for topic "news/9". It has the topics news/1, news/2.`},
		{"topic removed", "", (*WhyTest).topicRemoved, "not_addressed", "not_addressed", "That topic was removed from it at "},
		{"another user", "", (*WhyTest).otherUser, "not_addressed", "not_addressed", `the event was for user "somebody else"`},
		{"came back without a position", "", (*WhyTest).reconnectedWithoutPosition, "not_connected", "came_later", "after the event, without a position: it began at the head"},
		{"came back past it", "", (*WhyTest).reconnectedPastIt, "not_connected", "came_later", "which is past the event"},
		{"did not come back", "", (*WhyTest).didNotReconnect, "not_connected", "ended_earlier", "had ended (gone) at "},
		{"refused", "", (*WhyTest).refused, "refused", "refused", "A connection was refused (max_connections_per_user) at 2"},
		{"ttl passed", "", (*WhyTest).ttlPassed, "expired", "expired", "its ttl passed at 2"},
		{"replaced", "", (*WhyTest).replaced, "replaced", "replaced", "the newest of its slot"},
		{"evicted by count", "count", (*WhyTest).evicted, "evicted", "passed", "it was evicted by count, by 2"},
		{"evicted by size", "size", (*WhyTest).evicted, "evicted", "passed", "it was evicted by size, by 2"},
		{"evicted by age", "age", (*WhyTest).evictedByAge, "evicted", "passed", "it was evicted by age, by 2"},
		{"another epoch", "", (*WhyTest).otherEpoch, "no_event", "", "it is of another epoch"},
		{"never published", "", (*WhyTest).neverPublished, "no_event", "", "it was never published here"},
		{"same key", "", (*WhyTest).sameKey, "delivered", "delivered", "It is also the answer to 1 duplicate with the same key"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := w
			w.t = t
			user := strings.ReplaceAll(c.name, " ", "-")
			id := c.cause(&w, user)
			w.await(c.hub, id)
			// A client may have an event before the server knows that it was written.
			Wait(t, Patience, "the answer", func() error {
				a := w.why(c.hub, user, id)
				fate := ""
				if len(a.Answers) > 0 {
					fate = a.Answers[0].Fate
				}
				if a.State != c.state || fate != c.fate || !strings.Contains(a.Summary, c.says) || a.Missing != nil {
					return fmt.Errorf("state, fate and summary: got %s, %s (missing %q): %s\nwant %s, %s: %s", a.State, fate, a.Missing, a.Summary, c.state, c.fate, c.says)
				}
				t.Log(a.Summary)
				return nil
			})
		})
	}
}

// RunRestarted restarts the server, which then does not know who was connected before.
func (w WhyTest) RunRestarted(t *testing.T) {
	w.t = t
	w.open("", "restarted", nil, "")
	id := w.publish("send", "", fmt.Sprintf(`{"user":"restarted","data":"%s"}`, secret))
	w.Serve.Kill()
	w.Serve.Run()
	w.await("", id)
	a := w.why("", "restarted", id)
	if a.State != "unknown" || !strings.Contains(a.Summary, "started at 2") || !strings.Contains(a.Summary, "and does not know who was connected then") {
		t.Errorf("state and summary: got %s: %s, want unknown, with the start of the server", a.State, a.Summary)
	}
	t.Log(a.Summary)
}

// client returns a client of the server w.Serve.
func (w *WhyTest) client() *Client {
	c := w.Serve.Client(H1)
	w.t.Cleanup(c.Close)
	return c
}

// open opens a stream and waits for sse.connected.
func (w *WhyTest) open(hub, user string, topics []string, from string) *Stream {
	w.t.Helper()
	return w.openBy(w.client(), hub, user, topics, from)
}

func (w *WhyTest) openBy(c *Client, hub, user string, topics []string, from string) *Stream {
	w.t.Helper()
	if hub != "" {
		c.Path = "/" + hub
	}
	ctx, cancel := context.WithCancel(context.Background())
	w.t.Cleanup(cancel)
	s, err := c.Open(ctx, Identity{User: user, Topics: topics}, from)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(s.Close)
	if b, err := s.Next(); err != nil || b.Type != "sse.connected" {
		w.t.Fatalf("first event of %s: got %+v, %v, want sse.connected", user, b, err)
	}
	return s
}

// read reads up to the event with this id.
func (w *WhyTest) read(s *Stream, id string) {
	w.t.Helper()
	for {
		b, err := s.Next()
		if err != nil {
			w.t.Fatal(err)
		}
		if b.Type == "sse.gap" {
			w.t.Fatalf("a gap %s comes before the event %s", b.Data, id)
		}
		if b.hasData && b.ID.String() == id {
			return
		}
	}
}

// leave closes a stream and waits until the server has noticed.
func (w *WhyTest) leave(s *Stream, user string) {
	w.t.Helper()
	id := s.Connected.ConnectionID
	s.Close()
	Wait(w.t, Patience, "the connection to end", func() error {
		if strings.Contains(string(w.Serve.admin("/sse/connections?user="+url.QueryEscape(user))), id) {
			return fmt.Errorf("%s is open", id)
		}
		return nil
	})
}

// send publishes to a user of the default hub. more is further JSON fields.
func (w *WhyTest) send(user, more string) (id string) {
	w.t.Helper()
	return w.publish("send", "", fmt.Sprintf(`{"user":%q,"data":"%s"%s}`, user, secret, more))
}

func (w *WhyTest) publish(call, hub, body string) (id string) {
	w.t.Helper()
	var receipt struct{ ID string }
	w.call(w.Publish, http.MethodPost, "/sse/"+call+"?hub="+hubOr(hub), body, &receipt)
	return receipt.ID
}

func hubOr(hub string) string {
	if hub == "" {
		return "default"
	}
	return hub
}

// await waits until all servers have the event with this id.
func (w *WhyTest) await(hub, id string) {
	w.t.Helper()
	want, err := ParsePosition(id)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, s := range []*Server{w.Publish, w.Serve, w.Ask} {
		Wait(w.t, Patience, "the nodes to have the event", func() error {
			head, err := ParsePosition(s.StatusOf(hubOr(hub)).Head)
			if err == nil && head.Epoch == want.Epoch && head.Seq < want.Seq && want.Seq-head.Seq < 1000 {
				err = fmt.Errorf("the head is %s", head)
			}
			return err
		})
	}
}

// why asks through both endpoints, and checks that the answer takes less than a second.
func (w *WhyTest) why(hub, user, id string) (a whyAnswer) {
	w.t.Helper()
	query := "/sse/why?" + url.Values{"hub": {hubOr(hub)}, "user": {user}, "id": {id}}.Encode()
	fastest := time.Hour
	for attempt := 0; attempt < 2 || attempt < 20 && fastest > time.Second; attempt++ { // the machine may be busy
		port := []int{w.Ask.HTTP, w.Ask.Admin}[attempt%2]
		began := time.Now()
		body := w.get(port, query)
		fastest = min(fastest, time.Since(began))
		if strings.Contains(body, secret) {
			w.t.Errorf("answer: got one with the payload, want none: %s", body)
		}
		a = whyAnswer{}
		if err := json.Unmarshal([]byte(body), &a); err != nil {
			w.t.Fatal(err)
		}
	}
	if fastest > time.Second {
		w.t.Errorf("time of the answer: got %s, want at most a second", fastest)
	}
	return a
}

func (w *WhyTest) get(port int, path string) string {
	w.t.Helper()
	resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d%s", port, path))
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		w.t.Fatalf("%s: %s %s, %v", path, resp.Status, body, err)
	}
	return string(body)
}

// call sends a request to the admin API.
func (w *WhyTest) call(s *Server, method, path, body string, into any) {
	w.t.Helper()
	req, err := http.NewRequest(method, fmt.Sprintf("http://127.0.0.1:%d%s", s.Admin, path), bytes.NewReader([]byte(body)))
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		w.t.Fatalf("%s %s: %s %s, %v", method, path, resp.Status, text, err)
	}
	if err := json.Unmarshal(text, into); err != nil {
		w.t.Fatal(err)
	}
}
