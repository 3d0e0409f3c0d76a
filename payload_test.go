package caddysse_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
)

const ndjson = "application/x-ndjson"

// TestPromise3RefusedEventIsNeverSeen: no client gets an invalid event, alone or as the second
// line of a batch, on both endpoints.
func TestPromise3RefusedEventIsNeverSeen(t *testing.T) {
	s := start(t, "sse {\n max_event_size 1KiB\n}", "sse /events {\n anonymous\n topics *\n}")
	st := s.open("/events")
	names := strings.TrimSuffix(strings.Repeat(`"n",`, 1001), ",")
	tests := []struct {
		endpoint, body string
		status         int
		text           string
	}{
		{"broadcast", ``, 400, "unexpected end of input"},
		{"broadcast", `{`, 400, "unexpected end of input"},
		{"broadcast", `{"text":"x"`, 400, "unexpected end of input"},
		{"broadcast", `{"text":"x"}}`, 400, "more text after the event"},
		{"broadcast", `{"text":"x"} {"text":"y"}`, 400, "application/x-ndjson"},
		{"broadcast", `{"text":x}`, 400, "invalid JSON"},
		{"broadcast", `{"text":"x",}`, 400, "invalid JSON"},
		{"broadcast", `{text:"x"}`, 400, "invalid JSON"},
		{"broadcast", "{\"text\":\"\xff\"}", 400, "UTF-8"},
		{"broadcast", `[{"text":"x"}]`, 400, "JSON object"},
		{"broadcast", `"text"`, 400, "JSON object"},
		{"broadcast", `null`, 400, "JSON object"},
		{"broadcast", `{}`, 400, "no payload"},
		{"broadcast", `{"type":"t"}`, 400, "no payload"},
		{"broadcast", `{"data":1,"text":"x"}`, 400, "both given"},
		{"broadcast", `{"text":"x","text":"y"}`, 400, `duplicate field "text"`},
		{"broadcast", `{"text":"x","colour":"red"}`, 400, `unknown field "colour"`},
		{"broadcast", `{"Text":"x"}`, 400, `unknown field "Text"`},
		{"broadcast", `{"` + strings.Repeat("x", 101) + `":1}`, 400, `unknown field "` + strings.Repeat("x", 100) + `" (available`},
		{"broadcast", `{"text":"x","id":"1"}`, 400, `unknown field "id"`},
		{"broadcast", `{"text":"x","retry":1}`, 400, `unknown field "retry"`},
		{"broadcast", `{"text":1}`, 400, "it must be a string"},
		{"broadcast", `{"text":null}`, 400, "it must be a string"},
		{"broadcast", `{"text":"x","type":1}`, 400, "invalid type 1: it must be a string"},
		{"broadcast", `{"text":"x","key":1}`, 400, "invalid key 1: it must be a string"},
		{"broadcast", `{"text":"x","ttl":60}`, 400, `invalid ttl 60: it must be a string, such as "10m"`},
		{"broadcast", `{"text":"x","ttl":"soon"}`, 400, `invalid ttl "soon": it must be a duration`},
		{"broadcast", `{"text":"x","ttl":"0s"}`, 400, "more than 0"},
		{"broadcast", `{"text":"x","ttl":"-1m"}`, 400, "more than 0"},
		{"broadcast", `{"text":"x","ttl":"2000000h"}`, 400, "at most 100 years"},
		{"broadcast", `{"text":"x","type":"sse.connected"}`, 400, "reserved"},
		{"broadcast", `{"text":"x","type":"sse."}`, 400, "reserved"},
		{"broadcast", `{"text":"x","type":"a\nb"}`, 400, "CR, LF or NUL"},
		{"broadcast", `{"text":"x","type":"a\rb"}`, 400, "CR, LF or NUL"},
		{"broadcast", `{"text":"x","type":"a\u0000b"}`, 400, "CR, LF or NUL"},
		{"broadcast", `{"text":"x","key":"` + strings.Repeat("k", 129) + `"}`, 400, "at most 128"},
		{"broadcast", `{"text":"` + strings.Repeat("x", 1025) + `"}`, 413, "at most 1024"},
		{"broadcast", `{"data":"` + strings.Repeat("x", 1023) + `"}`, 413, "at most 1024"},
		{"broadcast", `{"type":"t","text":"` + strings.Repeat("x", 1024) + `"}`, 413, "at most 1024"},
		{"broadcast", `{"data":` + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000) + `}`, 400, "invalid JSON"},
		{"broadcast", `{"text":"x","user":"alice"}`, 400, "has the field user"},
		{"send", `{"text":"x"}`, 400, "exactly one"},
		{"send", `{"text":"x","user":"alice","topic":"news"}`, 400, "exactly one"},
		{"send", `{"text":"x","user":""}`, 400, "user is empty"},
		{"send", `{"text":"x","user":[]}`, 400, "empty list"},
		{"send", `{"text":"x","user":["alice",""]}`, 400, "user is empty"},
		{"send", `{"text":"x","user":["alice",1]}`, 400, "list of strings"},
		{"send", `{"text":"x","user":["alice",null]}`, 400, "list of strings"},
		{"send", `{"text":"x","user":null}`, 400, "list of strings"},
		{"send", `{"text":"x","user":1}`, 400, "list of strings"},
		{"send", `{"text":"x","user":{"name":"alice"}}`, 400, "list of strings"},
		{"send", `{"text":"x","session":""}`, 400, "session is empty"},
		{"send", `{"text":"x","topic":["` + names[1:] + `]}`, 400, "at most 1000"},
		{"send", `{"text":"x","topic":"public/*"}`, 400, "exact topics"},
		{"send", `{"text":"x","all":true}`, 400, `unknown field "all"`},
		{"send", `{"text":"x","user":"` + strings.Repeat("u", 513) + `"}`, 400, "user has 513 bytes: at most 512"},
		{"send", `{"text":"x","topic":["t","` + strings.Repeat("t", 513) + `"]}`, 400, "topic has 513 bytes"},
		{"send", `{"text":"x","connection":"` + strings.Repeat("c", 513) + `"}`, 400, "connection has 513 bytes"},
		{"send", `{"text":"x","session":"` + strings.Repeat("s", 513) + `"}`, 400, "session has 513 bytes"},
		{"send", `{"text":"x","user":"\udfff"}`, 400, `user has half of a surrogate pair (\ud800 to \udfff), which is not a character`},
		{"send", `{"text":"x","topic":["a","\u00e4\uD834\u0020"]}`, 400, `topic has half of a surrogate pair`},
		{"broadcast", `{"text":"\ud800x"}`, 400, `text has half of a surrogate pair`},
		{"broadcast", `{"text":"\\\\\udd1e\ud834"}`, 400, `text has half of a surrogate pair`},
		{"broadcast", `{"text":"\ud834\\udd1e"}`, 400, `text has half of a surrogate pair`},
		{"broadcast", `{"text":"x","type":"\ud834\ud834"}`, 400, `type has half of a surrogate pair`},
		{"broadcast", `{"text":"x","key":"k\ud834"}`, 400, `key has half of a surrogate pair`},
		{"broadcast", "\ufeff" + `{"text":"x"}`, 400, "byte order mark"},
		{"broadcast", `{"text":"x","type":"open"}`, 400, `type "open" is reserved`},
		{"broadcast", `{"text":"x","type":"error"}`, 400, `use another, such as "failure"`},
	}
	before := s.status("default")
	for _, test := range tests {
		t.Run(fmt.Sprintf("%s %.50q", test.endpoint, test.body), func(t *testing.T) {
			s := s.in(t)
			checkRefusal(t, s.api("POST", "/sse/"+test.endpoint, test.body), test.status, test.text)
			if test.body == "" || strings.Contains(test.text, "x-ndjson") {
				return // an empty line, and what JSON text on a line cannot be
			}
			good := `{"text":"good"}`
			if test.endpoint == "send" {
				good = `{"topic":"t","text":"good"}`
			}
			a := s.api("POST", "/sse/"+test.endpoint, good+"\n\n"+test.body+"\n"+good, ndjson)
			if a.header.Get("Content-Type") == "application/json" {
				checkRefusal(t, a, test.status, "line 3: ")
				checkRefusal(t, a, test.status, test.text)
			} else {
				t.Errorf("in a batch: %d %s", a.status, a.body)
			}
		})
	}
	after := s.status("default")
	if after.Head != before.Head || after.Events != 0 || after.Bytes != 0 {
		t.Errorf("status went from %+v to %+v", before, after)
	}
	s.send(`{"text":"the first"}`)
	st.expect("the first")
}

