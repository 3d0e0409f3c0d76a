package caddysse_test

import (
	"cmp"
	"fmt"
	"net/http"
	"strings"
	"testing"

	caddysse "github.com/ea766355/caddy-sse"
)

// checkGap reads the first blocks of a stream that must have a gap, and checks the position after
// it.
func checkGap(t testing.TB, st *stream, reason string) (id string) {
	t.Helper()
	if st.connected.hasID || !strings.Contains(st.connected.data, `"resumed":false`) {
		t.Errorf("before a gap came %+v", st.connected)
	}
	b := st.next()
	if b.event != "sse.gap" || b.data != `{"reason":"`+reason+`"}` || b.id == "" {
		t.Errorf("%+v is no gap with the reason %s", b, reason)
	}
	return b.id
}

// otherTag returns the position with another tag.
func otherTag(position string) string {
	last := byte('0')
	if strings.HasSuffix(position, "0") {
		last = '1'
	}
	return position[:len(position)-1] + string(last)
}

// TestPromise2GapIsTold: a client gets a gap if it cannot resume at its position.
func TestPromise2GapIsTold(t *testing.T) {
	s := start(t, "sse {\n history 3\n}", "test_auth\nsse /events")
	first := s.send(`{"user":"alice","text":"1"}`).ID
	epoch, _, _ := strings.Cut(first, "-")
	var third string
	for i := 2; i <= 5; i++ {
		if id := s.send(fmt.Sprintf(`{"user":"alice","text":"%d"}`, i)).ID; i == 3 {
			third = otherTag(id)
		}
	}
	tests := []struct{ position, reason string }{
		{first, "evicted"},
		{epoch + "-0", "evicted"},
		{third, "epoch"}, // of a copy of the history that went another way
		{"aaaaaaaa-3", "epoch"},
		{"x-0", "epoch"},
		{epoch + "-6", "invalid"},
		{epoch + "-18446744073709551615", "invalid"},
		{epoch + "-18446744073709551616", "invalid"},
		{epoch + "--1", "invalid"},
		{epoch + "-+1", "invalid"},
		{epoch + "-01", "invalid"},
		{epoch + "-", "invalid"},
		{epoch, "invalid"},
		{"-1", "invalid"},
		{"-", "invalid"},
		{"0", "invalid"},
		{"Earliest", "invalid"},
		{first + " x", "invalid"},
		{"\xff\xfe-1", "epoch"},
		{strings.Repeat("9", 4<<10), "invalid"},
	}
	for _, test := range tests {
		t.Run(fmt.Sprintf("%.40q", test.position), func(t *testing.T) {
			st := s.in(t).open("/events", "X-User", "alice", "Last-Event-ID", test.position)
			if id := checkGap(t, st, test.reason); !strings.HasPrefix(id, epoch+"-2-") {
				t.Errorf("the gap ends at %s", id)
			}
			st.expect("3", "4", "5")
		})
	}
	// No evicted event was for bob.
	bob := s.open("/events", "X-User", "bob", "Last-Event-ID", first)
	if !strings.Contains(bob.connected.data, `"resumed":true`) || bob.connected.id != first {
		t.Errorf("bob, who missed nothing, got %+v", bob.connected)
	}
	s.send(`{"user":"bob","text":"hello"}`)
	bob.expect("hello")
}

// TestPromise2GapAfterRestart: after a restart the hub has another epoch.
func TestPromise2GapAfterRestart(t *testing.T) {
	s := start(t, "", "sse /events {\n anonymous\n}")
	id := s.send(`{"text":"1"}`).ID
	s.mustLoad(s.site("respond hello"))
	caddysse.EndGraces() // no hub any more
	s.mustLoad(s.site("sse /events {\n anonymous\n}"))
	s.send(`{"text":"2"}`)
	st := s.open("/events", "Last-Event-ID", id)
	checkGap(t, st, "epoch")
	st.expect("2")
}

// TestPromise2HeaderLimit: each position within the server's header limit gets an answer. The
// server refuses longer ones.
func TestPromise2HeaderLimit(t *testing.T) {
	s := start(t, "servers {\n max_header_size 16KB\n}", "sse /events {\n anonymous\n}")
	checkGap(t, s.open("/events", "Last-Event-ID", strings.Repeat("x", 12<<10)), "invalid")
	a := do(t, "GET", "http://"+s.http+"/events", "", "Last-Event-ID", strings.Repeat("x", 64<<10))
	if a.status != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("status %d", a.status)
	}
}

// FuzzLastEventID: for any position, the stream resumes exactly after it, or has a gap.
func FuzzLastEventID(f *testing.F) {
	s := start(f, "sse {\n history 4\n}", "sse /events {\n anonymous\n}")
	var epoch string
	for i := 1; i <= 6; i++ {
		epoch, _, _ = strings.Cut(s.send(fmt.Sprintf(`{"text":"%d"}`, i)).ID, "-")
	}
	for _, position := range []string{"", "earliest", "EPOCH-0", "EPOCH-2", "EPOCH-4", "EPOCH-6", "EPOCH-7", "EPOCH-00", "a-1", "-", "\x80-1", "EPOCH--1"} {
		f.Add(position)
	}
	f.Fuzz(func(t *testing.T, position string) {
		position = strings.ReplaceAll(position, "EPOCH", epoch)
		if strings.ContainsFunc(position, func(r rune) bool { return r < ' ' || r == 0x7f }) || position != strings.TrimSpace(position) {
			return // no header may hold it as it is
		}
		want := "sse.gap 3 4 5 6 sse.closing"
		switch position {
		case "":
			want = "sse.closing"
		case "earliest", epoch + "-2":
			want = "3 4 5 6 sse.closing"
		case epoch + "-3":
			want = "4 5 6 sse.closing"
		case epoch + "-4":
			want = "5 6 sse.closing"
		case epoch + "-5":
			want = "6 sse.closing"
		case epoch + "-6":
			want = "sse.closing"
		}
		s := s.in(t)
		st := s.open("/events", "Last-Event-ID", position)
		s.api("DELETE", "/sse/connections/"+st.id, "")
		var got []string
		for _, b := range st.ended() {
			got = append(got, cmp.Or(b.event, b.data))
		}
		if got := strings.Join(got, " "); got != want {
			t.Errorf("after %q came %s, want %s", position, got, want)
		}
		if gap := strings.HasPrefix(want, "sse.gap"); gap == st.connected.hasID {
			t.Errorf("after %q came %+v", position, st.connected)
		}
	})
}
