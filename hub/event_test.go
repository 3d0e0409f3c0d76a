package hub

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/tmaxmax/go-sse"
)

// hostile has texts that have broken event streams before.
var hostile = []string{
	"", " ", "  two spaces", "\n", "\r", "\r\n", "\n\n", "\r\r", "\n\r", "\r\n\r\n", "a\n", "\na", "a\rb\nc\r\nd",
	"id: x", "\nid: x", "x\n\nid: x\n\nevent: sse.gap\ndata: {}\n\n", "\nretry: 0\n", "\ndata: x", ":", "\n: comment\n",
	"\x00", "a\x00b", "\u2028", "a\u2029b", "\u0085", "\v\f", "\ufeff", "\ufeffdata: x\n\n", "é漢字😀",
	`{"a":[1,2,{"b":null}]}`, strings.Repeat("[", 10_000), "data", "0\r\n\r\n", "5\r\nhello\r\n",
}

func FuzzEncode(f *testing.F) {
	for _, s := range hostile {
		f.Add("", []byte(s), uint64(1))
		f.Add("update", []byte(s+"x"), uint64(1<<63))
		f.Add(s, []byte("y"), ^uint64(0))
	}
	f.Fuzz(func(t *testing.T, name string, data []byte, seq uint64) {
		e := Event{Type: name, Data: data, Targets: []Target{{}}}
		if e.validate(1<<20) != nil {
			t.Skip("refused")
		}
		checkEncoding(t, &e, seq)
	})
}

// checkEncoding reads the event back with another library, with one event before it and one behind
// it.
func checkEncoding(t *testing.T, e *Event, seq uint64) {
	t.Helper()
	enc := encode(recordOf(seq, *e), "abcdefgh", time.Now())
	capacity := cap(enc.buf)
	f := enc.frame()
	if &f.bytes[0] != &enc.buf[:headroom][headroom-int(f.from)] {
		t.Errorf("capacity of the buffer: got %d, want enough for the frame without another allocation", capacity)
	}

	// The frame is one chunk: its size, and then only the block.
	chunk := fmt.Appendf(nil, "%x\r\n%s\r\n", len(f.block()), f.block())
	if !bytes.Equal(f.bytes, chunk) {
		t.Errorf("frame: got %.200q, want %.200q", f.bytes, chunk)
	}

	id := fmt.Sprintf("abcdefgh-%d-%s", seq, enc.tag)
	data := strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(string(e.Data))
	next := encode(recordOf(1, Event{Type: "next", Data: []byte("n"), Targets: []Target{{}}}), "abcdefgh", time.Now())
	stream := slices.Concat([]byte("data: before\n\n"), f.block(), next.frame().block())
	expected := []sse.Event{{Data: "before"}, {LastEventID: id, Type: e.Type, Data: data}, {LastEventID: Position{"abcdefgh", 1, next.tag}.String(), Type: "next", Data: "n"}}
	var got []sse.Event
	for event, err := range sse.Read(bytes.NewReader(stream), &sse.ReadConfig{MaxEventSize: 8 << 20}) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, event)
	}
	if !slices.Equal(got, expected) {
		t.Errorf("events of a client: got %.200q, want %.200q", fmt.Sprint(got), fmt.Sprint(expected))
	}

	// The id is the last line, because some clients store it as soon as they read the line.
	if !bytes.HasSuffix(f.block(), []byte("\nid: "+id+"\n\n")) {
		t.Errorf("block: got %.200q, want it to end with its id", f.block())
	}
	// The block ends only once, at its end, so a client reads the whole event.
	if i := bytes.Index(f.block(), []byte("\n\n")); i != len(f.block())-2 || bytes.ContainsRune(f.block(), '\r') {
		t.Errorf("block: got %.200q, want no empty line and no CR before its end", f.block())
	}
}

