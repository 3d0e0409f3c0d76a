package recipes

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/ea766355/caddy-sse/e2e"
)

// backend sends commands and events to the API, as a back end does.
type backend struct {
	t     *testing.T
	admin string
}

// backendOf returns the back end of a server.
func backendOf(t *testing.T, s *e2e.Server) backend {
	return backend{t, fmt.Sprintf("localhost:%d", s.Admin)}
}

// run runs a command of the docs with this server's admin endpoint.
func (b backend) run(command string, env ...string) (answer string) {
	b.t.Helper()
	cmd := exec.Command("sh", "-ec", strings.ReplaceAll(command, "curl ", "curl -sS --fail-with-body "))
	if !strings.Contains(command, "localhost:2019") {
		b.t.Fatalf("command: got %s, want one for localhost:2019", command)
	}
	cmd.Args[2] = strings.ReplaceAll(cmd.Args[2], "localhost:2019", b.admin)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		b.t.Fatalf("%s: %v\n%s", command, err, out)
	}
	return string(out)
}

// send publishes an event with a text to a target, such as "topic":"room/1".
func (b backend) send(target, text string) {
	b.t.Helper()
	b.post("send", fmt.Sprintf(`{%s,"text":%q}`, target, text))
}

// broadcast publishes an event for everybody.
func (b backend) broadcast(text string) {
	b.t.Helper()
	b.post("broadcast", fmt.Sprintf(`{"text":%q}`, text))
}

func (b backend) post(call, event string) {
	b.t.Helper()
	resp, err := http.Post("http://"+b.admin+"/sse/"+call, "application/json", strings.NewReader(event))
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK {
		b.t.Fatalf("%s %s: %s %s", call, event, resp.Status, body)
	}
}

type connection struct {
	User, Remote, Protocol string
	Topics                 []string
	Lag                    int
}

// connections returns the open connections of a user, or of everybody if user is empty.
func (b backend) connections(user string) (list []connection, err error) {
	query := "?limit=1000"
	if user != "" {
		query += "&user=" + user
	}
	resp, err := http.Get("http://" + b.admin + "/sse/connections" + query)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var page struct{ Connections []connection }
	err = json.NewDecoder(resp.Body).Decode(&page)
	return page.Connections, err
}

// wait waits until there are n connections.
func (b backend) wait(n int) {
	b.t.Helper()
	e2e.Wait(b.t, e2e.Patience, fmt.Sprintf("%d open connections", n), func() error {
		list, err := b.connections("")
		if err == nil && len(list) != n {
			err = fmt.Errorf("got %d", len(list))
		}
		return err
	})
}

// waitWritten waits until all events are written to all open connections.
func (b backend) waitWritten() {
	b.t.Helper()
	e2e.Wait(b.t, e2e.Patience, "the events to be written", func() error {
		list, err := b.connections("")
		for _, c := range list {
			if c.Lag > 0 {
				err = fmt.Errorf("a connection of %q has a lag of %d", c.User, c.Lag)
			}
		}
		return err
	})
}
