package caddysse_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
)

func listStreamRefusals(t *testing.T, l *refusalList) {
	const header = "{http.request.header."
	s := start(t, "", `
		sse /users {
			user `+header+`X-User}
			session `+header+`X-Session}
			topics news user/`+header+`X-Name}
			grants `+header+`X-Grants}
		}
		sse /expires {
			anonymous
			expires `+header+`X-Expires}
		}
		sse_test /page`)
	l.section("Streams")
	long := strings.Repeat("x", 600)
	for _, r := range []struct {
		method, path string
		headers      []string
	}{
		{"POST", "/users", nil},
		{"GET", "/users", nil},
		{"GET", "/users?topics=news", nil},
		{"GET", "/users?topic=%zz", nil},
		{"GET", "/users?poll=yes", nil},
		{"GET", "/users?topic=sport", []string{"X-User", "alice"}},
		{"GET", "/users?topic=", []string{"X-User", "alice"}},
		{"GET", "/users?topic=*", []string{"X-User", "alice"}},
		{"GET", "/users?topic=%ff", []string{"X-User", "alice"}},
		{"GET", "/users?topic=" + long, []string{"X-User", "alice"}},
		{"GET", "/users?" + strings.Repeat("topic=x&", 101), []string{"X-User", "alice"}},
		{"GET", "/users", []string{"X-User", long}},
		{"GET", "/users", []string{"X-User", "jos\xe9"}},
		{"GET", "/users", []string{"X-User", "alice", "X-Session", "jos\xe9"}},
		{"GET", "/users", []string{"X-User", "alice", "X-Session", long}},
		{"GET", "/users", []string{"X-User", "alice", "X-Name", long}},
		{"GET", "/users", []string{"X-User", "alice", "X-Grants", "[1]"}},
		{"GET", "/users", []string{"X-User", "alice", "X-Grants", `"orders"`}},
		{"GET", "/users", []string{"X-User", "alice", "X-Grants", "[\"jos\xe9\"]"}},
		{"GET", "/users", []string{"X-User", "alice", "X-Grants", `["\ud800"]`}},
		{"GET", "/users", []string{"X-User", "alice", "X-Grants", "orders/*"}},
		{"GET", "/users", []string{"X-User", "alice", "X-Grants", strings.Repeat("t,", 1001)}},
		{"GET", "/expires", nil},
		{"GET", "/expires", []string{"X-Expires", "tomorrow"}},
		{"GET", "/expires", []string{"X-Expires", "1700000000"}},
		{"GET", "/expires", []string{"X-Expires", "1700000000000"}},
		{"POST", "/page/", nil},
		{"GET", "/page/assets", nil},
	} {
		l.refusedRequest(t, do(t, r.method, "http://"+s.http+r.path, "", r.headers...), r.method, r.path, strings.Join(r.headers, " "))
	}
}

func (l *refusalList) refusedRequest(t *testing.T, a answer, request ...string) {
	what := strings.TrimSpace(strings.Join(request, " "))
	if a.status < 400 {
		t.Errorf("%s: got %d %s, want a refusal", what, a.status, a.body)
	}
	text := a.body
	if strings.HasPrefix(text, "{") {
		text = decode[struct{ Error string }](t, text).Error
	}
	l.add(what, fmt.Sprintf("%d %s", a.status, text))
}