func TestEncodeLargestEvent(t *testing.T) {
	for _, text := range []string{strings.Repeat("x", 1<<20), strings.Repeat("\n", 1<<20), strings.Repeat("\r\n", 1<<19), strings.Repeat("a\r", 1<<19)} {
		e := Event{Data: []byte(text), Targets: []Target{{}}}
		if err := e.validate(DefaultMaxEventSize); err != nil {
			t.Fatal(err)
		}
		checkEncoding(t, &e, ^uint64(0))
	}
}

func TestEncodeForm(t *testing.T) {
	h := newHub(t, Options{})
	for _, tt := range []struct {
		event Event
		block string
	}{
		{Event{}, "data: \nid: %s\n\n"},
		{Event{Data: []byte(`{"a":1}`)}, "data: {\"a\":1}\nid: %s\n\n"},
		{Event{Type: "t", Data: []byte("a\nb\r\n")}, "event: t\ndata: a\ndata: b\ndata: \nid: %s\n\n"},
	} {
		tt.event.Targets = []Target{{}}
		receipts, err := h.Publish(t.Context(), tt.event)
		if err != nil {
			t.Fatal(err)
		}
		block := h.history.entry(h.history.head).frame.block()
		want(t, "block", string(block), fmt.Sprintf(tt.block, receipts[0].Position))
	}
}

func TestValidate(t *testing.T) {
	valid := func(change func(*Event)) Event {
		e := Event{Type: "t", Data: []byte("d"), Targets: []Target{{Kind: User, Name: "u"}}}
		change(&e)
		return e
	}
	targets := func(n int) (ts []Target) {
		for i := range n {
			ts = append(ts, user(fmt.Sprint("u", i)))
		}
		return ts
	}
	for name, tt := range map[string]struct {
		change func(*Event)
		is     error
		says   string
	}{
		"valid":             {func(e *Event) {}, nil, ""},
		"no type":           {func(e *Event) { e.Type = "" }, nil, ""},
		"no data":           {func(e *Event) { e.Data = nil }, nil, ""},
		"reserved-like":     {func(e *Event) { e.Type = "sse" }, nil, ""},
		"NUL in data":       {func(e *Event) { e.Data = []byte{0} }, nil, ""},
		"as large as can":   {func(e *Event) { e.Data = make([]byte, 99) }, nil, ""},
		"key of 128":        {func(e *Event) { e.Key = strings.Repeat("k", 128) }, nil, ""},
		"1000 targets":      {func(e *Event) { e.Targets = targets(1000) }, nil, ""},
		"reserved":          {func(e *Event) { e.Type = "sse.gap" }, ErrInvalid, "reserved"},
		"open":              {func(e *Event) { e.Type = "open" }, ErrInvalid, "reserved"},
		"error":             {func(e *Event) { e.Type = "error" }, ErrInvalid, "reserved"},
		"errors":            {func(e *Event) { e.Type = "errors" }, nil, ""},
		"name of 512":       {func(e *Event) { e.Targets[0].Name = strings.Repeat("n", 512) }, nil, ""},
		"name of 513":       {func(e *Event) { e.Targets[0].Name = strings.Repeat("n", 513) }, ErrInvalid, "at most 512"},
		"CR in type":        {func(e *Event) { e.Type = "a\rb" }, ErrInvalid, "type must not contain"},
		"LF in type":        {func(e *Event) { e.Type = "a\nb" }, ErrInvalid, "type must not contain"},
		"NUL in type":       {func(e *Event) { e.Type = "a\x00" }, ErrInvalid, "type must not contain"},
		"type not UTF-8":    {func(e *Event) { e.Type = "\xff" }, ErrInvalid, "UTF-8"},
		"data not UTF-8":    {func(e *Event) { e.Data = []byte("\xc3") }, ErrInvalid, "UTF-8"},
		"key of 129":        {func(e *Event) { e.Key = strings.Repeat("k", 129) }, ErrInvalid, "at most 128"},
		"no target":         {func(e *Event) { e.Targets = nil }, ErrInvalid, "no target"},
		"1001 targets":      {func(e *Event) { e.Targets = targets(1001) }, ErrInvalid, "at most 1000"},
		"too large":         {func(e *Event) { e.Data = make([]byte, 100) }, ErrTooLarge, "at most 100"},
		"too large by type": {func(e *Event) { e.Type = strings.Repeat("t", 100) }, ErrTooLarge, "at most 100"},
		"unnamed user":      {func(e *Event) { e.Targets[0].Name = "" }, ErrInvalid, "name must not be empty"},
		"named all":         {func(e *Event) { e.Targets[0].Kind = All }, ErrInvalid, "name"},
		"second is bad":     {func(e *Event) { e.Targets = append(e.Targets, Target{User, ""}) }, ErrInvalid, "name"},
		"pattern":           {func(e *Event) { e.Targets[0] = topic("a/*") }, ErrInvalid, "exact topics"},
		"internal kind":     {func(e *Event) { e.Targets[0].Kind = pattern }, ErrInvalid, "unknown kind"},
		"unknown kind":      {func(e *Event) { e.Targets[0].Kind = 77 }, ErrInvalid, "unknown kind"},
	} {
		e := valid(tt.change)
		err := e.validate(100)
		if !errors.Is(err, tt.is) || err != nil && !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: got error %v, want %v with the text %q", name, err, tt.is, tt.says)
		}
	}
}

