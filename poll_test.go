package caddysse_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// poll sends one poll after the position, and returns the blocks of the response.
func (s *server) poll(client *http.Client, url, position string) string {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), waitLimit)
	defer cancel()
	resp := request(ctx, s, client, "GET", url, "", []string{"Last-Event-ID", position})
	defer resp.Body.Close()
	checkStreamHeaders(s.TB.(*testing.T), resp.Header)
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		s.Fatalf("the answer does not end well: %v", err)
	}
	return string(body)
}

// TestPoll: polls get the same events as a stream, over each protocol.
func TestPoll(t *testing.T) {
	s := startTLS(t, "", "sse /events {\n anonymous\n heartbeat 10m\n}\nsse /quiet {\n anonymous\n heartbeat 500ms\n}")
	eachProtocol(t, s, func(t *testing.T, p protocol) {
		s := s.in(t)
		url := p.url(s) + "/events?poll=1"
		position := s.send(`{"data":0}`).ID
		for i := 1; i <= 5; i++ {
			sent := make(chan string, 1)
			if i%2 == 0 {
				sent <- s.send(fmt.Sprintf(`{"data":%d}`, i)).ID
			} else {
				go func() { // while the poll waits
					eventually(t, "the poll to be open", func() bool { return s.status("default").Connections > 0 })
					sent <- s.send(fmt.Sprintf(`{"data":%d}`, i)).ID
				}()
			}
			answer := s.poll(p.client, url, position)
			position = <-sent
			if want := fmt.Sprintf("\n\ndata: %d\nid: %s\n\n", i, position); !strings.HasSuffix(answer, want) {
				t.Errorf("%q, want at the end %q", answer, want)
			}
			eventually(t, "the poll to be over", func() bool { return s.status("default").Connections == 0 })
		}
		began := time.Now()
		answer := s.poll(p.client, p.url(s)+"/quiet?poll=1", position)
		if !strings.HasSuffix(answer, "\nid: "+position+"\n\n") || strings.Contains(answer, "sse.closing") {
			t.Errorf("with no event: %q", answer)
		}
		if d := time.Since(began); d < 400*time.Millisecond {
			t.Errorf("with no event it ended after %s, the heartbeat is 500ms", d)
		}
		eventually(t, "no connection to be left", func() bool { return s.status("default").Connections == 0 })
	})
}

// TestPollKeepsItsConnection: over HTTP/1.1 the next poll uses the same connection.
func TestPollKeepsItsConnection(t *testing.T) {
	s := start(t, "", "sse /events {\n anonymous\n heartbeat 1m\n}")
	position := s.send(`{"data":0}`).ID
	s.send(`{"data":1}`)
	conn, err := net.Dial("tcp", s.http)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(waitLimit))
	r := bufio.NewReader(conn)
	for i := range 3 {
		fmt.Fprintf(conn, "GET /events?poll=1 HTTP/1.1\r\nHost: x\r\nLast-Event-ID: %s\r\n\r\n", position)
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatalf("poll %d: %v", i, err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil || !strings.Contains(string(body), "data: 1\n") {
			t.Fatalf("poll %d: %q, %v", i, body, err)
		}
	}
}

// TestPollParameter: values other than 1, and similar names, are refused.
func TestPollParameter(t *testing.T) {
	s := start(t, "", "sse /events {\n anonymous\n}")
	for query, want := range map[string]string{
		"poll=0":    `invalid value "0" of the query parameter poll`,
		"poll=true": `invalid value "true" of the query parameter poll`,
		"poll":      "it must be 1",
		"polls=1":   "did you mean poll?",
	} {
		a := do(t, "GET", "http://"+s.http+"/events?"+query, "")
		if a.status != http.StatusBadRequest || !strings.Contains(a.body, want) {
			t.Errorf("%s: %d %q, want 400 with %q", query, a.status, a.body, want)
		}
	}
}
