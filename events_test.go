package caddysse_test

import (
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	caddysse "github.com/ea766355/caddy-sse"
)

// watch opens the stream of all events on the admin endpoint.
func (s *server) watch(query string, headers ...string) *stream {
	s.Helper()
	return openWith(s, plain, "http://"+s.admin+"/sse/events"+query, headers...)
}

// shown returns an event without the parts that differ from run to run.
func shown(data string) string {
	return regexp.MustCompile(`"stored":"[^"]*",?`).ReplaceAllString(data, "")
}

// TestEventsShowsAll: the stream shows all events at both endpoints and over each protocol,
// without payloads and secrets.
func TestEventsShowsAll(t *testing.T) {
	s := startTLS(t, "", "handle_path /internal/* {\n sse_api\n}\nsse /events {\n user {http.request.header.X-User}\n session {http.request.header.X-Session}\n}")
	st := s.open("/events", "X-User", "alice", "X-Session", "secret")
	check := func(t *testing.T, open func(query string) *stream) {
		live := open("")
		if live.connected.event != "sse.connected" || live.connected.id != s.status("default").Head ||
			!strings.Contains(live.connected.data, `"hub":"default"`) || !strings.Contains(live.connected.data, `"resumed":false`) {
			t.Errorf("it begins with %+v", live.connected)
		}
		if h := live.Header; h.Get("Content-Type") != "text/event-stream" || h.Get("Cache-Control") != "no-store, no-transform" || h.Get("X-Accel-Buffering") != "no" {
			t.Errorf("headers %v", h)
		}
		var want []string
		for _, e := range []struct{ event, shown, payload string }{
			{`{"text":"<b>"}`, `"all":true,"size":3`, `"text":"<b>"`},
			{`{"user":["alice","bob"],"type":"note","data":{"a": "<"}}`, `"user":["alice","bob"],"type":"note","size":9`, `"data":{"a":"<"}`},
			{`{"session":"secret","text":"17"}`, `"session":["2bb80d537b1da3e38bd30361aa855686"],"size":2`, `"data":17`},
			{`{"topic":"room/1","text":""}`, `"topic":["room/1"]`, `"text":""`},
			{`{"connection":"` + st.id + `","data":"x"}`, `"connection":["` + st.id + `"],"size":3`, `"data":"x"`},
		} {
			id := s.send(e.event).ID
			b := live.event()
			if got := shown(b.data); got != `{"id":"`+id+`",`+e.shown+`}` || b.id != id || b.event != "" {
				t.Errorf("%s is shown as %+v", e.event, b)
			}
			want = append(want, `{"id":"`+id+`",`+e.shown+","+e.payload+`}`)
		}
		again := open("?data=true&after=" + live.connected.id)
		if !strings.Contains(again.connected.data, `"resumed":true`) || again.connected.id != live.connected.id {
			t.Errorf("it resumes with %+v", again.connected)
		}
		for _, want := range want {
			if got := shown(again.event().data); got != want {
				t.Errorf("with its payload an event is shown as %s, not %s", got, want)
			}
		}
	}
	t.Run("admin", func(t *testing.T) {
		check(t, func(query string) *stream { return openWith(t, plain, "http://"+s.admin+"/sse/events"+query) })
	})
	eachProtocol(t, s, func(t *testing.T, p protocol) {
		check(t, func(query string) *stream { return openWith(t, p.client, p.url(s)+"/internal/sse/events"+query) })
	})
	if h := s.status("default"); h.Connections != 1 {
		t.Errorf("operators count as connections: %+v", h)
	}
	if n := s.send(`{"text":"x"}`).Connections; n != 1 {
		t.Errorf("operators count in a receipt: %d", n)
	}
	s.send(`{"user":"alice","slot":"s","text":"old"}`)
	position := s.status("default").Head
	s.api("PATCH", "/sse/connections?user=alice", `{"add":["room"]}`)
	s.send(`{"user":"alice","slot":"s","text":"new","ttl":"1ms"}`)
	late := s.watch("?data=true", "Last-Event-ID", position)
	for _, want := range []string{`"command":{"topics":{"filter":{"users":["alice"]},"add":["room"]}}`, `"expires":"2`} {
		if b := late.event(); !strings.Contains(b.data, want) {
			t.Errorf("%s does not have %s", b.data, want)
		}
	}
	if b := s.watch("?data=true&after=" + late.connected.id).event(); !strings.Contains(b.data, "command") {
		t.Errorf("a command is shown as %+v", b)
	}
	old := s.watch("?data=true&user=alice&after=earliest")
	for _, want := range []string{`"type":"note"`, `"type":"note"`, `"type":"note"`, `"type":"note"`, `"type":"note"`, `"replaced":true`, `"text":"new"`} {
		if b := old.event(); !strings.Contains(b.data, want) {
			t.Errorf("%s does not have %s", b.data, want)
		}
	}
	if a := do(t, "HEAD", "http://"+s.admin+"/sse/events", ""); a.status != http.StatusOK || a.header.Get("Content-Type") != "text/event-stream" {
		t.Errorf("HEAD: %+v", a)
	}
}