// TestAPIHostileContent: a client reads each accepted content back exactly, as one event.
func TestAPIHostileContent(t *testing.T) {
	s := start(t, "sse {\n max_event_size 2MiB\n}", "sse /events {\n anonymous\n}")
	st := s.open("/events")
	inject := "\n\nevent: sse.gap\ndata: {}\nid: x\n\n"
	for _, text := range []string{
		"", " ", "  two", ":", "a:b", "id: 5", "\n", "\r", "\r\n", "\n\n\n", "a\rb", "a\r\nb", "a\n\rb", "trailing\n", inject,
		strings.ReplaceAll(inject, "\n", "\r"), "\x00", "a\x00b", "\u2028\u2029\u0085", "\ufeff", "\v\f\x1c\x7f", "𝄞ü\u200b",
		strings.Repeat("x", 1<<20), strings.Repeat("\n", 1<<18), "<div>\n\t<b>html</b>\n</div>",
	} {
		body, err := json.Marshal(map[string]string{"text": text, "type": ": \u2028"})
		if err != nil {
			t.Fatal(err)
		}
		id := s.send(string(body)).ID
		want := strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(text)
		if b := st.next(); b.data != want || b.event != ": \u2028" || b.id != id {
			t.Errorf("%.60q was read as %.60q, type %q, id %s", text, b.data, b.event, b.id)
		}
	}
	s.send(`{"text":"\ud834\udd1e\\ud800\u00e4\ufffd","type":"\uD834\uDD1E"}`)
	if b := st.next(); b.data != `𝄞\ud800ä`+"\ufffd" || b.event != "𝄞" {
		t.Errorf("escapes were read as %+v", b)
	}
	for data, want := range map[string]string{
		`{ "a" : [ 1 , 2 ] }`: `{"a":[1,2]}`, "[\n1,\r\n2]": `[1,2]`, `null`: `null`, `true`: `true`, `0.10`: `0.10`, `1e400`: `1e400`,
		`12345678901234567890`: `12345678901234567890`, `"<&>\u2028"`: `"<&>\u2028"`, `"a\nb"`: `"a\nb"`, `""`: `""`, `{"a":1,"a":2}`: `{"a":1,"a":2}`,
		strings.Repeat("[", 5000) + strings.Repeat("]", 5000): strings.Repeat("[", 5000) + strings.Repeat("]", 5000),
	} {
		s.send(`{"data":` + data + `}`)
		if b := st.next(); b.data != want || b.event != "" {
			t.Errorf("%.60s was read as %.60q, type %q", data, b.data, b.event)
		}
	}
}