func TestHostileTypesAreRefusedOrFramed(t *testing.T) {
	for _, s := range hostile {
		e := Event{Type: s, Targets: []Target{{}}}
		refused := e.validate(1<<20) != nil
		want(t, fmt.Sprintf("type %.20q refused", s), refused, !utf8.ValidString(s) || strings.ContainsAny(s, "\r\n\x00"))
		if !refused {
			checkEncoding(t, &e, 1)
		}
	}
}

func FuzzParsePosition(f *testing.F) {
	for _, s := range append([]string{"a-0", "a-1", "a-01", "a--1", "-1", "a-", "a-+1", "a-18446744073709551615", "a-18446744073709551616", "a-1-2", "a-1-x7d2", "a-1-x7d2-", "a-1-", "a-1-x7d22", "a-1-x7dl", "a-1-X7D2", "a-1-x7\x002"}, hostile...) {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, ok := ParsePosition(s)
		if ok != (p != Position{} && p.String() == s) {
			t.Errorf("ParsePosition(%q): got %v, %v, want a position with the same text, or false", s, p, ok)
		}
	})
}

func TestPositionRoundTrip(t *testing.T) {
	seen := make(map[string]bool)
	for i := range uint64(64) {
		p := Position{Epoch: NewEpoch(), Seq: 1<<i - 1}
		if i%2 == 1 {
			p.Tag = TagOf([]byte(p.Epoch))
		}
		if q, ok := ParsePosition(p.String()); !ok || p != q {
			t.Errorf("ParsePosition of %v: got %v, %v", p, q, ok)
		}
		if seen[p.Epoch] || len(p.Epoch) != 8 {
			t.Errorf("epoch: got %q, want 8 characters that are new", p.Epoch)
		}
		seen[p.Epoch] = true
	}
}

// An event of many short lines takes more bytes on a stream than it has. It is refused before the
// length of its chunk, or its size in the history, overflows.
func TestEventOfManyLinesIsTooLarge(t *testing.T) {
	lines := bytes.Repeat([]byte{'\n'}, maxBlock/8+1)
	e := Event{Data: lines, Targets: []Target{{}}}
	wantErr(t, e.validate(MaxEventSizeLimit), ErrTooLarge)
	e.Type, e.Data = "a type of 16 byte", lines[:len(lines)-3]
	wantErr(t, e.validate(MaxEventSizeLimit), ErrTooLarge)
	e.Type = ""
	if err := e.validate(MaxEventSizeLimit); err != nil {
		t.Errorf("error of an event at the limit: got %v, want none", err)
	}
}