// TestEventsFilters: filters choose events, and invalid filters are refused.
func TestEventsFilters(t *testing.T) {
	s := start(t, "sse\nsse chat", "sse /events {\n hub chat\n}")
	for _, event := range []string{
		`{"user":"alice","type":"a","text":"1"}`, `{"user":"bob","type":"a","text":"2"}`, `{"topic":"room/1","type":"b","text":"3"}`, `{"type":"b","text":"4"}`,
	} {
		s.send(event, "?hub=chat")
	}
	s.send(`{"text":"of the other hub"}`)
	for query, want := range map[string]string{
		"":                       "1 2 3 4",
		"&user=alice":            "1",
		"&user=alice&user=bob":   "1 2",
		"&user=bob&topic=room/*": "2 3",
		"&type=b":                "3 4",
		"&type=b&topic=room/1":   "3",
	} {
		st := s.watch("?hub=chat&data=true&after=earliest" + query)
		for text := range strings.FieldsSeq(want) {
			if b := st.event(); !strings.Contains(b.data, `"data":`+text+`}`) {
				t.Errorf("%s: %s, want %s", query, b.data, text)
			}
		}
	}
	for query, text := range map[string]string{
		"?session=abc":                       "(available: hub, after, user, topic, type, data)",
		"?data=1":                            "it must be true or false",
		"?topic=room*":                       "whole segment",
		"?topic=":                            "must not be empty",
		"?user=%zz":                          "query",
		"?" + strings.Repeat("user=a&", 101): "at most 100",
	} {
		checkRefusal(t, s.api("GET", "/sse/events"+query, ""), 400, text)
	}
	checkRefusal(t, s.api("GET", "/sse/events?hub=nope", ""), 404, "(available: chat, default)")
	checkRefusal(t, s.api("POST", "/sse/events", ""), 405, "(allowed: GET, HEAD)")
}

// TestEventsHeartbeat: a heartbeat of a silent stream moves its position past filtered events.
func TestEventsHeartbeat(t *testing.T) {
	caddysse.SetWatchHeartbeat(t, 50*time.Millisecond)
	s := start(t, "", "sse /events")
	st := s.watch("?user=alice")
	if b := st.next(); !b.colon {
		t.Errorf("with nothing new came %+v", b)
	}
	id := s.send(`{"user":"bob","text":"x"}`).ID
	for {
		if b := st.next(); !b.colon {
			if b.id != id || b.data != "" {
				t.Errorf("moved with %+v, want the id %s alone", b, id)
			}
			break
		}
	}
}

// TestEventsAuthenticatesAgain: the stream does not outlive the login of an operator for long. A client
// that comes back misses nothing.
func TestEventsAuthenticatesAgain(t *testing.T) {
	caddysse.SetWatchLifetime(t, 100*time.Millisecond)
	s := start(t, "", "handle_path /internal/* {\n sse_api\n}\nsse /events")
	for _, url := range []string{"http://" + s.admin + "/sse/events", "http://" + s.http + "/internal/sse/events"} {
		blocks := openWith(s, plain, url).ended()
		last := blocks[len(blocks)-1]
		if last.event != "sse.closing" || !strings.Contains(last.data, `"reason":"lifetime"`) || last.hasID {
			t.Errorf("%s: the stream ended with %+v", url, last)
		}
	}
	st := s.watch("?data=true")
	id := st.connected.id
	st.ended()
	s.send(`{"text":"meanwhile"}`)
	if b := s.watch("?data=true&after=" + id).event(); !strings.Contains(b.data, `"text":"meanwhile"`) {
		t.Errorf("it went on with %+v", b)
	}
}