// TestAPIBatch: each line of a batch is an event. The events are in order, and each has a receipt.
func TestAPIBatch(t *testing.T) {
	s := start(t, "", "sse /events {\n anonymous\n topics *\n}")
	st := s.open("/events")
	a := s.api("POST", "/sse/broadcast", "\n  \n{\"text\":\"1\"}\r\n\n{\"text\":\"2\",\"key\":\"k\"}\n{\"text\":\"again\",\"key\":\"k\"}\n{\"text\":\"3\"}", ndjson)
	var receipts []receipt
	for line := range strings.Lines(a.body) {
		receipts = append(receipts, decode[receipt](t, line))
	}
	if a.status != 200 || a.header.Get("Content-Type") != ndjson || len(receipts) != 4 {
		t.Fatalf("%d %s %s", a.status, a.header.Get("Content-Type"), a.body)
	}
	if !receipts[2].Duplicate || receipts[2].ID != receipts[1].ID || receipts[0].Duplicate || receipts[3].Connections != 1 {
		t.Errorf("receipts %s", a.body)
	}
	for i, want := range []string{"1", "2", "3"} {
		r := slices.Concat(receipts[:2], receipts[3:])[i]
		if b := st.event(); b.data != want || b.id != r.ID {
			t.Errorf("got %+v, want %s as %s", b, want, r.ID)
		}
	}
	before := s.status("default").Head
	line := "{\"text\":\"x\"}\n"
	big := `{"text":"` + strings.Repeat("x", 1<<20-1) + "\"}\n"
	for _, test := range []struct {
		body   string
		status int
		text   string
	}{
		{strings.Repeat(line, 1001), 413, "line 1001: more than 1000 events in a batch"},
		{strings.Repeat(big, 9), 413, "8388608 bytes"},
		{strings.Repeat(line, 3) + "nonsense\n" + line, 400, "line 4: invalid JSON"},
		{line + "[" + line + "]", 400, "line 2: invalid event: it must be a JSON object (got array)"},
		{`{"text":"1"}{"text":"2"}`, 400, "line 1: invalid JSON: there is more text after the event; put each event on a line of its own (curl keeps the line breaks of a file with --data-binary)"},
		{"", 400, "empty"},
		{"\n \n\t\n", 400, "empty"},
	} {
		checkRefusal(t, s.api("POST", "/sse/broadcast", test.body, ndjson), test.status, test.text)
	}
	if after := s.status("default").Head; after != before {
		t.Errorf("the head went from %s to %s", before, after)
	}
	if a := s.api("POST", "/sse/broadcast", strings.Repeat(line+"\n", 1000), ndjson); a.status != 200 || strings.Count(a.body, "\n") != 1000 {
		t.Errorf("1000 events with blank lines: %d %.100s", a.status, a.body)
	}
}

