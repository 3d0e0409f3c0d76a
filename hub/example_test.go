package hub_test

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/ea766355/caddy-sse/hub"
)

// response adapts an HTTP response to the interface [hub.Sink].
type response struct {
	http.ResponseWriter
	*http.ResponseController
}

// Abort lets a blocked write fail.
func (r response) Abort() { _ = r.SetWriteDeadline(time.Unix(1, 0)) }

// A server with net/http: it publishes one event for a topic and serves it to a client
// that connects later and asks for everything that is retained.
func Example() {
	h := hub.New(hub.Options{})
	defer h.Close()
	if err := h.Use(hub.NewMemory()); err != nil {
		panic(err)
	}
	settings := &hub.Settings{Heartbeat: 15 * time.Second, Timeout: time.Minute}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		topic, err := hub.ParseTopic(r.FormValue("topic"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		pending, err := h.Connect(r.Context(), hub.Request{
			Identity: hub.Identity{Topics: []hub.Target{topic}},
			Settings: settings,
			Position: hub.Earliest, // usually the request's Last-Event-ID
		})
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		pending.Open(response{w, http.NewResponseController(w)}).Serve(r.Context())
	}))
	defer server.Close()

	if _, err := h.Publish(context.Background(), hub.Event{
		Type: "news", Data: []byte("hello"), Targets: []hub.Target{{Kind: hub.Topic, Name: "greetings/en"}},
	}); err != nil {
		panic(err)
	}

	res, err := http.Get(server.URL + "?topic=greetings/*")
	if err != nil {
		panic(err)
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() && lines.Text() != "data: hello" {
		if name, ok := strings.CutPrefix(lines.Text(), "event: "); ok {
			fmt.Println(name)
		}
	}
	fmt.Println(lines.Text())
	// Output:
	// sse.connected
	// news
	// data: hello
}
