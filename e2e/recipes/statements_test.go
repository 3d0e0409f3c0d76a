package recipes

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/ea766355/caddy-sse/e2e"
)

// TestStatements: statements of the docs about the blocks of a stream are true.
func TestStatements(t *testing.T) {
	s := e2e.Start(t, e2e.Config{Stream: "topics room/*"})
	b := backendOf(t, s)
	v := visitorOf(t, s)
	type opened struct {
		id     string
		blocks chan string
	}
	open := func(query string) opened {
		t.Helper()
		resp, err := v.get("/events?"+query, "X-User", "alice")
		if err != nil {
			t.Fatal(err)
		}
		first := make([]byte, 4<<10)
		n, err := resp.Body.Read(first)
		if err != nil {
			t.Fatal(err)
		}
		_, data, _ := strings.Cut(string(first[:n]), "data: ")
		var connected struct{ ConnectionID string }
		if err := json.NewDecoder(strings.NewReader(data)).Decode(&connected); err != nil {
			t.Fatal(err)
		}
		o := opened{connected.ConnectionID, make(chan string, 1)}
		go func() {
			rest, _ := io.ReadAll(resp.Body) // it ends early if the test has failed
			resp.Body.Close()
			o.blocks <- string(first[:n]) + string(rest)
		}()
		return o
	}
	ended := func(o opened) (blocks []string) {
		t.Helper()
		e2e.Wait(t, e2e.Patience, "the end of a stream", func() error {
			select {
			case text := <-o.blocks:
				blocks = strings.Split(strings.TrimSuffix(text, "\n\n"), "\n\n")
				return nil
			default:
				return fmt.Errorf("it is still open")
			}
		})
		for _, block := range blocks {
			if i := strings.Index(block, "\nid: "); i >= 0 && strings.Contains(block[i+1:], "\n") {
				t.Errorf("last line of a block: got another one than the id, want the id:\n%s", block)
			}
		}
		return blocks
	}

	replaced := open("topic=room/1")
	b.wait(1)
	b.broadcast("for all")
	b.send(`"user":"alice"`, "for alice")
	b.send(`"topic":"room/2"`, "of another room")
	b.send(`"topic":"room/1"`, "of the room")
	b.waitWritten()
	closed := open("previous=" + replaced.id)
	// A client that requests topics also gets the events for everybody and for its user.
	var got []string
	for _, block := range ended(replaced)[1:] {
		if _, data, ok := strings.Cut(block, "data: "); ok { // otherwise it is a heartbeat
			data, _, _ = strings.Cut(data, "\n")
			got = append(got, data)
		}
	}
	// A stream that is replaced gets no sse.closing.
	if want := []string{"for all", "for alice", "of the room"}; !slices.Equal(got, want) {
		t.Errorf("data of the stream: got %q, want %q", got, want)
	}
	b.run(`curl -X DELETE 'localhost:2019/sse/connections?user=alice'`)
	last := ended(closed)
	if end := last[len(last)-1]; !strings.Contains(end, "event: sse.closing") || strings.Contains(end, "id: ") {
		t.Errorf("last block: got\n%s\nwant sse.closing without an id", end)
	}
}