func listAPIRefusals(t *testing.T, l *refusalList) {
	s := start(t, "sse {\n max_event_size 1KiB\n}", "sse_api /sse/*\nsse /events")
	l.section("API")
	const json, ndjson = "application/json", "application/x-ndjson"
	long := strings.Repeat("x", 600)
	for _, r := range [][4]string{
		{"GET", "/sse/nothing"},
		{"GET", "/sse/send"},
		{"POST", "/sse/send?hub=chta", `{"user":"alice","data":1}`},
		{"POST", "/sse/send?hbu=chat", `{"user":"alice","data":1}`},
		{"POST", "/sse/send?hub=%zz", `{"user":"alice","data":1}`},
		{"POST", "/sse/send", `user=alice`, "application/x-www-form-urlencoded"},
		{"POST", "/sse/send", "\ufeff{}"},
		{"POST", "/sse/send", "{\"user\":\"\xff\"}"},
		{"POST", "/sse/send", `[]`},
		{"POST", "/sse/send", `{"user":"alice"`},
		{"POST", "/sse/send", `{"user":alice}`},
		{"POST", "/sse/send", `{"user":"alice","data":1}{}`},
		{"POST", "/sse/send", `{"user":"alice","user":"bob","data":1}`},
		{"POST", "/sse/send", `{"user":"alice"}`},
		{"POST", "/sse/send", `{"user":"alice","data":1,"text":"1"}`},
		{"POST", "/sse/send", `{"data":1}`},
		{"POST", "/sse/send", `{"user":"alice","topic":"news","data":1}`},
		{"POST", "/sse/send", `{"uesr":"alice","data":1}`},
		{"POST", "/sse/send", `{"user":1,"data":1}`},
		{"POST", "/sse/send", `{"user":"","data":1}`},
		{"POST", "/sse/send", `{"user":[],"data":1}`},
		{"POST", "/sse/send", `{"user":[` + strings.Repeat(`"x",`, 1000) + `"x"],"data":1}`},
		{"POST", "/sse/send", `{"user":"` + long + `","data":1}`},
		{"POST", "/sse/send", `{"topic":"orders/*","data":1}`},
		{"POST", "/sse/send", `{"user":"alice","text":1}`},
		{"POST", "/sse/send", `{"user":"alice","text":"\ud800"}`},
		{"POST", "/sse/send", `{"user":"alice","data":1,"ttl":"soon"}`},
		{"POST", "/sse/send", `{"user":"alice","data":1,"slot":""}`},
		{"POST", "/sse/send", `{"user":"alice","data":1,"slot":"` + long + `"}`},
		{"POST", "/sse/send", `{"user":"alice","data":1,"key":"` + long + `"}`},
		{"POST", "/sse/send", `{"user":"alice","data":1,"type":"sse.mine"}`},
		{"POST", "/sse/send", `{"user":"alice","data":1,"type":"error"}`},
		{"POST", "/sse/send", `{"user":"alice","data":1,"type":"a\nb"}`},
		{"POST", "/sse/send", `{"user":"alice","text":"` + strings.Repeat("x", 1025) + `"}`},
		{"POST", "/sse/send", strings.Repeat("x", 8<<20+1)},
		{"POST", "/sse/broadcast", `{"user":"alice","data":1}`},
		{"POST", "/sse/broadcast", "\n", ndjson},
		{"POST", "/sse/broadcast", "{\"data\":1}\n{\"data\":}\n", ndjson},
		{"POST", "/sse/broadcast", "{\"data\":1}{\"data\":2}\n", ndjson},
		{"POST", "/sse/broadcast", "{\"data\":1}\n{\"data\":2,\"type\":\"open\"}\n", ndjson},
		{"POST", "/sse/broadcast", strings.Repeat("{\"data\":1}\n", 1001), ndjson},
		{"GET", "/sse/connections?limit=all"},
		{"GET", "/sse/status?hub=chat&hub=default"},
		{"GET", "/sse/connections?session=secret"},
		{"DELETE", "/sse/connections"},
		{"DELETE", "/sse/connections?all=true&user=alice"},
		{"DELETE", "/sse/connections/none"},
		{"PATCH", "/sse/connections/none", `{"add":["news"]}`},
		{"PATCH", "/sse/connections?user=alice", `{"add":["news"]}`, "text/plain"},
		{"PATCH", "/sse/connections?user=alice", `{"add":"news"}`},
		{"PATCH", "/sse/connections?user=alice", `{"topics":["news"]}`},
		{"PATCH", "/sse/connections?user=alice", `{"add":["news"]}{}`},
		{"PATCH", "/sse/connections?user=alice", `{}`},
		{"PATCH", "/sse/connections?user=alice", `{"add":["orders/*"]}`},
		{"PATCH", "/sse/connections?user=alice", `{"add":["news"],"remove":["news"]}`},
		{"PATCH", "/sse/connections?user=alice", `{"add":[` + strings.Repeat(`"x",`, 1000) + `"x"]}`},
		{"GET", "/sse/events?data=yes"},
		{"GET", "/sse/events?topic=a*"},
		{"GET", "/sse/events?" + strings.Repeat("topic=x&", 101)},
		{"GET", "/sse/why"},
		{"GET", "/sse/why?user="},
		{"GET", "/sse/why?user=alice&user=bob"},
		{"GET", "/sse/why?user=" + long},
		{"GET", "/sse/why?user=%ff"},
		{"GET", "/sse/why?user=alice&id=7"},
		{"GET", "/sse/ready?hub=chta"},
	} {
		method, path, body, contentType := r[0], r[1], r[2], r[3]
		if contentType == "" {
			contentType = json
		}
		request := []string{method, path}
		if contentType != json {
			request = append(request, "("+contentType+")")
		}
		if quoted := strconv.QuoteToASCII(body); strings.Contains(quoted, `\u`) || strings.Contains(quoted, `\x`) {
			request = append(request, quoted)
		} else {
			request = append(request, body)
		}
		l.refusedRequest(t, s.api(method, path, body, contentType), request...)
	}
	url := "http://" + s.admin + "/sse/broadcast"
	l.refusedRequest(t, do(t, "POST", url, `{"data":1}`, "Content-Type", json, "Content-Encoding", "gzip"), "POST /sse/broadcast (gzip)")
	url = "http://" + s.http + "/sse/broadcast"
	l.refusedRequest(t, do(t, "POST", url, `{"data":1}`, "Content-Type", json, "Origin", "https://evil.example"), "POST /sse/broadcast (from the page of another origin)")
}
