package caddysse_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// The rights of a user change after the app has answered and before the stream opens. The client
// is refused, so that it asks the app again.
func TestPromise11RightsOfRequestsInFlight(t *testing.T) {
	for name, change := range map[string]func(s *server) answer{
		"logout": func(s *server) answer {
			return s.api("DELETE", "/sse/connections?user=alice", "")
		},
		"removal from a room": func(s *server) answer {
			return s.api("PATCH", "/sse/connections?user=alice", `{"remove":["room/1"]}`, "application/json")
		},
	} {
		t.Run(name, func(t *testing.T) {
			asked, proceed := make(chan struct{}), make(chan struct{})
			app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("X-Sse-User", "alice")
				w.Header().Set("X-Sse-Rooms", "room/1")
				asked <- struct{}{}
				<-proceed
			}))
			defer app.Close()
			s := start(t, "", "forward_auth "+app.Listener.Addr().String()+" {\n uri /\n}\n"+
				"sse /events {\n user {http.reverse_proxy.header.X-Sse-User}\n grants {http.reverse_proxy.header.X-Sse-Rooms}\n}")
			opened := make(chan *stream)
			go func() { opened <- openWith(t, plain, "http://"+s.http+"/events") }()
			<-asked
			if a := change(s); a.status != http.StatusOK {
				t.Errorf("response to the change: got %d %s, want 200", a.status, a.body)
			}
			s.send(`{"topic":"room/1","text":"secret"}`)
			proceed <- struct{}{}
			st := <-opened
			defer st.close()
			if first := st.connected; first.event != "sse.closing" || !strings.Contains(first.data, `"reason":"lifetime"`) {
				t.Errorf("first block: got %+v, want sse.closing with the reason lifetime", first)
			}
			if rejected := s.metric(`caddy_sse_rejected_total{hub="default",reason="lifetime"}`); rejected != 1 {
				t.Errorf("counted refusals: got %g, want 1", rejected)
			}
			go func() { // the client reconnects
				<-asked
				proceed <- struct{}{}
			}()
			s.open("/events").close()
		})
	}
}
