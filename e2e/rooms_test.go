package e2e

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestReconnectInManyRooms: a user in 1,000 rooms reconnects with a position. The user gets the
// missed events in at most twice the time of a user in one room.
func TestReconnectInManyRooms(t *testing.T) {
	const rooms, missed, rounds, attempts = 1000, 100, 41, 5
	names := make([]string, rooms)
	for i := range names {
		names[i] = fmt.Sprint("room/", i)
	}
	granted := map[string]string{"in one room": names[0], "in many rooms": strings.Join(names, ",")}
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user := r.Header.Get("X-User")
		w.Header().Set("X-SSE-User", user)
		w.Header().Set("X-SSE-Topics", granted[user])
		w.WriteHeader(http.StatusNoContent)
	}))
	defer app.Close()
	s := Start(t, Config{Plain: true, Routes: fmt.Sprintf(`forward_auth /rooms %s {
		uri /rooms
	}
	sse /rooms {
		user {http.reverse_proxy.header.X-SSE-User}
		grants {http.reverse_proxy.header.X-SSE-Topics}
	}`, app.Listener.Addr())})

	p := s.Publisher()
	if err := p.Publish(t.Context(), Event{To: To("topic", names[0])}); err != nil {
		t.Fatal(err)
	}
	position := p.Ledger.Entries()[0].Position.String()
	// Each event is for both users.
	var events []Event
	for i := range missed {
		events = append(events, Event{To: To("topic", names[0], names[rooms-1-i]), Size: 200})
	}
	if err := p.Publish(t.Context(), events...); err != nil {
		t.Fatal(err)
	}

	for _, protocol := range []Protocol{H1, H2} {
		t.Run(string(protocol), func(t *testing.T) {
			c := s.Client(protocol)
			defer c.Close()
			c.Path = "/rooms"
			reconnect := func(user string) time.Duration {
				began := time.Now()
				within, cancel := context.WithTimeout(t.Context(), Patience)
				defer cancel()
				stream, err := c.Open(within, Identity{User: user}, position)
				if err != nil {
					t.Fatal(err)
				}
				defer stream.Close()
				for got := 0; got < missed; {
					b, err := stream.Next()
					if err != nil {
						t.Fatal(err)
					}
					if b.Type == "sse.gap" {
						t.Fatalf("got a gap %s, want none", b.Data)
					}
					if b.hasData && !strings.HasPrefix(b.Type, "sse.") {
						got++
					}
				}
				return time.Since(began)
			}
			// Other load on the machine makes single times differ.
			var ratio float64
			for range attempts {
				times := make(map[string][]time.Duration)
				for range rounds {
					for user := range granted {
						times[user] = append(times[user], reconnect(user))
					}
				}
				median := func(user string) time.Duration {
					slices.Sort(times[user])
					return times[user][rounds/2]
				}
				one, many := median("in one room"), median("in many rooms")
				ratio = float64(many) / float64(one)
				t.Logf("a user in one room has the %d events after %s, one in %d rooms after %s: %.2f", missed, one, rooms, many, ratio)
				if ratio <= 2 {
					return
				}
			}
			t.Errorf("time of a user in %d rooms: got %.2f times that of a user in one room, want at most 2", rooms, ratio)
		})
	}
}