// TestAPIKeys: a repeated key gets the first id.
func TestAPIKeys(t *testing.T) {
	s := start(t, "", "test_auth\nsse /events")
	first := s.send(`{"user":"alice","text":"1","key":"k"}`)
	if first.Duplicate || first.Connections != 0 {
		t.Errorf("first %+v", first)
	}
	st := s.open("/events?last_event_id=earliest", "X-User", "alice")
	if again := s.send(`{"user":"alice","text":"other","key":"k"}`); again != (receipt{first.ID, 1, true}) {
		t.Errorf("again %+v, want %s", again, first.ID)
	}
	s.send(`{"user":"alice","text":"2","key":"` + strings.Repeat("k", 128) + `"}`)
	s.send(`{"user":"alice","text":"3","key":""}`)
	s.send(`{"user":"alice","text":"4","key":""}`)
	st.expect("1", "2", "3", "4")
	s.mustLoad(s.site("test_auth\nsse /events"))
	if again := s.send(`{"user":"alice","text":"other","key":"k"}`); !again.Duplicate || again.ID != first.ID {
		t.Errorf("after a reload %+v", again)
	}
}

// TestAPITTL: after its ttl an event is not delivered, without a gap.
func TestAPITTL(t *testing.T) {
	s := start(t, "", "sse /events {\n anonymous\n}")
	from := s.status("default").Head
	s.send(`{"text":"gone","ttl":"1ns"}`)
	s.send(`{"text":"here","ttl":"10m"}`)
	s.send(`{"text":"for long","ttl":"7d"}`)
	st := s.open("/events", "Last-Event-ID", from)
	if !strings.Contains(st.connected.data, `"resumed":true`) {
		t.Errorf("connected with %s", st.connected.data)
	}
	st.expect("here", "for long")
}

// FuzzAPI: any body is accepted and delivered exactly, or refused with a reason and not delivered.
func FuzzAPI(f *testing.F) {
	s := start(f, "", "sse /events {\n anonymous\n}")
	st := s.open("/events")
	for _, body := range []string{
		`{"text":"a\r\nb","type":"t"}`, `{"data":{"a":[1,null,"\ud800"]}}`, `{"data":1}`, `{"text":"x","ttl":"1h","key":""}`,
		`{"text":"x","type":"sse.gap"}`, `{"text":"\u0000\u2028"}`, `[]`, `{"data":`, "{\"text\":\"\xff\"}", `{"user":"u","text":"x"}`, `{"":1}`,
		`{"text":"\ndata: x\n\nid: 7"}`, `{"type":"\u000a","text":""}`, `{"text" : "x" , "type" : "\ufeff"}`,
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		s, st := s.in(t), st.in(t)
		a := s.api("POST", "/sse/broadcast", string(body))
		if a.status != 200 {
			if a.status != 400 && a.status != 413 {
				t.Errorf("status %d %s", a.status, a.body)
			}
			if decode[map[string]string](t, a.body)["error"] == "" {
				t.Errorf("no reason in %s", a.body)
			}
			s.send(`{"text":"mark"}`)
			st.expect("mark")
			return
		}
		var event struct {
			Type, Key, TTL string
			Text           *string
			Data           json.RawMessage
		}
		if err := json.Unmarshal(body, &event); err != nil {
			t.Fatalf("accepted, but: %v", err)
		}
		if event.Key != "" || event.TTL != "" { // then it may not come, or have come before
			id := s.send(`{"text":"mark"}`).ID
			for st.event().id != id {
			}
			return
		}
		want := ""
		if event.Text != nil {
			want = strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(*event.Text)
		} else {
			var compact bytes.Buffer
			if err := json.Compact(&compact, event.Data); err != nil {
				t.Fatal(err)
			}
			want = compact.String()
		}
		b := st.next()
		for b.colon || b.event == "" && b.data == "" && want != "" {
			b = st.next()
		}
		if b.data != want || b.event != event.Type || b.id != decode[receipt](t, a.body).ID {
			t.Errorf("%q was read as %+v", body, b)
		}
	})
}