// TestEventsTellsGaps: evicted events and another epoch are gaps.
func TestEventsTellsGaps(t *testing.T) {
	s := start(t, "sse {\n history 2\n}", "sse /events")
	first := s.send(`{"text":"1"}`).ID
	for i := 2; i <= 4; i++ {
		s.send(fmt.Sprintf(`{"text":"%d"}`, i))
	}
	for position, reason := range map[string]string{first: "evicted", "nonsense": "invalid", "aaaaaaaa-1": "epoch"} {
		st := s.watch("?data=true&user=nobody&after=" + position)
		if st.connected.hasID || !strings.Contains(st.connected.data, `"resumed":false`) {
			t.Errorf("it begins with %+v", st.connected)
		}
		if b := st.next(); b.event != "sse.gap" || b.data != `{"reason":"`+reason+`"}` || !b.hasID {
			t.Errorf("after %s came %+v, want a gap %s", position, b, reason)
		}
	}
}

// TestEventsEndsWithItsServer: a reload ends the stream at both endpoints, so that no server waits
// for it. A client that reconnects misses nothing.
func TestEventsEndsWithItsServer(t *testing.T) {
	s := start(t, "", "handle_path /internal/* {\n sse_api\n}\nsse /events")
	site := s.site("handle_path /internal/* {\n sse_api\n}\nsse /events")
	open := map[string]func(query string) *stream{
		"admin":   func(query string) *stream { return s.watch(query) },
		"sse_api": func(query string) *stream { return openWith(s, plain, "http://"+s.http+"/internal/sse/events"+query) },
	}
	streams := make(map[string]*stream)
	for door, open := range open {
		streams[door] = open("?data=true")
	}
	s.send(`{"text":"before"}`)
	s.mustLoad(site + "# changed")
	s.global = "sse chat"
	s.mustLoad(site)
	ends := make(map[string][]block) // Caddy stops the admin server before only after the load
	for door, st := range streams {
		ends[door] = st.ended()
	}
	s.send(`{"text":"after"}`)
	for door, blocks := range ends {
		var data, id, last string
		for _, b := range blocks {
			data, last = data+b.data, b.event
			if b.hasID {
				id = b.id
			}
		}
		if !strings.Contains(data, `"text":"before"`) || last != "sse.closing" || !strings.Contains(data, `"reason":"shutdown"`) {
			t.Errorf("%s: the stream was %s, and ended with %s", door, data, last)
		}
		if b := open[door]("?data=true&after=" + id).event(); !strings.Contains(b.data, `"text":"after"`) {
			t.Errorf("%s: it went on with %+v", door, b)
		}
	}
	eventually(t, "the admin server before to be stopped", func() bool {
		return strings.Contains(logs.tail(64<<10), "stopped previous server")
	})
}

// TestEventsBehindABufferingHandler: behind a handler that buffers the response, the status is 500 at
// once, and the log names the handler.
func TestEventsBehindABufferingHandler(t *testing.T) {
	for name, before := range map[string]string{
		"intercept": "intercept {\n handle_response {\n header X-Seen yes\n}\n}",
		"templates": "templates {\n mime text/event-stream\n}",
	} {
		for _, handled := range []string{"", "\nhandle_errors {\n respond \"{err.status_code} oops\" 500\n}"} {
			t.Run(name+strings.Join(strings.Fields(handled), " "), func(t *testing.T) {
				s := start(t, "", before+"\nsse /events\nsse_api /sse/*"+handled)
				a := do(t, "GET", "http://"+s.http+"/sse/events", "")
				if a.status != http.StatusInternalServerError || strings.HasPrefix(a.header.Get("Content-Type"), "text/event-stream") || strings.Contains(a.body, "sse.connected") {
					t.Errorf("answer: got %d %v %q, want 500 and no stream", a.status, a.header, a.body)
				}
				if !strings.Contains(logs.tail(1<<20), "caddyhttp/"+name+".") {
					t.Errorf("log: got no line that names %s, want one", name)
				}
			})
		}
	}
}

// TestEventsOfASlowOperator: a client that reads nothing delays nobody.
func TestEventsOfASlowOperator(t *testing.T) {
	s := start(t, "sse {\n history_size 64MiB\n}", "sse /events {\n anonymous\n}")
	slow := connect(t, &http.Client{Transport: &http.Transport{DialContext: dialSmall}}, "http://"+s.admin+"/sse/events?data=true")
	st := s.open("/events")
	text := strings.Repeat("x", 512<<10)
	for range 40 {
		began := time.Now()
		s.send(`{"text":"` + text + `"}`)
		st.expect(text)
		if took := time.Since(began); took > waitLimit/2 {
			t.Errorf("an event took %s", took)
		}
	}
	s.mustLoad(s.site("sse /events {\n anonymous\n heartbeat 1s\n}"))
	eventually(t, "the admin server before to be stopped", func() bool {
		return strings.Contains(logs.tail(64<<10), "stopped previous server")
	})
	slow.cancel()
}
